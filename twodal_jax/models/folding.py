"""Batch normalisation with fixed statistics, folded into the convolutions before it: for inference.

    norm(x * W) = x * (W factor) + (bias - mean factor),   factor = scale / sqrt(variance + epsilon)

The folded network gives the same coefficients (up to rounding) with one pass less over every map.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from twodal_jax.models.layers import BATCH_NORM_EPSILON
from twodal_jax.models.regressor import Regressor

CONV, NORM = "conv", "norm"


def fold(network: Regressor, variables: Mapping[str, Any]) -> tuple[Regressor, dict[str, Any]]:
    """A network without batch normalisation that gives what `network` gives in evaluation, and its variables.

    variables: {"params", "batch_stats"} of `network`; those of the folded one have "params" alone.
    """
    if network.folded:
        raise ValueError("The network is folded already.")
    params = _folded(variables["params"], variables["batch_stats"])
    return network.clone(folded=True, axis_name=None), {"params": params}


def _folded(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    """One level of the parameters: each `conv...` takes in the `norm...` of the same ending."""
    result = {}
    for name, value in params.items():
        norm = name.replace(CONV, NORM)
        if name.startswith(CONV) and norm in params:
            result[name] = _fold_one(value["kernel"], params[norm], stats[norm])
        elif name in stats and not name.startswith(NORM):
            result[name] = _folded(value, stats[name])  # a block
        elif not name.startswith(NORM):
            result[name] = value
    return result


def _fold_one(kernel, norm: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    factor = norm["scale"] / jnp.sqrt(stats["var"] + BATCH_NORM_EPSILON)
    return {"kernel": kernel * factor, "bias": norm["bias"] - stats["mean"] * factor}
