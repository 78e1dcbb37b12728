"""Channels-first blocks equal channels-last blocks, for any number of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.models.cpu import channels_first, winograd
from twodal_jax.models.resnet import Block


def images(batch, height, width, channels, seed=0):
    shape = (batch, height, width, channels)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("batch, height, width", [(1, 8, 8), (3, 2, 6), (2, 4, 2)])
def test_weighted_sum_of_channels_first_equals_the_sum_of_channels_last(batch, height, width):
    x, weights = images(batch, height, width, 5), images(1, height, width, 1)[0, ..., 0]
    entered = channels_first.to_channels_first(x)
    assert entered.shape == (5, batch * height * width)
    expected = np.einsum("bhwc,hw->bc", np.float64(x), weights)
    np.testing.assert_allclose(channels_first.weighted_sum(entered, weights), expected, atol=1e-5)


@pytest.mark.parametrize("height, width", [(8, 8), (2, 6), (4, 2)])
def test_input_tiles_are_winograds(height, width):
    """The reference cuts each tile's 4x4 inputs from the padded map and transforms them as in the paper."""
    x = images(1, height, width, 1)[0, ..., 0]
    padded = np.pad(x, 1)
    tiles = [padded[top : top + 4, left : left + 4] for top in range(0, height, 2) for left in range(0, width, 2)]
    expected = np.stack([winograd.INPUT @ tile @ winograd.INPUT.T for tile in tiles], axis=-1)
    found = np.einsum("p,pet->et", x.ravel(), channels_first.input_tiles(height, width))
    np.testing.assert_allclose(found.reshape(4, 4, -1), expected, atol=1e-5)


@pytest.mark.parametrize("batch, height, width", [(1, 8, 8), (3, 5, 2)])
def test_neighbours_are_shifts_of_the_padded_map(batch, height, width):
    x = images(batch, height, width, 3)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [padded[:, i : i + height, j : j + width, c] for i in range(3) for j in range(3) for c in range(3)]
    found = channels_first.neighbours(channels_first.to_channels_first(x), height, width)
    np.testing.assert_array_equal(found, np.stack(expected).reshape(27, -1))


def converted(params, block, inputs):
    """Variables of `block` from the parameters of a channels-last block."""
    forms = {"matrix": channels_first.matrix_of, "tiles": channels_first.tiles_of, "kernel": lambda kernel: kernel}
    expected = jax.eval_shape(block.init, jax.random.key(0), inputs)["params"]
    result = {}
    for name, layer in params.items():
        (form,) = forms.keys() & expected[name].keys()
        result[name] = {"bias": layer["bias"], form: forms[form](layer["kernel"])}
    assert jax.tree.map(np.shape, result) == jax.tree.map(lambda leaf: leaf.shape, expected)
    return {"params": result}


def plain_block(x, strides):
    """(random parameters, expected output with channels first) of a folded channels-last block."""
    plain = Block(4, strides, True, None, jnp.float32, folded=True)
    params = plain.init(jax.random.key(0), x, train=False)["params"]
    params = jax.tree.map(lambda leaf: images(1, 1, 1, leaf.size, seed=leaf.size).reshape(leaf.shape) / 2, params)
    return params, channels_first.to_channels_first(plain.apply({"params": params}, x, train=False))


@pytest.mark.parametrize("min_channels", [4, 8], ids=["winograd", "neighbours"])
@pytest.mark.parametrize("batch, height, width", [(1, 8, 8), (3, 4, 6), (2, 5, 4)])
@pytest.mark.parametrize("channels", [16, 6], ids=["identity", "shortcut"])
def test_block_equals_the_channels_last_block(monkeypatch, min_channels, batch, height, width, channels):
    monkeypatch.setattr(channels_first, "MIN_CHANNELS_TILED", min_channels)
    x = images(batch, height, width, channels)
    params, expected = plain_block(x, 1)
    block, entered = channels_first.Block(4, height, width), channels_first.to_channels_first(x)
    found = jax.jit(block.apply)(converted(params, block, entered), entered)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("batch, height, width", [(1, 8, 8), (3, 5, 7)])
def test_entry_block_equals_the_channels_last_block(batch, height, width):
    x = images(batch, height, width, 6)
    params, expected = plain_block(x, 2)
    block = channels_first.EntryBlock(4, 2)
    found = jax.jit(block.apply)(converted(params, block, x), x)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends keep channels last")
@pytest.mark.parametrize(
    "images, features, dtype, expected",
    [
        (1, 256, jnp.float32, True),
        (4, 512, jnp.float32, True),
        (5, 256, jnp.float32, False),
        (5, 512, jnp.float32, True),
        (64, 512, jnp.float32, False),
        (1, 255, jnp.float32, False),
        (1, 512, jnp.bfloat16, False),
    ],
)
def test_is_faster_for_wide_float32_blocks_and_few_images(images, features, dtype, expected):
    assert channels_first.is_faster(images, features, dtype) is expected
