"""Means over devices and over the microbatches of one device. Pure."""

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp


def pmean_tree(tree: Any, axis_name: str | None) -> Any:
    """Means over a mapped axis of a pytree of float32 arrays, in one all-reduce.

    Without an axis, or with a single device on it, the tree itself is returned, without a copy.
    """
    if axis_name is None or jax.lax.axis_size(axis_name) == 1:
        return tree
    flat, restore = jax.flatten_util.ravel_pytree(tree)
    return restore(jax.lax.pmean(flat, axis_name))


def accumulate_microbatches(function: Callable[[Any], Any], batch: Any, count: int) -> Any:
    """Mean of `function` over `count` equal parts [B / count, ...] of a batch [B, ...], one after the other."""
    if count == 1:
        return function(batch)
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda result: jnp.zeros(result.shape, result.dtype), shapes)

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / count, total)
