"""The authors' PyTorch checkpoint -> our regressor's variables.

Their file (`.pth.tar`) is a dict whose `res_state_dict` holds a ResNet-50 with the names of torchvision,
behind `module.` where it was trained on several GPUs: 4 input channels, last stage with stride 1, a 7x7
average pool with stride 2, 62 outputs. It is `Regressor("resnet50", "authors")` here.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from twodal_jax import coefficients, torch_file
from twodal_jax.models.regressor import STAGE_SIZES

STATE_DICT = "res_state_dict"
_PREFIX = "module."
_NORM = {"weight": ("params", "scale"), "bias": ("params", "bias"),
         "running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")}  # fmt: skip


class CheckpointFormatError(ValueError):
    """The file is no checkpoint of the authors' network; the message says what differs."""


def read(path: os.PathLike | str) -> dict[str, Any]:
    """{"params", "batch_stats"} of `Regressor("resnet50", "authors")`, float32.

    Raises:
      PickleError: the file cannot be read. CheckpointFormatError: names what is missing or shaped otherwise.
    """
    content = torch_file.load(path)
    state = content.get(STATE_DICT) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointFormatError(f"{path}: no {STATE_DICT!r} in it (found: {found}).")
    try:
        return convert({str(name).removeprefix(_PREFIX): value for name, value in state.items()})
    except CheckpointFormatError as error:
        raise CheckpointFormatError(f"{path}: {error}") from None


def convert(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """A state_dict of the authors' ResNet-50 (torchvision's names) -> our variables."""
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    used = set()

    def take(name: str, shape: tuple) -> np.ndarray:
        if name not in state:
            raise CheckpointFormatError(f"{name} is missing; it is not the authors' ResNet-50.")
        array = state[name]
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype.kind not in "fiu":
            raise CheckpointFormatError(f"{name} has shape {getattr(array, 'shape', None)}, expected {shape}.")
        used.add(name)
        return array.astype(np.float32)

    def put(collection: str, path: tuple[str, ...], value: np.ndarray) -> None:
        node = variables[collection]
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value

    def convolution(source: str, target: tuple, size: int, fan_in: int, fan_out: int) -> None:
        kernel = take(f"{source}.weight", (fan_out, fan_in, size, size))
        put("params", (*target, "kernel"), kernel.transpose(2, 3, 1, 0))

    def norm(source: str, target: tuple, features: int) -> None:
        for name, (collection, ours) in _NORM.items():
            put(collection, (*target, ours), take(f"{source}.{name}", (features,)))

    convolution("conv1", ("conv_stem",), 7, 4, 64)
    norm("bn1", ("norm_stem",), 64)
    fan_in = 64
    for stage, blocks in enumerate(STAGE_SIZES["resnet50"]):
        features = 64 * 2**stage
        for block in range(blocks):
            source, target = f"layer{stage + 1}.{block}", f"stage{stage + 1}_block{block + 1}"
            sizes = ((1, fan_in, features), (3, features, features), (1, features, 4 * features))
            for index, size in enumerate(sizes):
                convolution(f"{source}.conv{index + 1}", (target, f"conv{index + 1}"), *size)
                norm(f"{source}.bn{index + 1}", (target, f"norm{index + 1}"), size[2])
            if block == 0:
                convolution(f"{source}.downsample.0", (target, "conv_shortcut"), 1, fan_in, 4 * features)
                norm(f"{source}.downsample.1", (target, "norm_shortcut"), 4 * features)
            fan_in = 4 * features
    outputs = coefficients.NUM_COEFFICIENTS
    put("params", ("head", "kernel"), take("fc.weight", (outputs, fan_in)).T)
    put("params", ("head", "bias"), take("fc.bias", (outputs,)))
    left = [name for name in state if name not in used and not name.endswith("num_batches_tracked")]
    if left:
        raise CheckpointFormatError(f"holds {', '.join(sorted(left)[:5])}, which the authors' ResNet-50 lacks.")
    return variables
