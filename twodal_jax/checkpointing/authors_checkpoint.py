"""The authors' PyTorch checkpoint -> our regressor's variables.

Their file (`.pth.tar`) is a dict whose `res_state_dict` holds a ResNet-50 with the names of torchvision,
behind `module.` where it was trained on several GPUs: 4 input channels, last stage with stride 1, a 7x7
average pool with stride 2, 62 outputs. It is `Regressor("resnet50", "authors")` here.
"""

from __future__ import annotations

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
      PickleError: the file cannot be read. CheckpointFormatError: names what is missing or shaped otherwise.
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
    """A state dict of the authors' ResNet-50 (torchvision's names) -> our variables."""
    return torch_resnet.convert(state, NETWORK, "the authors' ResNet-50", channels=4, head=True)
