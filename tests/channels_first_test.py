"""Blocks with channels first: what blocks with channels last give, for any number of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.models import channels_first, winograd
from twodal_jax.models.regressor import Block


def images(batch, height, width, channels, seed=0):
    shape = (batch, height, width, channels)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("batch, height, width", [(1, 8, 8), (3, 2, 6), (2, 4, 2)])
def test_entering_and_a_weighted_sum_keep_every_position_its_weight(batch, height, width):
    x, share = images(batch, height, width, 5), images(1, height, width, 1)[0, ..., 0]
    entered = channels_first.enter(x)
    assert entered.shape == (5, batch * height * width)
    expected = np.einsum("bhwc,hw->bc", np.float64(x), share)
    np.testing.assert_allclose(channels_first.pooled(entered, share), expected, atol=1e-5)


@pytest.mark.parametrize("height, width", [(8, 8), (2, 6), (4, 2)])
def test_the_constant_gives_winograds_input_tiles(height, width):
    """Each tile's 4x4 inputs, cut from the padded map one by one, transformed as the paper writes it."""
    x = images(1, height, width, 1)[0, ..., 0]
    padded = np.pad(x, 1)
    tiles = [padded[top : top + 4, left : left + 4] for top in range(0, height, 2) for left in range(0, width, 2)]
    expected = np.stack([winograd.INPUT @ tile @ winograd.INPUT.T for tile in tiles], axis=-1)
    found = np.einsum("p,pet->et", x.ravel(), channels_first.input_tiles(height, width))
    np.testing.assert_allclose(found.reshape(4, 4, -1), expected, atol=1e-5)


@pytest.mark.parametrize("batch, height, width", [(1, 8, 8), (3, 4, 6)])
@pytest.mark.parametrize("channels", [16, 6])
def test_a_block_gives_what_one_with_channels_last_gives(batch, height, width, channels):
    """With a shortcut (6 channels in) and without."""
    x = images(batch, height, width, channels)
    plain = Block(4, 1, True, None, jnp.float32, folded=True)
    params = plain.init(jax.random.key(0), x, train=False)["params"]
    params = jax.tree.map(lambda leaf: images(1, 1, 1, leaf.size, seed=leaf.size).reshape(leaf.shape) / 2, params)
    expected = channels_first.enter(plain.apply({"params": params}, x, train=False))

    def form(layer):
        kernel, bias = layer["kernel"], layer["bias"]
        if len(kernel) == 1:
            return {"matrix": channels_first.matrix_of(kernel), "bias": bias}
        return {"tiles": channels_first.tiles_of(kernel), "bias": bias}

    own = channels_first.Block(4, x.shape)
    formed = {name: form(layer) for name, layer in params.items()}
    entered = channels_first.enter(x)
    wanted = own.init(jax.random.key(0), entered)["params"]
    assert jax.tree.map(np.shape, formed) == jax.tree.map(np.shape, wanted)
    found = jax.jit(own.apply)({"params": formed}, entered)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


WIDE = channels_first.LEAST_CHANNELS


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends keep channels last")
@pytest.mark.parametrize("shape, features, strides, dtype, expected", [
    ((1, 8, 8, 2 * WIDE), WIDE, 1, jnp.float32, True),
    ((1, 8, 8, 2 * WIDE), WIDE // 2, 1, jnp.float32, False),
    ((1, 8, 8, 2 * WIDE), WIDE, 2, jnp.float32, False),
    ((1, 8, 8, 2 * WIDE), WIDE, 1, jnp.bfloat16, False),
    ((1, 4, 4, 2 * WIDE), WIDE, 1, jnp.float32, False),
    ((1, 8, 7, 2 * WIDE), WIDE, 1, jnp.float32, False),
])  # fmt: skip
def test_it_pays_for_wide_float32_blocks_of_even_maps(shape, features, strides, dtype, expected):
    assert channels_first.pays(shape, features, strides, dtype) is expected
