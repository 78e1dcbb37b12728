"""The authors' PyTorch checkpoint, converted to the variables of `models.resnet.Regressor`.

The file (`.pth.tar`) is a dict whose `res_state_dict` holds a ResNet-50 with torchvision's names, prefixed by `module.`
where it was trained on several GPUs. It has 4 input channels, a last stage with stride 1, a 7x7 average pool with
stride 2 and 62 outputs: here `Regressor("resnet50", "authors")`.
"""

import os
from typing import Any

import numpy as np

from twodal_jax.io import torch_checkpoint
from twodal_jax.models import torch_resnet
from twodal_jax.models.resnet import Regressor
from twodal_jax.models.torch_resnet import CheckpointFormatError

STATE_DICT = "res_state_dict"
NETWORK = Regressor("resnet50", "authors")


def read(path: os.PathLike | str) -> dict[str, Any]:
    """{"params", "batch_stats"} of `NETWORK`, float32.

    Raises:
      PickleError: the file cannot be read.
      CheckpointFormatError: a tensor is missing or has another shape; the message names it.
    """
    content = torch_checkpoint.load(path)
    state = content.get(STATE_DICT) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointFormatError(f"{path}: no {STATE_DICT!r} in it (found: {found}).")
    try:
        return convert(torch_resnet.without_prefix(state))
    except CheckpointFormatError as error:
        raise CheckpointFormatError(f"{path}: {error}") from None


def convert(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """{"params", "batch_stats"} of `NETWORK` from a state dict of the authors' ResNet-50, without prefixes.

    Raises:
      CheckpointFormatError: see `read`.
    """
    return torch_resnet.convert(state, NETWORK, "the authors' ResNet-50", channels=4, head=True)
