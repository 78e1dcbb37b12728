"""Weights files: a trained network in one small file, and the two that come with the package.

A file in safetensors format: the kernels as float16, everything else as float32, and in its metadata one JSON with
`format`, `config` (without the data sets), `whitening` and `step`. One entry, because safetensors writes several in
random order, and the same network must give the same bytes. Reading a file executes nothing.
"""

import json
import os
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from safetensors import numpy as safetensors, SafetensorError

from twodal_jax.checkpointing.restore import CheckpointError
from twodal_jax.geometry.projection import CROP_SIZE
from twodal_jax.training import landmark_offsets

FOLDER = pathlib.Path(__file__).parents[1] / "weights"
NAMES = ("photos", "free")
SUFFIX = ".safetensors"
FORMAT = "twodal_jax weights 1"
_ENTRY = "twodal_jax"
_MAX_BYTES = 1 << 30


def file_of(checkpoint: os.PathLike | str) -> pathlib.Path | None:
    """The weights file that a `--checkpoint` names, or None if it is the folder of a run.

    A folder or file of that name goes before the networks of the package.
    """
    path = pathlib.Path(checkpoint)
    if path.exists() or str(checkpoint) not in NAMES:
        return path if path.suffix == SUFFIX else None
    return FOLDER / f"{checkpoint}{SUFFIX}"


def pack(config: ml_collections.ConfigDict, whitening: dict[str, list[float]], variables: dict, step: int) -> bytes:
    """The content of a weights file.

    Args:
      config: of the run; its data sets are left out, because they name places of one machine.
      whitening: {"alpha_mean", "alpha_std"}, 62 numbers each.
      variables: {"params", "batch_stats"} of the regressor; learnt landmark offsets serve training only and are left
        out.
      step: number of training steps taken.
    """
    kept = config.to_dict() | {"data": {}}
    params = {name: value for name, value in variables["params"].items() if name != landmark_offsets.NAME}
    arrays = {name: _half(array) for name, array in _flat({**variables, "params": params}).items()}
    about = {"format": FORMAT, "config": kept, "whitening": whitening, "step": step}
    return safetensors.save(arrays, {_ENTRY: json.dumps(about, sort_keys=True)})


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(metadata: config, whitening, step; {"params/LAYER/...": float32 array}) of a weights file.

    Raises:
      CheckpointError: it is missing, damaged or of another kind.
    """
    try:
        if os.path.getsize(path) > _MAX_BYTES:
            raise CheckpointError(f"{path}: is larger than any weights file.")
        content = path.read_bytes()
        arrays = {name: np.asarray(array, np.float32) for name, array in safetensors.load(content).items()}
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header["__metadata__"][_ENTRY])
        if about["format"] != FORMAT:
            raise CheckpointError(f"{path}: is a {about['format']!r} file, expected {FORMAT!r}; write it again.")
        about = {name: about[name] for name in ("config", "whitening", "step")}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such weights file.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: not readable ({error}).") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a weights file of this program, or damaged ({error!r}).") from None
    return about, arrays


def variables_for(regressor, arrays: dict[str, np.ndarray], path: pathlib.Path) -> dict[str, Any]:
    """{"params", "batch_stats"} of a regressor from the arrays of `read`.

    Raises:
      CheckpointError: the arrays are not those of the network that the config describes.
    """
    if path.parent != FOLDER:  # those of the package are tested, and tracing the network takes 0.2 s
        check_fits(regressor, arrays, path)
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def check_fits(regressor, arrays: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Raises CheckpointError if the arrays are not those of the regressor."""
    inputs = jax.ShapeDtypeStruct((1, CROP_SIZE, CROP_SIZE, 4), jnp.float32)
    shapes = jax.eval_shape(regressor.init, jax.random.key(0), inputs)
    expected = {name: leaf.shape for name, leaf in _flat(shapes).items()}
    found = {name: array.shape for name, array in arrays.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(f"{path}: {len(wrong)} arrays do not fit its config, such as {wrong[0]}.")


def _half(array: Any) -> np.ndarray:
    array = np.asarray(array, np.float32, order="C")  # safetensors writes other orders as if they were this one
    return array.astype(np.float16) if array.ndim > 1 else array


def _flat(tree: Any) -> dict[str, Any]:
    return {_name(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(keys: tuple) -> str:
    return "/".join(key.key for key in keys)
