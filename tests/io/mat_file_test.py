"""twodal_jax.io.mat agrees with SciPy on every form of MATLAB file, and refuses other variables by name."""

import os
import pathlib
import struct

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from helpers_run import run_python

from twodal_jax.io import mat
from twodal_jax.io.untrusted import BrokenFileError

needs_data = pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
RANDOM = np.random.default_rng(0)
ARRAYS = {
    **{
        f"of_{code}": RANDOM.integers(0, 100, (3, 4)).astype(code)
        for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?")
    },
    "row": np.arange(7.0)[None],
    "column": np.arange(5.0)[:, None],
    "scalar": 3.5,
    "cube": RANDOM.normal(size=(2, 3, 4)),
    "nothing": np.zeros((0, 3)),
    "none": np.zeros((0, 0)),
    "large": RANDOM.normal(size=(300, 700)),
    "one_byte": np.uint8(7),
    "four_bytes": np.array([[1, 2]], np.int16),
    "a_rather_long_name_" + "x" * 11: np.float32(1),
    "text": "hello",
    "texts": np.array(["ab", "cdef"]),
    "greek": "\u03b1\u03b2\u03b3",
    "no_text": "",
    "zeros": np.zeros((1000, 1000)),
}


def assert_agrees_with_scipy(path, names=None):
    expected = {key: value for key, value in scipy.io.loadmat(path).items() if not key.startswith("__")}
    found = mat.read(path, names)
    assert list(found) == [key for key in expected if names is None or key in names]
    for key, array in found.items():
        assert array.dtype == expected[key].dtype, key
        assert array.shape == expected[key].shape, key
        np.testing.assert_array_equal(array, expected[key])
        assert array.flags.writeable
        if array.dtype.kind != "U":
            assert array.flags.f_contiguous


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_agree_with_scipy(tmp_path, compressed):
    scipy.io.savemat(tmp_path / "a.mat", ARRAYS, do_compression=compressed)
    assert_agrees_with_scipy(tmp_path / "a.mat")
    assert_agrees_with_scipy(tmp_path / "a.mat", ("large", "text", "not there"))
    assert mat.variable_names(tmp_path / "a.mat") == list(ARRAYS)


def big_endian(arrays):
    """A file as a big-endian machine writes it."""
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    for name, (kind, stored, array) in arrays.items():
        name, ndim = name.encode(), array.ndim
        shape, raw = struct.pack(f">{ndim}i", *array.shape), array.tobytes(order="F")
        parts = struct.pack(">IIIIII", 6, 8, kind, 0, 5, len(shape)) + shape + bytes(-len(shape) % 8)
        if len(name) <= 4:
            parts += struct.pack(">HH4s", len(name), 1, name)
        else:
            parts += struct.pack(">II", 1, len(name)) + name + bytes(-len(name) % 8)
        parts += struct.pack(">II", stored, len(raw)) + raw + bytes(-len(raw) % 8)
        data += struct.pack(">II", 14, len(parts)) + parts
    return data


def test_files_of_big_endian_machines_are_read(tmp_path):
    path = tmp_path / "big.mat"
    arrays = {
        "abc": (6, 9, RANDOM.normal(size=(3, 5)).astype(">f8")),
        "Shape_Para": (6, 4, np.arange(6).reshape(2, 3).astype(">u2")),
        "roi": (10, 3, np.arange(4).reshape(1, 4).astype(">i2")),
    }
    path.write_bytes(big_endian(arrays))
    assert_agrees_with_scipy(path)


OTHERS = {
    "a_structure": {"field": 1.0},
    "cells": np.array([1, "two"], object),
    "complex_numbers": np.array([1 + 2j]),
    "sparse": scipy.sparse.eye(4).tocsc(),
    "records": np.zeros(2, [("x", "f4")]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_other_kinds_of_variables_are_skipped_and_refused_by_name_if_asked_for(tmp_path, compressed):
    path = tmp_path / "others.mat"
    scipy.io.savemat(path, {"before": 1.0, **OTHERS, "behind": np.arange(3)}, do_compression=compressed)
    found = mat.read(path)
    assert list(found) == ["before", "behind"]
    np.testing.assert_array_equal(found["behind"], [[0, 1, 2]])
    assert mat.variable_names(path) == ["before", *OTHERS, "behind"]
    for name in OTHERS:
        message = f"others.mat.*`{name}` is a (structure|cell array|complex array|sparse matrix)"
        with pytest.raises(BrokenFileError, match=message):
            mat.read(path, (name,))


def test_other_versions_and_other_files_are_refused_by_name(tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"a": np.zeros((3, 3))}, format="4")
    with pytest.raises(BrokenFileError, match="x.mat.*MATLAB 4.*-v7"):
        mat.read(path)
    for content, message in [
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n", "7.3.*-v7"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "7.3"),
        (b"", "no MATLAB file"),
        (b"hello" * 100, "no MATLAB file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(BrokenFileError, match=f"x.mat.*{message}"):
            mat.read(path)
    os.mkfifo(tmp_path / "pipe.mat")
    for name, message in (("missing.mat", "No such file"), ("pipe.mat", "not a regular file")):
        with pytest.raises(BrokenFileError, match=message):
            mat.read(tmp_path / name)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_an_error(tmp_path, compressed):
    path = tmp_path / "cut.mat"
    scipy.io.savemat(path, {"a": np.arange(40.0), "text": "hello", "b": np.int8(3)}, do_compression=compressed)
    data = path.read_bytes()
    ends = {128}
    while max(ends) < len(data):  # a file that ends between two variables is complete
        at = max(ends)
        ends.add(at + 8 + int.from_bytes(data[at + 4 : at + 8], "little"))
    for length in set(range(len(data))) - ends:
        path.write_bytes(data[:length])
        with pytest.raises(BrokenFileError):
            mat.read(path)


def test_a_changed_bit_of_compressed_data_is_detected(tmp_path):
    path = tmp_path / "packed.mat"
    scipy.io.savemat(path, {"a": RANDOM.normal(size=500)}, do_compression=True)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BrokenFileError, match="packed.mat"):
        mat.read(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_reading_a_large_variable_takes_little_more_memory_than_its_size(tmp_path, compressed):
    path = tmp_path / "large.mat"
    large = RANDOM.integers(0, 2**60, (2**16, 32))  # 16 MB, hardly compressible
    scipy.io.savemat(path, {"before": 1.0, "w": large, "tex": large[:1]}, do_compression=compressed)
    code = (
        "import sys; from helpers_readers import peak_kilobytes; from twodal_jax.io import mat\n"
        "before = peak_kilobytes(); w = mat.read(sys.argv[1], ('w',))['w']\n"
        "print((peak_kilobytes() - before) * 1024 / w.nbytes)\n"
    )
    process = run_python("-c", code, path)
    assert process.returncode == 0, process.stderr
    assert 0.9 < float(process.stdout) < 1.3


@needs_data
def test_real_files_agree_with_scipy():
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"])
    paths = sorted((folder / "aflw2000" / "images").glob("*.mat"))[::8]
    paths += [*(folder / "300w_lp_sample").glob("*.mat"), folder / "bfm_3ddfa" / "tri.mat"]
    assert len(paths) > 100
    for path in paths:
        assert_agrees_with_scipy(path)
