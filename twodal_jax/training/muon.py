"""Muon (Jordan et al. 2024): kernels move by their momentum made orthogonal, everything else as by Nesterov's Adam.

The update is that of `optax.contrib.muon` with updates as large as Adam's (Liu et al. 2025); what differs is how a tall
matrix is made orthogonal: every step of the Newton-Schulz iteration is a polynomial in the Gram matrix, so that only the
first and the last product touch the tall matrix itself. For configs/aflw.py that is half the time on a CPU.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: singular values in (0, 1] come near 1 in few steps
STEPS = 5
MOMENTUM = 0.95
EPSILON = 1e-8
ADAMS_SIZE = 0.2  # root mean square of Adam's updates (Liu et al.)
TALL = 1.5  # rows by columns; below, the Gram matrix saves nothing


class MomentumState(NamedTuple):
    """count: [] int32, updates so far. momentum: as the parameters."""

    count: jax.Array
    momentum: Any


def orthogonalize(matrix: jax.Array, precision: jax.lax.PrecisionLike = "highest") -> jax.Array:
    """U S' V^T of a matrix [m, n] = U S V^T, S' near 1: the Newton-Schulz iteration of Jordan et al.

    precision: of its products. With "highest" small singular values survive in the Gram matrix; "default" is one
    bfloat16 pass on a TPU, six times cheaper, and what Jordan et al. train with. A CPU knows no difference.
    """
    _product = functools.partial(jnp.matmul, precision=precision)
    rows, columns = matrix.shape
    if rows < columns:
        return orthogonalize(matrix.T, precision).T
    matrix = matrix / (jnp.linalg.norm(matrix) + EPSILON)
    if rows < TALL * columns:
        for _ in range(STEPS):
            matrix = _product(matrix, _polynomial(_product(matrix.T, matrix), precision))
        return matrix
    gram = _product(matrix.T, matrix)
    factor = product = _polynomial(gram, precision)
    for _ in range(STEPS - 1):
        gram = _product(_product(gram, factor), factor)  # of the matrix after one step more
        factor = _polynomial(gram, precision)
        product = _product(product, factor)
    return _product(matrix, product)


def _polynomial(gram: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """[n, n]: what a matrix with this Gram matrix is multiplied by in a step."""
    first, second, third = COEFFICIENTS
    return first * jnp.eye(len(gram)) + second * gram + third * jnp.matmul(gram, gram, precision=precision)


def _orthogonal_update(kernel: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """A kernel's momentum [..., out] made orthogonal as the matrix [inputs, out], as large as Adam's updates."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return (ADAMS_SIZE * max(matrix.shape) ** 0.5 * orthogonalize(matrix, precision)).reshape(kernel.shape)


def scale_by_orthogonal_momentum(precision: jax.lax.PrecisionLike = "highest") -> optax.GradientTransformation:
    """Gradients of kernels -> Nesterov's momentum, without its bias at the start, made orthogonal."""

    def init(params):
        return MomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(gradients, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        momentum = optax.tree.update_moment(gradients, state.momentum, MOMENTUM, 1)
        ahead = optax.tree.bias_correction(momentum, MOMENTUM, optax.safe_increment(count))
        now = optax.tree.bias_correction(gradients, MOMENTUM, count)
        nesterov = jax.tree.map(lambda a, b: MOMENTUM * a + (1 - MOMENTUM) * b, ahead, now)
        return jax.tree.map(functools.partial(_orthogonal_update, precision=precision), nesterov), MomentumState(
            count, momentum
        )

    return optax.GradientTransformation(init, update)


def scale_by_muon(
    is_kernel: Callable[[tuple], bool], precision: jax.lax.PrecisionLike = "highest"
) -> optax.GradientTransformation:
    """Muon for kernels and NAdam for all other parameters, without learning rate and weight decay.

    Args:
      is_kernel: path of a leaf (`jax.tree_util`) -> whether it moves as a matrix, its last axis the outputs.
      precision: see `orthogonalize`.
    """
    kernels, rest = scale_by_orthogonal_momentum(precision), optax.scale_by_adam(nesterov=True)

    def labels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" if is_kernel(path) else "rest", params)

    return optax.partition({"kernel": kernels, "rest": rest}, labels)
