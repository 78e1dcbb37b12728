"""Conversion of a PyTorch ResNet's state dict, with the names of torchvision and timm, to variables of `Regressor`.

    conv1, bn1, layer1.0.conv1, layer1.0.bn1, layer1.0.downsample.0 and .1, fc
    conv_stem, norm_stem, stage1_block1/conv1, .../norm1, .../conv_shortcut and norm_shortcut, head

PyTorch stores kernels as [out, in, h, w], Flax as [h, w, in, out].
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

PREFIX = "module."  # of parameter names of a network trained on several GPUs
FULLY_CONNECTED = ("fc.weight", "fc.bias")
UNUSED = "num_batches_tracked"  # suffix of the names of BatchNorm's counters
_FIELDS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_KINDS = {"conv": "conv", "norm": "bn"}
_SHORTCUT = {"conv_shortcut": "downsample.0", "norm_shortcut": "downsample.1"}


class CheckpointFormatError(ValueError):
    """A state dict does not belong to the expected network; the message names the difference."""


def without_prefix(state: Mapping[Any, Any]) -> dict[str, Any]:
    """The state dict with `PREFIX` removed from its names."""
    return {str(name).removeprefix(PREFIX): value for name, value in state.items()}


def convert(
    state: Mapping[str, np.ndarray], network: Regressor, whose: str, *, channels: int, head: bool
) -> dict[str, Any]:
    """Variables {"params", "batch_stats"} of `network` that a PyTorch ResNet has, as float32 NumPy arrays.

    Args:
      state: {name: array}.
      network: the network whose variables are filled.
      whose: name of the expected network, for messages: "the authors' ResNet-50".
      channels: number of input channels of the PyTorch network: `conv_stem`'s kernel is [7, 7, channels, 64].
      head: whether to convert the last layer, which must then have 62 outputs; without it `FULLY_CONNECTED` may be
        missing or have any shape.

    Raises:
      CheckpointFormatError: the message names the first tensor that is missing or has another shape, or extra ones.
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
        # [out, in, h, w] -> [h, w, in, out]; [out, in] -> [in, out]
        node[path[-1]] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    extra = sorted(name for name in state if name not in used and not name.endswith(UNUSED))
    if extra:
        raise CheckpointFormatError(f"holds {', '.join(extra[:5])}, which {whose} lacks.")
    return variables


@functools.cache
def _shapes(network: Regressor) -> Any:
    """The variables' shapes and dtypes."""
    image = jax.ShapeDtypeStruct((1, CROP_SIZE, CROP_SIZE, 4), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image)


def _torch_name(path: list[str], head: bool) -> str | None:
    """PyTorch's name of a parameter or statistic; None if a PyTorch ResNet does not have it."""
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
    """PyTorch's shape of a Flax parameter."""
    return (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape[::-1]


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
