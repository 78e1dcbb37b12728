"""A PyTorch ResNet's state dict, with the names of torchvision and timm, -> the variables of our `Regressor`.

    conv1, bn1, layer1.0.conv1, layer1.0.bn1, layer1.0.downsample.0 and .1, fc
    conv_stem, norm_stem, stage1_block1/conv1, .../norm1, .../conv_shortcut and norm_shortcut, head

PyTorch keeps kernels as [out, in, h, w], Flax as [h, w, in, out].
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.geometry.projection import CROP_SIZE
from twodal_jax.models.resnet import HEAD, Regressor

PREFIX = "module."  # of names from a network that was trained on several GPUs
FULLY_CONNECTED = ("fc.weight", "fc.bias")
UNUSED = "num_batches_tracked"  # ending of the names of BatchNorm's counters
_FIELDS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_KINDS = {"conv": "conv", "norm": "bn"}
_SHORTCUT = {"conv_shortcut": "downsample.0", "norm_shortcut": "downsample.1"}


class CheckpointFormatError(ValueError):
    """A state dict is not of the expected network; the message says what differs."""


def without_prefix(state: Mapping[Any, Any]) -> dict[str, Any]:
    """The same entries by names without `PREFIX`."""
    return {str(name).removeprefix(PREFIX): value for name, value in state.items()}


def convert(
    state: Mapping[str, np.ndarray], network: Regressor, whose: str, *, channels: int, head: bool
) -> dict[str, Any]:
    """The part of a network's variables that a PyTorch ResNet has, {"params", "batch_stats"}, float32 NumPy arrays.

    Args:
      state: {name: array}. whose: the network that is expected, for messages: "the authors' ResNet-50".
      channels: of the images that the PyTorch network takes: `conv_stem`'s kernel is [7, 7, channels, 64].
      head: whether to convert the last layer, which must then have 62 outputs; without it `FULLY_CONNECTED`
        may be absent or have any shape.

    Raises:
      CheckpointFormatError: names the first tensor that is missing or has another shape, or those left over.
    """
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    used = set(() if head else FULLY_CONNECTED)
    for keys, leaf in jax.tree_util.tree_flatten_with_path(_shapes(network))[0]:
        collection, *path = (key.key for key in keys)
        name = _torch_name(path, head)
        if name is None:
            continue
        shape = (*leaf.shape[:2], channels, leaf.shape[3]) if path[0] == "conv_stem" else leaf.shape
        array = _array(state, name, _torch_shape(shape), whose)
        used.add(name)
        node = variables[collection]
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = _ours(array)
    left = sorted(name for name in state if name not in used and not name.endswith(UNUSED))
    if left:
        raise CheckpointFormatError(f"holds {', '.join(left[:5])}, which {whose} lacks.")
    return variables


@functools.cache
def _shapes(network: Regressor) -> Any:
    """The variables' shapes and dtypes."""
    image = jax.ShapeDtypeStruct((1, CROP_SIZE, CROP_SIZE, 4), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image)


def _torch_name(path: list[str], head: bool) -> str | None:
    """PyTorch's name of a parameter or statistic; None for what a PyTorch ResNet does not have."""
    module, field = path[0], _FIELDS.get(path[-1])
    if module == HEAD:
        return f"fc.{field}" if head else None
    if module in ("conv_stem", "norm_stem"):
        return f"{_KINDS[module[:4]]}1.{field}"
    block = re.fullmatch(r"stage(\d+)_block(\d+)", module)
    if block is None:
        return None
    layer = _SHORTCUT.get(path[1]) or _KINDS[path[1][:4]] + path[1][4:]
    return f"layer{block[1]}.{int(block[2]) - 1}.{layer}.{field}"


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that PyTorch gives a parameter of ours."""
    return (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _ours(array: np.ndarray) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]; [out, in] -> [in, out]."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _array(state: Mapping[str, Any], name: str, shape: tuple[int, ...], whose: str) -> np.ndarray:
    if name not in state:
        raise CheckpointFormatError(f"{name} is missing; it is not {whose}.")
    array = state[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        found = getattr(array, "dtype", type(array).__name__)
        raise CheckpointFormatError(f"{name} is of type {found}, expected numbers of NumPy's types.")
    if array.shape != shape:
        raise CheckpointFormatError(f"{name} has shape {array.shape}, expected {shape}; it is not {whose}.")
    return array.astype(np.float32)
