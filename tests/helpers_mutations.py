"""Damaged versions of valid files; mutation k of a format is always the same. Imports little, to start fast."""

import io
import struct
import zipfile
import zlib

import numpy as np

SEED = 20_000
_ZIPS = ("checkpoint_zip", "npz", "npz_packed")
_LENGTHS = (0, 1, 7, 0x7F, 0xFF, 0xFFFF, 2**20, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1)


def mutant(kind, good, index):
    """Mutation `index` of a valid file; every second one of a packed format damages the unpacked content."""
    random = np.random.default_rng([SEED, zlib.crc32(kind.encode()), index])
    if index % 2 and kind == "mat_packed":
        return _inside_mat(good, random)
    if index % 2 and kind in _ZIPS:
        return _inside_zip(good, random)
    return damaged(good, random)


def damaged(data, random):
    """Applies one or a few mutations."""
    data = bytearray(data)
    for _ in range(random.geometric(0.5)):
        _MUTATIONS[random.integers(len(_MUTATIONS))](data, random)
    return bytes(data)


def _place(data, random, size=1):
    """A random position; half of the time near the beginning, where headers are."""
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
    """Copies a piece of the file over another position."""
    source, target, size = _place(data, random), _place(data, random), int(random.integers(1, 65))
    data[target : target + size] = data[source : source + size]


def _repeat(data, random):
    """Repeats a piece of the file a few times."""
    place, size = _place(data, random), int(random.integers(1, 300))
    data[place:place] = data[place : place + size] * int(random.integers(1, 5))


def _remove(data, random):
    place = _place(data, random)
    del data[place : place + int(random.integers(1, 65))]


def _set_length(data, random):
    """Sets a number that may be a length: a typical extreme, or a little more or less than it was."""
    size = (1, 2, 4, 8)[random.integers(4)]
    place = _place(data, random, size)
    order = ("little", "big")[random.integers(2)]
    was = int.from_bytes(data[place : place + size], order)
    choices = (*_LENGTHS, was + 1, was - 1, 2 * was, was + 8, 2**63 - 1, 2**64 - 1)
    value = choices[random.integers(len(choices))] % 256**size
    data[place : place + size] = value.to_bytes(size, order)


def _set_digits(data, random):
    """Changes a number in text: a shape in a header, an index in a text pickle."""
    digits = [place for place, byte in enumerate(data[:400]) if 48 <= byte < 58]
    if digits:
        place = digits[random.integers(len(digits))]
        data[place : place + 1] = str(int(random.choice([0, 9, 10**9, 2**62, 10**30 % 2**63]))).encode()


_MUTATIONS = (_flip, _set_bytes, _cut, _splice, _repeat, _remove, _set_length, _set_digits)


def _inside_mat(good, random):
    """Damages one unpacked variable and packs it again with a valid checksum and length."""
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
    """Damages one member and gives it a valid checksum."""
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
