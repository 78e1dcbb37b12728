"""Muon: the updates equal those of optax."""

import jax
import numpy as np
import optax.contrib
import pytest

from twodal_jax.training import muon

SHAPES = {
    "tall": (1152, 128),
    "slightly_tall": (96, 64),
    "square": (64, 64),
    "wide": (16, 48),
    "column": (9, 1),
    "convolution": (3, 3, 32, 24),
    "wide_convolution": (1, 1, 8, 32),
}


def matrices(shape):
    """{name: matrix} of this shape: random, nearly of rank one, of rank one, zero."""
    rng = np.random.default_rng(0)
    size = (int(np.prod(shape[:-1])), shape[-1])
    noise, rank_one = rng.standard_normal(size), np.outer(rng.standard_normal(size[0]), rng.standard_normal(size[1]))
    found = {"random": noise, "nearly rank one": rank_one + 1e-4 * noise, "rank one": rank_one, "zero": 0 * noise}
    return {name: matrix.reshape(shape).astype(np.float32) for name, matrix in found.items()}


def singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


@pytest.mark.parametrize("size", [(1152, 128), (64, 64), (16, 48)])
def test_orthogonalize_keeps_singular_vectors_and_brings_singular_values_near_one(size):
    matrix = matrices(size)["random"]
    found = np.asarray(muon.orthogonalize(matrix), np.float64)
    assert singular_values(found).min() > 0.3 and singular_values(found).max() < 1.3
    left, _, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    inside = left.T @ found @ right.T
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 1e-4


def gradients(step):
    return {
        "net": {name: {"kernel": matrices(shape)["random"] * (step + 1)} for name, shape in SHAPES.items()},
        "bias": np.full(5, 0.5 - step, np.float32),
    }


def run(optimizer, params, steps=4):
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = jax.jit(optimizer.update)(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_several_updates_equal_those_of_optax():
    def as_matrices(params):
        def one(path, leaf):
            axes = tuple(range(leaf.ndim - 1)), leaf.ndim - 1
            return optax.contrib.MuonDimensionNumbers(*axes) if path[-1].key == "kernel" else None

        return jax.tree_util.tree_map_with_path(one, params)

    def schedule(count):
        return 0.01 / (1 + count)

    theirs = optax.contrib.muon(
        schedule, weight_decay=0.1, adam_weight_decay=0.1, consistent_rms=0.2, muon_weight_dimension_numbers=as_matrices
    )
    ours = optax.chain(
        muon.scale_by_muon(lambda path: path[-1].key == "kernel"),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(schedule),
    )
    start = jax.tree.map(lambda leaf: 0.3 * leaf, gradients(0))
    expected, found = (run(optimizer, start) for optimizer in (theirs, ours))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("kind", ["nearly rank one", "rank one", "zero"])
@pytest.mark.parametrize("name", SHAPES)
def test_degenerate_gradients_give_bounded_updates_equal_to_those_of_optax(name, kind):
    matrix = matrices(SHAPES[name])[kind].reshape(-1, SHAPES[name][-1])
    coefficients = np.array(muon.COEFFICIENTS, np.float32)
    expected = optax.contrib._muon.orthogonalize_via_newton_schulz(matrix, coefficients, muon.STEPS)
    found = np.asarray(muon.orthogonalize(matrix))
    assert np.isfinite(found).all() and singular_values(found).max() < 1.3
    np.testing.assert_allclose(found, expected, atol=2e-3)
