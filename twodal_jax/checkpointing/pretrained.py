"""ImageNet weights to start training from: a ResNet of torchvision or timm -> variables of `models.resnet.Regressor`.

The ImageNet network takes RGB images (x / 255 - mean) / std; `Regressor` takes BGR images (x - 127.5) / 128 and a
heatmap. The stem absorbs the difference exactly:

    x_imagenet = x_ours * 128 / (255 std) + (0.5 - mean) / std

The factor scales the kernel's input channels, whose order is reversed. The constant adds the same number to a channel
at every position and is subtracted from the mean of the following BatchNorm. Zero padding then stands for mid-grey
(127.5) instead of ImageNet's mean colour: the converted network equals the original one on an image with a mid-grey
border. The heatmap's kernel is 0, so that at first the heatmap changes nothing. The last layer is not converted.
"""

import os
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy

from twodal_jax.checkpointing.restore import moved_aside, steps_in
from twodal_jax.io import torch_checkpoint, untrusted
from twodal_jax.models import torch_resnet
from twodal_jax.models.resnet import Regressor
from twodal_jax.training.builder import ConfigError

FIELD = "config.regressor.pretrained"
WRAPPERS = ("state_dict", "model", "res_state_dict")  # keys under which training scripts save a state dict
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # RGB, of values 0 to 1
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def for_new_run(
    config: ml_collections.ConfigDict, checkpoints: pathlib.Path, network: Regressor
) -> dict[str, Any] | None:
    """The argument `backbone` of `training.state.create_train_state`.

    None where the config names no file, where `checkpoints` holds a run to resume (the file may be gone then), and on
    all processes of a group but the primary one, which broadcasts its new state.

    Raises:
      ConfigError: the file cannot be read, or holds another network.
    """
    path = config.regressor.pretrained
    if not path or steps_in(checkpoints) or moved_aside(checkpoints) or jax.process_index() != 0:
        return None
    try:
        return convert(read_state_dict(path), network)
    except untrusted.BrokenFileError as error:
        raise ConfigError(f"{FIELD}: {error}.") from None
    except torch_resnet.CheckpointFormatError as error:
        raise ConfigError(
            f"{FIELD}: {path}: {error} Expected the weights of torchvision's or timm's {network.arch}, as"
            " config.regressor.name says, with config.regressor.width = 1."
        ) from None


def read_state_dict(path: os.PathLike | str) -> dict[str, np.ndarray]:
    """{name: array} of a `.safetensors` file or of one by `torch.save` (.pth, .pt, .pth.tar).

    The tensors may lie at the file's top level or under one of `WRAPPERS`. The prefix `module.` is removed from names.

    Raises:
      BrokenFileError: the file cannot be read.
      CheckpointFormatError: it holds no tensors.
    """
    if pathlib.Path(path).suffix == ".safetensors":
        with untrusted.opened(path, "safetensors file", (safetensors.SafetensorError, KeyError)) as file:
            return torch_resnet.without_prefix(safetensors.numpy.load(file.read()))
    content = torch_checkpoint.load(path)
    if isinstance(content, dict):
        for state in (*(content.get(name) for name in WRAPPERS), content):
            if isinstance(state, dict) and any(isinstance(value, np.ndarray) for value in state.values()):
                return torch_resnet.without_prefix(state)
    raise torch_resnet.CheckpointFormatError(f"no tensors at its top level or under {', '.join(WRAPPERS)}.")


def convert(state: dict[str, np.ndarray], network: Regressor) -> dict[str, Any]:
    """{"params", "batch_stats"} of `network`, float32, from the state dict of an ImageNet ResNet; see the module.

    The head and the layers that a plain ResNet lacks are left out.

    Raises:
      CheckpointFormatError: the state dict belongs to another network; the message names the difference.
    """
    whose = f"torchvision's {network.arch}"
    variables = torch_resnet.convert(state, network, whose, channels=3, head=False)
    kernel = variables["params"]["conv_stem"]["kernel"]  # [7, 7, RGB, features]
    constant = np.einsum("hwcf,c->f", kernel, (0.5 - IMAGENET_MEAN) / IMAGENET_STD)
    scaled = kernel * (128 / (255 * IMAGENET_STD))[:, None]
    heatmap = np.zeros_like(kernel[:, :, :1])
    variables["params"]["conv_stem"]["kernel"] = np.concatenate([scaled[:, :, ::-1], heatmap], axis=2)
    mean = variables["batch_stats"]["norm_stem"]["mean"]
    variables["batch_stats"]["norm_stem"]["mean"] = mean - constant
    return variables
