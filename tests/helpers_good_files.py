"""A small valid file of every format that the readers of untrusted files accept, with the content the project uses."""

import pathlib
import pickle
import tempfile

import helpers_face_files
import helpers_torch_files
import numpy as np
import scipy.io


def _saved(save, suffix):
    """The bytes of the file that save(path) writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"good{suffix}"
        save(path)
        return path.read_bytes()


def _whitening():
    random = np.random.default_rng(0)
    return {"param_mean": random.normal(size=62).astype("f4"), "param_std": random.uniform(1, 2, 62).astype("f4")}


def _state():
    random = np.random.default_rng(1)
    return {
        "epoch": 3,
        "res_state_dict": {
            "module.conv1.weight": random.normal(size=(4, 4, 3, 3)).astype("f4"),
            "module.bn1.running_mean": random.normal(size=4).astype("f4"),
            "module.count": np.array(7, "i8"),
            "module.turned": np.asfortranarray(random.normal(size=(3, 5))),
        },
    }


def _mat_300w_lp():
    values = helpers_face_files.parameters()
    return {
        **values,
        "roi": np.array([[1, 1, 450, 450]], np.int16),
        "pt2d": np.ones((2, 68)),
        "Illum_Para": np.ones((1, 10)),
        "Color_Para": np.ones((1, 7), np.float32),
        "Tex_Para": np.random.default_rng(2).normal(size=(199, 1)),
        "name": "image",
    }


def _npz_arrays():
    random = np.random.default_rng(3)
    return {
        "name": np.array(["a.jpg", "bc.jpg", "d.jpg"]),
        "landmarks": random.normal(size=(3, 68, 2)).astype("f4"),
        "seen": np.array([True, False, True]),
        "turned": np.asfortranarray(random.normal(size=(4, 5))),
    }


KINDS = {
    "pickle_2": (".pkl", lambda: pickle.dumps(_whitening(), 2)),
    "pickle_4": (".pkl", lambda: pickle.dumps(_whitening(), 4)),
    "checkpoint_zip": (".tar", lambda: _saved(lambda path: helpers_torch_files.save_zip(path, _state()), ".tar")),
    "checkpoint_old": (".tar", lambda: _saved(lambda path: helpers_torch_files.save_legacy(path, _state()), ".tar")),
    "mat": (".mat", lambda: _saved(lambda path: scipy.io.savemat(path, _mat_300w_lp()), ".mat")),
    "mat_packed": (
        ".mat",
        lambda: _saved(lambda path: scipy.io.savemat(path, _mat_300w_lp(), do_compression=True), ".mat"),
    ),
    "npy": (".npy", lambda: _saved(lambda path: np.save(path, _npz_arrays()["landmarks"]), ".npy")),
    "npz": (".npz", lambda: _saved(lambda path: np.savez(path, **_npz_arrays()), ".npz")),
    "npz_packed": (".npz", lambda: _saved(lambda path: np.savez_compressed(path, **_npz_arrays()), ".npz")),
}


def good_file(kind):
    """(suffix, content) of the valid file of a format."""
    suffix, make = KINDS[kind]
    return suffix, make()
