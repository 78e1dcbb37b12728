"""twodal_jax.io.pickle_arrays reads what NumPy writes and refuses everything else by name."""

import os
import pickle
import pickletools

import numpy as np
import pytest

from twodal_jax.io import pickle_arrays
from twodal_jax.io.pickle_arrays import PickleError

ARRAYS = {
    "param_mean": np.arange(62, dtype=np.float32),
    "matrix": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "big_endian": np.arange(5, dtype=">f8"),
    "flags": np.array([True, False]),
    "names": np.array(["a", "bcd"]),
    "raw": np.array([b"xy", b"z"]),
    "scalar": np.float32(1.5),
    "zero_d": np.array(7),
    "nothing": np.zeros((0, 3)),
    "complex": np.array([1 + 2j]),
    "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
    "plain": [1, 2.5, -(2**70), "text", b"bytes\xff", None, True, (1, (2, 3)), {"a": {4}}, frozenset([1]), b""],
    "bytearray": bytearray(b"q"),
}


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_returns_what_was_written(protocol):
    assert_same(pickle_arrays.loads(pickle.dumps(ARRAYS, protocol)), ARRAYS)


@pytest.mark.parametrize("protocol", range(3))
def test_files_of_numpy_1_and_python_2_are_read(protocol):
    data = pickle.dumps({"u": np.arange(300, dtype=np.float32)}, protocol)
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(pickle_arrays.loads(old)["u"], np.arange(300, dtype=np.float32))


# Python 2.7 with NumPy 1.16: pickle.dumps({'a': np.array([1., -2.], 'f4')}, protocol)
PYTHON_2 = {
    0: b"(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\n"
    b"S'b'\np5\ntp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n(I3\n"
    b"S'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\np15\ntp16\nb"
    b"s.",
    2: b"\x80\x02}q\x00U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00"
    b"\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f4q\nK\x00K\x01"
    b"\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x08\x00"
    b"\x00\x80?\x00\x00\x00\xc0q\x0ftq\x10bs.",
}


@pytest.mark.parametrize("protocol", PYTHON_2)
def test_byte_strings_of_python_2_are_read(protocol):
    array = pickle_arrays.loads(PYTHON_2[protocol])["a"]
    np.testing.assert_array_equal(array, np.array([1.0, -2.0], np.float32))


def test_arrays_are_writable_and_shared_arrays_stay_shared():
    array = np.arange(3.0)
    first, second, (third,) = pickle_arrays.loads(pickle.dumps([array, array, (array,)]))
    first[0] = 9.0
    assert second[0] == 9.0 and third[0] == 9.0


class Hostile:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


HOSTILE = [
    (Hostile(os.system, "touch {marker}"), "posix.system"),
    (Hostile(eval, "1"), "builtins?.eval|__builtin__.eval"),
    (Hostile(getattr, "text", "upper"), "getattr"),
    (np.load, "numpy.*load"),
    (np.float32, "numpy.float32"),
    (np.array([{"a": 1}], dtype=object), "objects"),
    (np.zeros(2, [("x", "f4"), ("y", "i4")]), "records|unknown"),
    (np.array(["2020-01-01"], "M8[D]"), "type 'M8'"),
    (pickle.Pickler, "Pickler"),
]


@pytest.mark.parametrize("protocol", (0, 2, 4, 5))
@pytest.mark.parametrize("value, message", HOSTILE, ids=[message for _, message in HOSTILE])
def test_every_other_object_is_refused_by_name(value, message, protocol, tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"param_mean": value}, protocol))
    with pytest.raises(PickleError, match=message) as error:
        pickle_arrays.load(path)
    assert str(path) in str(error.value)


def test_a_hostile_file_runs_no_code(tmp_path):
    marker = tmp_path / "marker"
    for code in (f"cos\nsystem\n(S'touch {marker}'\ntR.", f"(S'touch {marker}'\nios\nsystem\n."):
        with pytest.raises(PickleError, match="os.system"):
            pickle_arrays.loads(code.encode())
    assert not marker.exists()


class Forged:
    """An array with any state, also an invalid one."""

    def __init__(self, shape, data):
        self.state = (1, shape, np.dtype("f4"), False, data)

    def __reduce__(self):
        return (*np.zeros(1).__reduce__()[:2], self.state)


def test_forged_array_states_are_errors():
    good = pickle.dumps(Forged((2,), b"\0" * 8))
    assert pickle_arrays.loads(good).shape == (2,)
    for shape, data in [
        ((2**39,), b"\0" * 8),
        ((2**62, 2**62), b""),
        ((-1,), b"\0" * 8),
        ((2,), b"\0" * 7),
        ((2,), [1, 2]),
        ((0, 2**39, 2**39), b""),
        ((1,) * 40, b"\0" * 4),
        ("ab", b"\0" * 8),
        ((True,), b"\0" * 4),
        ((2.0,), b"\0" * 8),
        (2, b"\0" * 8),
    ]:
        with pytest.raises(PickleError):
            pickle_arrays.loads(pickle.dumps(Forged(shape, data), 3))


def test_every_truncation_is_an_error():
    data = pickle.dumps(ARRAYS, 4)
    for length in range(0, len(data), 7):
        with pytest.raises(PickleError):
            pickle_arrays.loads(data[:length])


def test_random_damage_raises_no_other_error():
    random = np.random.default_rng(0)
    for protocol in (0, 2, 4, 5):
        data = np.frombuffer(pickle.dumps(ARRAYS, protocol), np.uint8)
        for _ in range(1500):
            broken = data.copy()
            places = random.integers(0, len(data), random.integers(1, 4))
            broken[places] = random.integers(0, 256, len(places))
            try:
                pickle_arrays.loads(broken.tobytes())
            except PickleError:
                pass


def test_deep_nesting_and_cycles_are_refused():
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with pytest.raises(PickleError, match="deep"):
        pickle_arrays.loads(deep)
    assert pickle_arrays.loads(b"\x80\x02" + b"]" * 50 + b"a" * 49 + b".") != []
    nested_key = b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns."
    with pytest.raises(PickleError, match="key"):
        pickle_arrays.loads(nested_key)
    cycle = [1]
    cycle.append(cycle)
    for value in (cycle, {"a": [(cycle, 2)]}):
        with pytest.raises(PickleError, match="contains itself"):
            pickle_arrays.loads(pickle.dumps(value))


def test_shared_containers_stay_shared_and_may_not_unfold_to_too_much_data():
    inner = [1, 2]
    first, second = pickle_arrays.loads(pickle.dumps([inner, inner]))
    assert first is second
    for _ in range(30):  # 2 ** 30 numbers in some hundred bytes
        inner = [inner, inner]
    with pytest.raises(PickleError, match="unfolds"):
        pickle_arrays.loads(pickle.dumps(inner))


def test_every_opcode_is_handled_or_refused():
    for opcode in pickletools.opcodes:
        with pytest.raises(PickleError):
            pickle_arrays.loads(opcode.code.encode("latin-1"))


def test_files_that_are_not_pickles_are_named(tmp_path):
    path = tmp_path / "x.pkl"
    for content in (b"", b"\x89PNG....", b"hello world"):
        path.write_bytes(content)
        with pytest.raises(PickleError, match="x.pkl"):
            pickle_arrays.load(path)
    with pytest.raises(PickleError, match="No such file"):
        pickle_arrays.load(tmp_path / "missing.pkl")
