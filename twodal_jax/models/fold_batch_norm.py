"""Folding of batch normalisation with fixed statistics into the preceding convolutions, for inference.

    norm(x * W) = x * (W factor) + (bias - mean factor),   factor = scale / sqrt(variance + epsilon)

The folded network gives the same coefficients, up to rounding, and saves one pass over every map. For few images on a
CPU, kernels of wide blocks are stored in the layout of `models.cpu.channels_first`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.geometry.projection import CROP_SIZE
from twodal_jax.models.cpu import channels_first
from twodal_jax.models.layers import BATCH_NORM_EPSILON
from twodal_jax.models.resnet import Regressor, STAGES

CONV, NORM = "conv", "norm"


def channels_first_from(network: Regressor, images: int) -> int:
    """First stage, from 0, that is faster with channels first for `images` images at a time; 4: none."""
    if network.arch != "resnet50" or network.variant != "authors":
        return STAGES
    faster = (stage for stage in (2, 3) if channels_first.is_faster(images, network.features(stage), network.dtype))
    return next(faster, STAGES)


def fold(network: Regressor, variables: Mapping[str, Any], images: int) -> tuple[Regressor, dict[str, Any]]:
    """Network without batch normalisation that equals `network` in evaluation, and its variables.

    variables: {"params", "batch_stats"} of `network`; those of the folded network have "params" alone.
    images: number of images per call that the result is optimised for; it accepts any number.

    Raises:
      ValueError: the network is folded already.
    """
    if network.folded:
        raise ValueError("The network is folded already.")
    start = channels_first_from(network, images)
    folded = network.clone(folded=True, axis_name=None, channels_first_from=start)
    target_shapes: Mapping[str, Any] = {}
    if start < STAGES:
        inputs = jax.ShapeDtypeStruct((1, CROP_SIZE, CROP_SIZE, 4), jnp.float32)
        target_shapes = jax.eval_shape(folded.init, jax.random.key(0), inputs)["params"]
    return folded, {"params": _folded(variables["params"], variables["batch_stats"], target_shapes)}


def _folded(params: Mapping[str, Any], stats: Mapping[str, Any], target_shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Fold one level of the parameters: each `conv...` absorbs the `norm...` of the same suffix."""
    result = {}
    for name, value in params.items():
        norm = name.replace(CONV, NORM)
        if name.startswith(CONV) and norm in params:
            result[name] = _fold_layer(value["kernel"], params[norm], stats[norm], target_shapes.get(name, {}))
        elif name in stats and not name.startswith(NORM):
            result[name] = _folded(value, stats[name], target_shapes.get(name, {}))  # a block
        elif not name.startswith(NORM):
            result[name] = value
    return result


def _fold_layer(
    kernel, norm: Mapping[str, Any], stats: Mapping[str, Any], target_shapes: Mapping[str, Any]
) -> dict[str, Any]:
    # In NumPy: JAX would compile a program for each shape.
    scale, shift, mean, var = map(np.asarray, (norm["scale"], norm["bias"], stats["mean"], stats["var"]))
    factor = scale / np.sqrt(var + np.float32(BATCH_NORM_EPSILON))
    kernel, bias = np.asarray(kernel) * factor, shift - mean * factor
    for name, form in _FORMS.items():
        if name in target_shapes:
            return {name: form(kernel), "bias": bias}
    return {"kernel": kernel, "bias": bias}


_FORMS = {"matrix": jax.jit(channels_first.matrix_of), "tiles": jax.jit(channels_first.tiles_of)}
