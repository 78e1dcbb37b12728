"""Means over the parts of a batch: those of the devices, and those one device works on in turn. Pure."""

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp


def pmean_tree(tree: Any, axis_name: str | None) -> Any:
    """Means over a mapped axis of a pytree of float32 arrays: one all-reduce of all of them in a row.

    Alone (no axis, or one of a single device) the tree itself, without the copy.
    """
    if axis_name is None or jax.lax.axis_size(axis_name) == 1:
        return tree
    row, restore = jax.flatten_util.ravel_pytree(tree)
    return restore(jax.lax.pmean(row, axis_name))


def accumulate_microbatches(function: Callable[[Any], Any], batch: Any, count: int) -> Any:
    """Means of `function` of `count` equal parts [B / count, ...] of a batch [B, ...], one by one."""
    if count == 1:
        return function(batch)
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    nothing = jax.tree.map(lambda found: jnp.zeros(found.shape, found.dtype), shapes)

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    total, _ = jax.lax.scan(add, nothing, parts)
    return jax.tree.map(lambda x: x / count, total)
