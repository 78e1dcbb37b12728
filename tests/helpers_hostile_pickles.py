"""Hand-made .pkl and .pth files that try to run code, to crash the reader or to take all memory and time.

Each function takes the path of a canary, a file that exists only if code of the hostile file was run, and returns
{name: (content, pattern of the reader's message, or None if the reader may accept the file)}.
"""

import functools
import io
import os
import pickle
import struct
import zipfile

import numpy as np
from helpers_hostile_arrays import with_huge_directory

_STOP = b"."
_DTYPE = (
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR(K\x03"
    b"X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
_EMPTY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"


class _Reduced:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


class _State(dict):
    """Unpickled by copyreg's __newobj__ and a state."""

    def __reduce_ex__(self, protocol):
        return functools.partial(os.system, f"touch {self['canary']}"), ()


def _array(shape, data, dtype=_DTYPE):
    """A pickled array from a pickled shape and pickled data, which need not agree."""
    return _EMPTY_ARRAY + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def _blob(size):
    return b"B" + struct.pack("<I", size) + bytes(size)


def _unfolding(levels, leaf=b"N", wide=2):
    """One value that unfolds to `wide` ** levels values; a short file, because all are shared."""
    return leaf + (b"2" * (wide - 1) + {2: b"\x86", 3: b"\x87"}[wide]) * levels


def _long(number):
    return b"L" + str(number).encode() + b"L\n"


def hostile_pickles(canary):
    """Pickles: code, forged arrays, bombs of memory and of time."""
    touch = f"touch {canary}"
    made = {
        "system": (pickle.dumps({"param_mean": _Reduced(os.system, (touch,))}, 2), "posix.system"),
        "eval": (pickle.dumps([_Reduced(eval, (f"open({str(canary)!r}, 'w')",))], 4), "builtins.eval"),
        "partial": (pickle.dumps(_Reduced(functools.partial(os.system, touch), ()), 4), "functools.partial"),
        "state": (pickle.dumps(_State(canary=canary), 2), "functools.partial"),
        "copyreg": (b"\x80\x02ccopyreg\n_reconstructor\n(cposix\nsystem\ncbuiltins\nobject\nNtR.", "copyreg"),
        "instance": (f"(S'{touch}'\nios\nsystem\n.".encode(), "os.system"),
        "new_object": (f"\x80\x04cposix\nsystem\n(S'{touch}'\nt\x81.".encode("latin-1"), "posix.system"),
        "load": (pickle.dumps(_Reduced(np.load, (str(canary), None, True)), 4), "numpy.*load"),
        "stand_in": (b"\x80\x04cnumpy\nndarray\n(X\x01\0\0\0atR.", "calls ndarray"),
        "objects": (pickle.dumps(np.array([_Reduced(os.system, (touch,))], object), 4), "objects|posix"),
        "huge_shape": (_array(b"(" + _long(2**62) + _long(2**62) + b"t", b"C\x01a") + _STOP, "impossible array shape"),
        "negative_shape": (_array(b"(J\xff\xff\xff\xfft", b"C\x01a") + _STOP, "impossible array shape"),
        "nothing_of_huge": (_array(b"(K\x00" + _long(2**39) * 2 + b"t", b"C\x00") + _STOP, "impossible array shape"),
        "dimensions": (_array(b"(" + b"K\x01" * 4000 + b"t", b"C\x01a") + _STOP, "impossible array shape"),
        "copies": (
            b"\x80\x04]" + _blob(2**20) + b"q\x010(" + _array(b"(" + _long(2**20) + b"t", b"h\x01") * 2000 + b"e.",
            "more data than",
        ),
        "byte_copies": (
            b"\x80\x04]" + _blob(2**20) + b"q\x010(" + b"cbuiltins\nbytearray\n(h\x01tR" * 5000 + b"e.",
            "more data than",
        ),
        "unfolding": (b"\x80\x04" + _unfolding(45) + _STOP, "unfolds"),
        "unfolding_arrays": (
            b"\x80\x04" + _unfolding(20, _array(b"(" + _long(2**20) + b"t", _blob(2**20))) + _STOP,
            "unfolds",
        ),
        "deep": (b"\x80\x04)" + b"\x85" * 250_000 + _STOP, "deep"),
        "deep_key": (b"\x80\x04})" + b"\x85" * 250_000 + b"Ns.", "key"),
        "deep_dictionaries": (b"\x80\x04" + b"}X\x01\0\0\0a" * 80_000 + b"N" + b"s" * 80_000 + _STOP, "deep"),
        "many_deep": (b"\x80\x04)" + b"\x85" * 3_000_000 + _STOP, "opcodes"),
        "sets": (b"\x80\x04(" + b"\x8f" * 10_000_000 + b"l.", "opcodes"),
        "long_length": (b"\x80\x02\x8b\xff\xff\xff\x7f" + b"1" * 50 + _STOP, "broken pickle"),
        "long": (b"\x80\x02\x8b" + struct.pack("<I", 2**24) + b"\x7f" * 2**24 + _STOP, "bits"),
        "long_text": (b"L" + b"9" * 5_000_000 + b"L\n.", "broken pickle"),
        "text_length": (b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"abc.", "broken pickle"),
        "bytes_length": (b"\x80\x05\x96" + struct.pack("<Q", 2**64 - 1) + b"abc.", "broken pickle"),
        "frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.", None),
        "same_hash_memo": (b"N" + b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(1, 250_000)) + _STOP, "memo"),
        "same_hash_keys": (
            b"\x80\x02}("
            + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(100, 90_000))
            + b"u.",
            "key",
        ),
        "built_often": (
            _EMPTY_ARRAY
            + b"".join(b"r" + struct.pack("<I", k) for k in range(100_000))
            + b"(K\x01(K\x00t"
            + _DTYPE
            + b"\x89C\x00tr\0\0\0\x100"
            + b"2j\0\0\0\x10b0" * 10_000
            + b"0N.",
            None,
        ),
        "contains_itself": (b"\x80\x02]q\x00" + b"(" + b"h\x00" * 1000 + b"e" + _STOP, "contains itself"),
        "endless_text": (b"S'" + b"\\" * 5_000_001 + b"'\n.", "broken"),
        "compared": (
            b"\x80\x04cnumpy.core.numeric\n_frombuffer\n(C\x02ab"
            + _DTYPE
            + b"(K\x02tX\x01\0\0\0K("
            + _unfolding(60)
            + _unfolding(60)
            + b"ttR.",
            "axes",
        ),
        "printed": (b"\x80\x04cnumpy\ndtype\n(" + _unfolding(60) + b"K\x00K\x01tR.", "type 'tuple'"),
        "big_names": (b"c" + b"a" * 10_000_000 + b"\n" + b"b" * 10_000_000 + b"\n.", "contains aaa"),
    }
    return {f"{name}.pkl": value for name, value in made.items()}


def _zip(pickled, stored=(), method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in stored:
            archive.writestr(f"a/data/{name}", data)
    return file.getvalue()


def _tensor(kind=b"ByteStorage", key=b"0", count=4, shape=(4,), strides=(1,), offset=0):
    """A pickled call of torch._utils._rebuild_tensor_v2."""
    numbers = [b"(" + b"".join(map(_long, values)) + b"t" for values in (shape, strides)]
    storage = b"(X\x07\0\0\0storagectorch\n" + kind + b"\nX" + struct.pack("<I", len(key)) + key
    storage += b"X\x03\0\0\0cpu" + _long(count) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _long(offset) + b"".join(numbers)
    return call + b"\x89ccollections\nOrderedDict\n)RtR"


def _legacy(*pickles):
    return b"".join((pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({}, 2), *pickles))


def _overlapping():
    """A hundred storages that share 4 MB of the file."""
    count = 2**22
    body = b"".join(_tensor(key=b"%d" % k, count=count, shape=(count,)) for k in range(100))
    data = _zip(b"\x80\x02](" + body + b"e.", [("0", bytes(count))])
    start, end = data.rindex(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[start:end]
    table = data[data.index(b"PK\x01\x02") : start] + b"".join(
        entry[:28] + struct.pack("<H", len(f"a/data/{k}")) + entry[30:46] + f"a/data/{k}".encode() for k in range(100)
    )
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 101, 101, len(table), data.index(b"PK\x01\x02"), 0)
    return data[: data.index(b"PK\x01\x02")] + table + tail


def hostile_checkpoints(canary):
    """Checkpoints of PyTorch in both forms: code, forged tensors, bombs."""
    system = pickle.dumps({"res_state_dict": _Reduced(os.system, (f"touch {canary}",))}, 2)
    body, one = b"\x80\x02](%be.", [("0", b"abcd")]
    pickled = {
        "two_sizes": (
            body % (_tensor() + _tensor(b"DoubleStorage", count=2**24, shape=(2**24,))),
            one,
            "two types|has 4 bytes",
        ),
        "negative_stride": (body % _tensor(strides=(-1,)), one, "impossible shape"),
        "negative_offset": (body % _tensor(offset=-4096), one, "impossible shape"),
        "beyond": (body % _tensor(strides=(2**30,)), one, "beyond its storage"),
        "larger": (body % _tensor(shape=(2**20, 2**19), strides=(0, 0)), one, "larger than its storage"),
        "overflow": (body % _tensor(shape=(2**39,) * 4, strides=(0,) * 4), one, "impossible array shape|larger"),
        "nothing_of_huge": (body % _tensor(shape=(0, 2**39, 2**39), strides=(1, 1, 1)), one, "impossible array shape"),
        "claims": (body % _tensor(count=2**38, shape=(2**38,)), one, "unfolds"),
        "same_often": (body % (_tensor(count=2**20, shape=(2**20,)) * 2000), [("0", bytes(2**20))], "unfolds"),
        "bare_storage": (b"\x80\x02ctorch\nFloatStorage\n.", (), "unfinished"),
        "parameter": (b"\x80\x02ctorch._utils\n_rebuild_parameter\n(cposix\nsystem\ntR.", (), "posix.system"),
        "wrong_call": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02(t(ttR.", (), "without a storage"),
        "called_storage": (b"\x80\x02ctorch\nFloatStorage\n(K\x01tR.", (), "unexpected way"),
        "jit": (b"\x80\x02ctorch.jit._pickle\nrestore_type_tag\n(NtR.", (), "torch.jit"),
        "reference": (b"\x80\x02(" + _unfolding(60) + b"K\x01K\x02K\x03K\x04tQ.", (), "unknown reference"),
        "many": (body % (_unfolding(9, _tensor(), 3) + b"2" * 10), one, None),
    }
    made = {
        "system_zip": (_zip(system), "posix.system"),
        "system_old": (_legacy(system), "posix.system"),
        "system_first": (system, "posix.system"),
        "two_sizes_old": (
            _legacy(
                body % (_tensor() + _tensor(b"DoubleStorage", count=2**24, shape=(2**24,))),
                b"\x80\x02](X\x01\0\0\x000e." + struct.pack("<Q", 4) + b"abcd",
            ),
            "two types|unfolds",
        ),
        "deep_keys_old": (
            _legacy(b"\x80\x02](" + _tensor() + b"e.", b"\x80\x02]" + _unfolding(9) + b"a."),
            "no tensor uses",
        ),
        "count_old": (_legacy(body % _tensor(), b"\x80\x02](X\x01\0\0\x000e." + b"\xff" * 8), "elements"),
        "packed_pickle": (_zip(b"N" * 300_000_000, method=zipfile.ZIP_DEFLATED), "at most 16777216"),
        "lzma": (_zip(b"N.", method=zipfile.ZIP_LZMA), "unknown method"),
        "directory": (with_huge_directory(_zip(b"N.")), "table of contents"),
        "overlapping": (_overlapping(), "unfolds|more data"),
        "no_zip": (b"PK\x03\x04" + bytes(1000), "zip"),
    }
    made |= {name: (_zip(content, stored), message) for name, (content, stored, message) in pickled.items()}
    return {f"{name}.pth.tar": value for name, value in made.items()}
