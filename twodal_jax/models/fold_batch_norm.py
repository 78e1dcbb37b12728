"""Batch normalisation with fixed statistics, folded into the convolutions before it: for inference.

    norm(x * W) = x * (W factor) + (bias - mean factor),   factor = scale / sqrt(variance + epsilon)

The folded network gives the same coefficients (up to rounding) with one pass less over every map. For few images
on a CPU, kernels of wide blocks are put here into the form that `models.channels_first` wants.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from twodal_jax.geometry.projection import CROP_SIZE
from twodal_jax.models.cpu import channels_first
from twodal_jax.models.layers import BATCH_NORM_EPSILON
from twodal_jax.models.resnet import Regressor, STAGES

CONV, NORM = "conv", "norm"


def channels_first_from(network: Regressor, images: int) -> int:
    """From which stage on the network is faster with channels first, for so many images at a time; 4: from none."""
    if network.depth != "resnet50" or network.variant != "authors":
        return STAGES
    gaining = (stage for stage in (2, 3) if channels_first.is_faster(images, network.features(stage), network.dtype))
    return next(gaining, STAGES)


def fold(network: Regressor, variables: Mapping[str, Any], images: int) -> tuple[Regressor, dict[str, Any]]:
    """A network without batch normalisation that gives what `network` gives in evaluation, and its variables.

    variables: {"params", "batch_stats"} of `network`; those of the folded one have "params" alone.
    images: how many it will see at a time. It takes any number, but is made to be fast for this one.
    """
    if network.folded:
        raise ValueError("The network is folded already.")
    start = channels_first_from(network, images)
    folded = network.clone(folded=True, axis_name=None, channels_first_from=start)
    inputs = jax.ShapeDtypeStruct((1, CROP_SIZE, CROP_SIZE, 4), jnp.float32)
    wanted = jax.eval_shape(folded.init, jax.random.key(0), inputs)["params"]
    return folded, {"params": _folded(variables["params"], variables["batch_stats"], wanted)}


def _folded(params: Mapping[str, Any], stats: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """One level of the parameters: each `conv...` takes in the `norm...` of the same ending."""
    result = {}
    for name, value in params.items():
        norm = name.replace(CONV, NORM)
        if name.startswith(CONV) and norm in params:
            result[name] = _fold_one(value["kernel"], params[norm], stats[norm], wanted[name])
        elif name in stats and not name.startswith(NORM):
            result[name] = _folded(value, stats[name], wanted[name])  # a block
        elif not name.startswith(NORM):
            result[name] = value
    return result


def _fold_one(kernel, norm: Mapping[str, Any], stats: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    factor = norm["scale"] / jnp.sqrt(stats["var"] + BATCH_NORM_EPSILON)
    kernel, bias = kernel * factor, norm["bias"] - stats["mean"] * factor
    for name, form in _FORMS.items():
        if name in wanted:
            return {name: form(kernel), "bias": bias}
    return {"kernel": kernel, "bias": bias}


_FORMS = {"matrix": jax.jit(channels_first.matrix_of), "tiles": jax.jit(channels_first.tiles_of)}
