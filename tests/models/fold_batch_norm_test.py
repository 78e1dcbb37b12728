"""Folded batch normalisation: same coefficients, no normalisation left, no training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.models.fold_batch_norm import fold
from twodal_jax.models.resnet import Regressor


def random_variables(network, seed=0):
    """Random parameters and statistics; with those of a fresh network folding would change nothing."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 120, 120, 4)))

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return (rng.normal(size=leaf.shape) / np.sqrt(leaf.size / leaf.shape[-1])).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(
    "arch, variant, width, made_for, first_stage",
    [
        ("resnet18", "keypoints", 0.125, 1, 4),
        ("resnet50", "standard", 0.125, 1, 4),
        ("resnet18", "authors", 1.0, 1, 4),
        ("resnet50", "authors", 1.0, 1, 2),
        ("resnet50", "authors", 1.0, 8, 3),
        ("resnet50", "authors", 1.0, 64, 4),
    ],
)
def test_a_folded_network_has_no_normalisation_and_gives_the_same_coefficients(
    arch, variant, width, made_for, first_stage
):
    """Checked with another number of images than the network was folded for."""
    network = Regressor(arch, variant, width, heatmap_mlp_width=8)
    variables = random_variables(network)
    inputs = np.random.default_rng(1).uniform(-1, 1, (2, 120, 120, 4)).astype(np.float32)
    folded_network, folded = fold(network, variables, made_for)
    expected = np.asarray(jax.jit(network.apply)(variables, inputs))
    found = np.asarray(jax.jit(folded_network.apply)(folded, inputs))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    shapes = jax.eval_shape(folded_network.init, jax.random.key(0), inputs)
    assert jax.tree.map(np.shape, folded) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    structure = str(jax.tree.structure(folded))
    assert "norm" not in structure
    assert folded_network.channels_first_from == (first_stage if jax.default_backend() == "cpu" else 4)
    assert ("matrix" in structure) == (folded_network.channels_first_from < 4)


def test_a_folded_network_can_be_neither_folded_again_nor_trained():
    network = Regressor("resnet18", "standard", 0.125)
    folded_network, folded = fold(network, random_variables(network), 1)
    with pytest.raises(ValueError, match="folded already"):
        fold(folded_network, folded, 1)
    with pytest.raises(ValueError, match="no batch statistics"):
        inputs = jax.ShapeDtypeStruct((1, 120, 120, 4), jnp.float32)
        jax.eval_shape(lambda v, x: folded_network.apply(v, x, train=True), folded, inputs)
