"""Good files of every format, and damaged versions of them: mutation k of a format is always the same."""

import io
import pathlib
import pickle
import struct
import tempfile
import zipfile
import zlib

import numpy as np
import scipy.io

import helpers_face_files
import helpers_torch_files

SEED = 20_000
_LENGTHS = (0, 1, 7, 0x7F, 0xFF, 0xFFFF, 2**20, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1)


def _saved(save, suffix):
    """The bytes of a file that save(path) writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"good{suffix}"
        save(path)
        return path.read_bytes()


def _whitening():
    random = np.random.default_rng(0)
    return {"param_mean": random.normal(size=62).astype("f4"), "param_std": random.uniform(1, 2, 62).astype("f4")}


def _state():
    random = np.random.default_rng(1)
    return {"epoch": 3, "res_state_dict": {
        "module.conv1.weight": random.normal(size=(4, 4, 3, 3)).astype("f4"),
        "module.bn1.running_mean": random.normal(size=4).astype("f4"), "module.count": np.array(7, "i8"),
        "module.turned": np.asfortranarray(random.normal(size=(3, 5)))}}  # fmt: skip


def _mat_300w_lp():
    values = helpers_face_files.parameters()
    return {**values, "roi": np.array([[1, 1, 450, 450]], np.int16), "pt2d": np.ones((2, 68)), "Illum_Para": np.ones((1, 10)),
            "Color_Para": np.ones((1, 7), np.float32), "Tex_Para": np.random.default_rng(2).normal(size=(199, 1)),
            "name": "image"}  # fmt: skip


def _npz_arrays():
    random = np.random.default_rng(3)
    return {"name": np.array(["a.jpg", "bc.jpg", "d.jpg"]), "landmarks": random.normal(size=(3, 68, 2)).astype("f4"),
            "seen": np.array([True, False, True]), "turned": np.asfortranarray(random.normal(size=(4, 5)))}  # fmt: skip


KINDS = {
    "pickle_2": (".pkl", lambda: pickle.dumps(_whitening(), 2)),
    "pickle_4": (".pkl", lambda: pickle.dumps(_whitening(), 4)),
    "checkpoint_zip": (".tar", lambda: _saved(lambda path: helpers_torch_files.save_zip(path, _state()), ".tar")),
    "checkpoint_old": (".tar", lambda: _saved(lambda path: helpers_torch_files.save_legacy(path, _state()), ".tar")),
    "mat": (".mat", lambda: _saved(lambda path: scipy.io.savemat(path, _mat_300w_lp()), ".mat")),
    "mat_packed": (".mat", lambda: _saved(
        lambda path: scipy.io.savemat(path, _mat_300w_lp(), do_compression=True), ".mat")),
    "npy": (".npy", lambda: _saved(lambda path: np.save(path, _npz_arrays()["landmarks"]), ".npy")),
    "npz": (".npz", lambda: _saved(lambda path: np.savez(path, **_npz_arrays()), ".npz")),
    "npz_packed": (".npz", lambda: _saved(lambda path: np.savez_compressed(path, **_npz_arrays()), ".npz")),
}  # fmt: skip


def good_file(kind):
    """(suffix, content) of the good file of a format."""
    suffix, make = KINDS[kind]
    return suffix, make()


def mutant(kind, good, index):
    """Mutation `index` of the good file; every second one of a packed format is damaged inside its packing."""
    random = np.random.default_rng([SEED, list(KINDS).index(kind), index])
    if index % 2 and kind == "mat_packed":
        return _inside_mat(good, random)
    if index % 2 and kind in ("checkpoint_zip", "npz", "npz_packed"):
        return _inside_zip(good, random)
    return damaged(good, random)


def damaged(data, random):
    """One to four mutations, one after the other."""
    data = bytearray(data)
    for _ in range(random.integers(1, 5)):
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
