"""Hand-made .mat, .npy and .npz files that try to run code, to crash the reader or to take all memory and time.

Each function takes the path of a canary, a file that exists only if code of the hostile file was run, and returns
{name: (content, pattern of the reader's message, or None if the reader may accept the file)}.
"""

import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np

_HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
_DOUBLE = 9


def _element(kind, data, claims=None):
    """An element of a .mat file with its tag and padding; `claims` is a forged length."""
    return struct.pack("<II", kind, len(data) if claims is None else claims) + data + bytes(-len(data) % 8)


def matrix(shape=(1, 1), data=bytes(8), kind=6, stored=_DOUBLE, name=b"tri", claims=None, sides=None, whole=None):
    """A variable of class `kind` with numbers of type `stored`; `claims`, `sides` and `whole` are forged lengths."""
    parts = _element(6, struct.pack("<II", kind, 0))
    parts += _element(5, struct.pack(f"<{len(shape)}i", *shape), sides) + _element(1, name)
    parts += _element(stored, data, claims)
    return struct.pack("<II", 14, len(parts) if whole is None else whole) + parts


def packed(data, level=1):
    """A compressed variable of this content."""
    data = zlib.compress(data, level)
    return struct.pack("<II", 15, len(data)) + data


def _bomb(megabytes):
    """A valid compressed variable of so many MB of zeros, made without holding them."""
    count = megabytes * 2**17
    packer = zlib.compressobj(9)
    parts = [packer.compress(matrix((count, 1), b"", claims=8 * count, whole=8 * count + 56))]
    parts += [packer.compress(bytes(2**20)) for _ in range(megabytes)]
    data = b"".join([*parts, packer.flush()])
    return struct.pack("<II", 15, len(data)) + data


def _nested_cells(depth):
    before = _element(6, struct.pack("<II", 1, 0)) + _element(5, struct.pack("<2i", 1, 1)) + _element(1, b"tri")
    parts, inside = [], len(matrix())
    for _ in range(depth):
        inside += len(before) + 8
        parts.append(struct.pack("<II", 14, inside - 8) + before)
    return b"".join([*reversed(parts), matrix()])


def hostile_mats(canary):
    """MATLAB files: forged sizes, bombs, code, deep nesting."""
    function = matrix(kind=16, name=b"tri", data=f"@() system('touch {canary}')".encode(), stored=1)
    opaque = _element(6, struct.pack("<II", 17, 0))
    opaque += b"".join(_element(1, text) for text in (b"tri", b"java", b"java.lang.Runtime"))
    opaque = _element(14, opaque + function)
    sparse = _element(6, struct.pack("<II", 5, 2**31 - 1)) + _element(5, struct.pack("<2i", 4, 4)) + _element(1, b"tri")
    sparse += _element(5, struct.pack("<2i", -5, 2**30)) + _element(5, bytes(20)) + matrix()
    sparse = _element(14, sparse)
    made = {
        "function": (function, "`tri` is a function"),
        "java_object": (opaque, "`tri` is an object"),
        "sparse": (sparse, "`tri` is a sparse"),
        "overflow": (matrix((2**31 - 1,) * 4), "impossible array shape"),
        "too_large": (matrix((2**31 - 1, 4)), "takes 68719476704 bytes, the file has 8"),
        "claims": (matrix((2**24, 1), claims=2**27), "a part is longer than the whole"),
        "claims_all": (matrix((2**29 - 1, 1), claims=2**32 - 8, whole=2**32 - 1), "ends early"),
        "negative": (matrix((-1, -1)), "impossible array shape"),
        "nothing_of_huge": (matrix((0, 2**31 - 1, 2**31 - 1), b""), "impossible array shape"),
        "dimensions": (matrix((1,) * 5000), "another form"),
        "sides": (matrix(sides=2**32 - 1), "another form"),
        "no_sides": (matrix(()), "no dimensions"),
        "name_length": (matrix(name=b"x" * 100_000), "another form"),
        "small_element": (matrix().replace(struct.pack("<II", 5, 8), struct.pack("<HHI", 5, 65535, 8)), "small ele"),
        "unknown_numbers": (matrix(stored=77), "unknown type"),
        "packed_claims": (packed(matrix((2**24, 1), claims=2**27, whole=2**27 + 56)), "more than zlib can pack"),
        "bomb": (_bomb(600), "more memory"),
        "bombs": (_bomb(100) * 30, "more memory"),
        "bomb_behind": (packed(matrix() + bytes(2**26)), "longer than it says"),
        "packed_twice": (packed(packed(matrix())), "type 15 where a variable"),
        "packed_cells": (packed(_nested_cells(200_000)), "`tri` is a cell"),
        "cells": (_nested_cells(200_000), "`tri` is a cell"),
        "empty_variables": (struct.pack("<II", 14, 0) * 2_000_000, "more than 10,000 variables"),
        "text_of_nothing": (matrix((1, 2**31 - 1), b"abc", kind=4, stored=16), "characters where"),
        "text_surrogates": (matrix((1, 4), b"\x00\xd8" * 4, kind=4, stored=17), "decode"),
        "text_numbers": (matrix((1, 1), b"\xff\xff\xff\x7f", kind=4, stored=18), "decode"),
        "text_shape": (matrix((2**31 - 1, 0, 2**31 - 1), b"", kind=4, stored=16), "impossible array shape"),
        "pickle": (pickle.dumps(os.getcwd), "no MATLAB file"),
    }
    return {f"{name}.mat": (data if name == "pickle" else _HEAD + data, text) for name, (data, text) in made.items()}


def npy(header, data=b"", version=1, length=None):
    """A .npy file with any text as its header."""
    width = 2 if version == 1 else 4
    length = len(header) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(width, "little") + header + data


def _form(descr="'<f8'", shape="(2, 2)", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()


def npz(members, method=zipfile.ZIP_STORED):
    """A .npz file of ready members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def with_huge_directory(archive):
    """A zip of one member, with 150,000 entries for it in its table of contents."""
    start, end = archive.index(b"PK\x01\x02"), archive.index(b"PK\x05\x06")
    table = archive[start:end] * 150_000
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(table), start, 0)
    return archive[:start] + table + tail


def _npz_bomb(megabytes, members=1):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member in range(members):
            with archive.open(f"part{member}.npy", "w") as stream:
                stream.write(npy(_form(shape=f"({megabytes * 2**17},)")))
                for _ in range(megabytes):
                    stream.write(bytes(2**20))
    return file.getvalue()


class _Code:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def hostile_npys(canary):
    """.npy and .npz files: pickles inside, code in the header, forged sizes, bombs."""
    objects = io.BytesIO()
    np.save(objects, np.array([_Code(canary)], object), allow_pickle=True)
    good = npy(_form(), bytes(32))
    code = f"__import__('os').system('touch {canary}')"
    made = {
        "objects": (objects.getvalue(), "objects"),
        "pickle": (pickle.dumps(_Code(canary)), "no .npy data"),
        "code_for_shape": (npy(_form(shape=f"({code},)"), bytes(32)), "another form"),
        "code_for_type": (npy(_form(descr=code), bytes(32)), "another form"),
        "ten_gigabytes": (npy(_form(shape="(1250000000,)")), "takes 10000000000 bytes"),
        "huge": (npy(_form(shape="(4611686018427387904, 4)")), "impossible array shape"),
        "negative": (npy(_form(shape="(-1,)")), "another form"),
        "nothing_of_huge": (npy(_form(shape="(0, 9000000000000000, 900)")), "impossible array shape"),
        "no_size": (npy(_form(descr="'<U0'", shape="(1000000000000,)")), "impossible array shape"),
        "long_text": (npy(_form(descr="'<U999999999'", shape="(1,)")), "type '<U999999999'"),
        "records": (npy(_form(descr="[('a', [('b', '<f8', (1000000, 1000000))])]")), "records"),
        "deep_header": (npy(b"{'descr': " + b"(" * 60_000 + b"}"), "header of"),
        "deep_short_header": (npy(b"{'descr': " + b"[" * 9_000 + b"}"), "another form"),
        "digits": (npy(_form(shape="(" + "1" * 9_000 + ")")), "another form"),
        "sides": (npy(_form(shape="(" + "1," * 4_000 + ")")), "another form"),
        "header_length": (npy(_form(), version=2, length=2**32 - 1), "header of 4294967295"),
        "cut_header": (npy(_form(), length=5_000), "ends within its header"),
        "truth": (npy(_form(descr="'|b1'", shape="(64,)"), b"\xff" * 64), "booleans"),
        "characters": (npy(_form(descr="'<U2'", shape="(4,)"), b"\xff" * 32), "not characters"),
        "surrogates": (npy(_form(descr="'<U1'", shape="(1,)"), struct.pack("<I", 0xD800)), "not characters"),
        "too_much": (good + bytes(8), "takes 32 bytes, the file has 40"),
    }
    lzma, encrypted = npz({"a": good}, zipfile.ZIP_LZMA), bytearray(npz({"a": good}))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    sound = npz({"a": good})
    zips = {
        "bomb": (_npz_bomb(400), "unpacks to more memory"),
        "bombs": (_npz_bomb(90, members=3), "unpacks to more memory"),
        "objects": (npz({"a": objects.getvalue()}), "objects"),
        "ten_gigabytes": (npz({"a": npy(_form(shape="(1250000000,)"))}), "takes 10000000000 bytes"),
        "no_arrays": (npz({"a": b"hello"}), "no .npy data"),
        "lzma": (lzma, "unknown method"),
        "encrypted": (bytes(encrypted), "encrypted|password"),
        "directory": (with_huge_directory(sound), "table of contents"),
        "no_zip": (b"PK\x03\x04" + bytes(3_000), "zip"),
    }
    return {f"{name}.npy": value for name, value in made.items()} | {f"{name}.npz": v for name, v in zips.items()}
