"""Encoder and critic: the paper's sizes, dtypes, and dependence on each input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.models.critic import Critic, Encoder, EncoderCritic

TINY = EncoderCritic(width=0.125)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(TINY.init)(jax.random.key(0), jnp.zeros((1, 120, 120, 3)), jnp.zeros((1, 62)))


def inputs(count=2, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (count, 120, 120, 3)).astype(np.float32)
    return images, rng.normal(size=(count, 62)).astype(np.float32)


def test_encoder_has_six_convolutions_and_one_output_pixel():
    images = jax.ShapeDtypeStruct((2, 120, 120, 3), jnp.float32)
    latent, variables = jax.eval_shape(Encoder().init_with_output, jax.random.key(0), images)
    assert latent.shape == (2, 256) and latent.dtype == jnp.float32
    assert sorted(variables["params"]) == [f"conv{i}" for i in range(1, 7)]
    half, variables = jax.eval_shape(Encoder(width=0.5).init_with_output, jax.random.key(0), images)
    assert half.shape == (2, 128) and len(variables["params"]) == 6


def test_critic_has_the_papers_layers():
    shapes = jax.eval_shape(Critic().init, jax.random.key(0), jnp.zeros((2, 256)), jnp.zeros((2, 62)))
    found = [shapes["params"][f"dense{i}"]["kernel"].shape for i in range(1, 5)]
    assert found == [(256 + 62, 512), (512, 1024), (1024, 1024), (1024, 1)]


def test_logits_depend_on_image_and_coefficients_and_equal_criticize_of_encode(variables):
    images, whitened = inputs()
    logits = TINY.apply(variables, images, whitened)
    assert logits.shape == (2,) and logits.dtype == jnp.float32
    assert not np.allclose(logits, TINY.apply(variables, images[::-1], whitened), atol=1e-6)
    assert not np.allclose(logits, TINY.apply(variables, images, whitened[::-1]), atol=1e-6)
    latent = TINY.apply(variables, images, method="encode")
    np.testing.assert_allclose(TINY.apply(variables, latent, whitened, method="criticize"), logits, atol=1e-6)


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    module = EncoderCritic(width=0.125, dtype=jnp.bfloat16)
    shaped = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs()]
    logits, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *shaped)
    assert logits.dtype == jnp.float32
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_gradients_are_finite_and_reach_every_parameter(variables):
    images, whitened = inputs(4)
    gradients = jax.jit(jax.grad(lambda p: TINY.apply({"params": p}, images, whitened).sum()))(variables["params"])
    for path, value in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(value).all() and np.abs(value).max() > 0, jax.tree_util.keystr(path)
