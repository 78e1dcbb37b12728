"""Damaged versions of good files: mutation k of a format is always the same. Imports little, to start fast."""

import io
import struct
import zipfile
import zlib

import numpy as np

SEED = 20_000
_ZIPS = ("checkpoint_zip", "npz", "npz_packed")
_LENGTHS = (0, 1, 7, 0x7F, 0xFF, 0xFFFF, 2**20, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1)


def mutant(kind, good, index):
    """Mutation `index` of the good file; every second one of a packed format is damaged inside its packing."""
    random = np.random.default_rng([SEED, zlib.crc32(kind.encode()), index])
    if index % 2 and kind == "mat_packed":
        return _inside_mat(good, random)
    if index % 2 and kind in _ZIPS:
        return _inside_zip(good, random)
    return damaged(good, random)


def damaged(data, random):
    """One mutation, or a few one after the other."""
    data = bytearray(data)
    for _ in range(random.geometric(0.5)):
        _MUTATIONS[random.integers(len(_MUTATIONS))](data, random)
    return bytes(data)


def _place(data, random, size=1):
    """Somewhere in the data; half of the time near its beginning, where headers are."""
    end = max(1, len(data) - size + 1)
    return int(random.integers(min(end, 200) if random.integers(2) else end))


def _flip(data, random):
    for _ in range(random.integers(1, 9)):
        if data:
            data[_place(data, random)] ^= 1 << int(random.integers(8))


def _set_bytes(data, random):
    for _ in range(random.integers(1, 5)):
        if data:
            data[_place(data, random)] = int(random.integers(256))


def _cut(data, random):
    del data[_place(data, random) :]


def _splice(data, random):
    """A piece of the file over another place."""
    source, target, size = _place(data, random), _place(data, random), int(random.integers(1, 65))
    data[target : target + size] = data[source : source + size]


def _repeat(data, random):
    """A piece of the file again behind itself, a few times."""
    place, size = _place(data, random), int(random.integers(1, 300))
    data[place:place] = data[place : place + size] * int(random.integers(1, 5))


def _remove(data, random):
    place = _place(data, random)
    del data[place : place + int(random.integers(1, 65))]


def _set_length(data, random):
    """A number where a length may stand: one of the usual suspects, or a little more or less than it was."""
    size = (1, 2, 4, 8)[random.integers(4)]
    place = _place(data, random, size)
    order = ("little", "big")[random.integers(2)]
    was = int.from_bytes(data[place : place + size], order)
    choices = (*_LENGTHS, was + 1, was - 1, 2 * was, was + 8, 2**63 - 1, 2**64 - 1)
    value = choices[random.integers(len(choices))] % 256**size
    data[place : place + size] = value.to_bytes(size, order)


def _set_digits(data, random):
    """Another number in text: a shape of a header, an index of a text pickle."""
    digits = [place for place, byte in enumerate(data[:400]) if 48 <= byte < 58]
    if digits:
        place = digits[random.integers(len(digits))]
        data[place : place + 1] = str(int(random.choice([0, 9, 10**9, 2**62, 10**30 % 2**63]))).encode()


_MUTATIONS = (_flip, _set_bytes, _cut, _splice, _repeat, _remove, _set_length, _set_digits)


def _inside_mat(good, random):
    """Damage to one unpacked variable, packed again with a right checksum and length."""
    variables, at = [], 128
    while at < len(good):
        length = struct.unpack_from("<I", good, at + 4)[0]
        variables.append(good[at : at + 8 + length])
        at += 8 + length
    chosen = random.integers(len(variables))
    data = zlib.compress(damaged(zlib.decompress(variables[chosen][8:]), random), 1)
    variables[chosen] = struct.pack("<II", 15, len(data)) + data
    return good[:128] + b"".join(variables)


def _inside_zip(good, random):
    """Damage to one member, with a right checksum."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(file, "w") as target:
        members = source.infolist()
        chosen = random.integers(len(members))
        if random.integers(2):  # data.pkl of a checkpoint more often than its numbers
            chosen = 0
        for place, info in enumerate(members):
            data = source.read(info)
            packing = info.compress_type
            target.writestr(info.filename, damaged(data, random) if place == chosen else data, packing, 1)
    return file.getvalue()
