"""twodal_jax.io.npy agrees with numpy.load on plain arrays and refuses everything else."""

import io
import os
import zipfile

import numpy as np
import pytest

from twodal_jax.io import npy
from twodal_jax.io.untrusted import BrokenFileError

RANDOM = np.random.default_rng(0)
ARRAYS = {
    **{
        code: RANDOM.integers(0, 100, (3, 4)).astype(code)
        for code in ("i1", "u1", "<i2", ">i2", "<u4", ">i8", "u8", "f2", "f4", ">f4", "f8", "c8", "c16", "?")
    },
    "fortran": np.asfortranarray(RANDOM.normal(size=(3, 5))),
    "cube": RANDOM.normal(size=(2, 3, 4)),
    "scalar": np.array(7.5),
    "nothing": np.zeros((0, 3)),
    "row": np.arange(5),
    "large": RANDOM.normal(size=(400, 500)),
    "text": np.array(["a", "b\u03b1\U0001f600", ""]),
    "bytes": np.array([b"ab", b"c"]),
    "one_text": np.array("hello"),
    "turned_text": np.asfortranarray(np.array([["a", "bb"], ["ccc", "d"]])),
}


def assert_same(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.flags.writeable and found.flags.f_contiguous == expected.flags.f_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_agree_with_numpy(tmp_path, name):
    path = tmp_path / "a.npy"
    np.save(path, ARRAYS[name])
    assert_same(npy.read_npy(path), np.load(path))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(tmp_path, version):
    path = tmp_path / "a.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array(file, ARRAYS["cube"], version)
    assert_same(npy.read_npy(path), ARRAYS["cube"])


def test_headers_of_other_programs_are_accepted(tmp_path):
    path = tmp_path / "a.npy"
    data = np.arange(6, dtype="<f8")
    for header in (
        b"{'shape': (6,), 'fortran_order': False, 'descr': '<f8'}",
        b'{"descr":"<f8","fortran_order":False,"shape":(6,)}',
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (6L,), }      \n",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}",
    ):
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data.tobytes())
        np.testing.assert_array_equal(npy.read_npy(path), np.load(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_agree_with_numpy(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    found = npy.read_npz(path)
    assert list(found) == list(ARRAYS) == npy.npz_names(path)
    for name, array in ARRAYS.items():
        assert_same(found[name], array)
    assert list(npy.read_npz(path, ("cube", "text", "not there"))) == ["cube", "text"]
    with npy.open_array(path, "large") as (header, stream):
        assert header.shape == (400, 500) and header.nbytes == ARRAYS["large"].nbytes
        first = np.frombuffer(stream.read(4000), header.dtype)
    np.testing.assert_array_equal(first, ARRAYS["large"][0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncations_and_a_changed_byte_are_errors_that_name_the_file(tmp_path, save):
    path = tmp_path / "cut.npz"
    save(path, landmarks=RANDOM.normal(size=(2, 5)), name=np.array(["a", "b"]))
    data = path.read_bytes()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(BrokenFileError, match="cut.npz"):
            npy.read_npz(path)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo("landmarks.npy")
    changed = bytearray(data)
    changed[data.index(b"landmarks.npy") + 13 + 20 + info.compress_size // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(BrokenFileError, match="cut.npz"):
        npy.read_npz(path)


def test_paths_that_are_not_regular_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    for path, message in [
        (tmp_path / "none.npy", "No such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe.npy", "not a regular file"),
        ("/dev/zero", "not a regular file"),
    ]:
        with pytest.raises(BrokenFileError, match=message):
            npy.read_npy(path)


def test_a_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(BrokenFileError, match="a.npz.*has no array `vertices`"):
        with npy.open_array(tmp_path / "a.npz", "vertices"):
            pass
