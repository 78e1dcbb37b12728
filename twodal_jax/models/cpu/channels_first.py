"""Wide residual blocks of a folded network on a CPU, computed as [channels, positions].

With few images a map has few positions: kernel times map, in this order, is a product whose long side is the
kernel's, and each of its rows is read once and in order. That needs channels first. Of the 3x3 convolutions the
widest are Winograd's (`models.winograd`), with their input transformed by one product with a constant; the others
are one product with the nine neighbours of every position. `is_faster` says for how many images this form is the faster.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.models.cpu import winograd
from twodal_jax.models.layers import add_relu, Conv, KERNEL_INIT

# Measured on two cores with AVX-512: blocks of so many channels or more are the faster for so many images or fewer.
MOST_IMAGES = {256: 4, 512: 32}
MIN_CHANNELS_TILED = 512  # of a 3x3 convolution that gains by Winograd's form


def is_faster(images: int, features: int, dtype: jnp.dtype) -> bool:
    """Whether bottleneck blocks of so many features are faster in this form, here, for so many images at a time.

    The form is one of the parameters, so it follows the device at hand; exported networks are never in it.
    """
    gains = any(features >= channels and images <= most for channels, most in MOST_IMAGES.items())
    return jax.default_backend() == "cpu" and dtype == jnp.float32 and gains


def tiled(features: int, height: int, width: int) -> bool:
    """Whether a block's 3x3 convolution is Winograd's."""
    return features >= MIN_CHANNELS_TILED and height % winograd.TILE == 0 and width % winograd.TILE == 0


def enter(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [C, B * H * W]. The transpose costs nothing: products that follow read it as it is."""
    return x.reshape(-1, x.shape[-1]).T


def pooled(x: jax.Array, share: np.ndarray) -> jax.Array:
    """[C, B * H * W] -> [B, C], sums over positions; share: float32 [H, W], the weight of each."""
    x = x.reshape(len(x), -1, share.size)
    return jnp.einsum("p,cbp->bc", share.ravel(), x, precision=jax.lax.Precision.HIGHEST)


def neighbours(x: jax.Array, height: int, width: int) -> jax.Array:
    """[C, B * H * W] -> [9 * C, B * H * W]: what a 3x3 kernel sees at each position, zeros outside the map.

    Row (3 i + j) * C + c is channel c of the neighbour i - 1 rows down and j - 1 columns right.
    """
    x = jnp.pad(x.reshape(len(x), -1, height, width), ((0, 0), (0, 0), (1, 1), (1, 1)))
    columns = jnp.stack([x[..., j : j + width] for j in range(3)])
    rows = columns.reshape(-1, x.shape[1], (height + 2) * width)
    size = height * width
    seen = jnp.concatenate([rows[..., i * width : i * width + size] for i in range(3)])
    return seen.reshape(len(seen), -1)


def input_tiles(height: int, width: int) -> np.ndarray:
    """float32 [H * W, 16, tiles]: a map's positions -> entry by entry, its tiles, transformed (`winograd.INPUT`)."""

    def along(length: int) -> np.ndarray:
        """[4, tiles, length] of one axis: tile t sees positions 2 t - 1 to 2 t + 2, zeros outside the map."""
        seen = np.zeros((length // winograd.TILE, winograd.TILE + 2, length + 2), np.float32)
        for tile, entries in enumerate(seen):
            np.fill_diagonal(entries[:, winograd.TILE * tile :], 1)
        return np.einsum("ie,tep->itp", winograd.INPUT, seen[:, :, 1:-1])

    both = np.einsum("isy,jtx->yxijst", along(height), along(width))
    return both.reshape(height * width, winograd.INPUT.size, -1)


class Product(nn.Module):
    """A product with a bias, [C, M] -> [features, M]: a 1x1 convolution, or, of neighbours, a 3x3 one.

    Parameters: `matrix` [features, C], `bias`.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        matrix = self.param("matrix", lambda key: matrix_of(KERNEL_INIT(key, (1, 1, len(x), self.features))))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return matrix @ x + bias[:, None]


class TiledConv(nn.Module):
    """A 3x3 convolution with a bias: [C, B * H * W] -> [features, B * H * W]; H and W even.

    Parameters: `tiles` [16, features, C], the transformed kernel, and `bias`.
    """

    features: int
    height: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("tiles", lambda key: tiles_of(KERNEL_INIT(key, (3, 3, len(x), self.features))))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        constant = input_tiles(self.height, self.width)
        tiles = x.reshape(-1, len(constant)) @ constant.reshape(len(constant), -1)
        tiles = tiles.reshape(len(x), -1, *constant.shape[1:])
        products = jnp.einsum("efc,cbet->efbt", kernel, tiles)
        side = len(winograd.INPUT)
        grid = [[products[side * i + j] for j in range(side)] for i in range(side)]
        outputs = [jnp.stack(row, axis=-1) for row in winograd.transformed(winograd.OUTPUT, grid)]
        rows = jnp.stack([row.reshape(-1, self.width) for row in outputs], axis=1)
        return rows.reshape(self.features, -1) + bias[:, None]


class Block(nn.Module):
    """A bottleneck block (`models.regressor.Block`) with stride 1: [C, B * H * W] -> [4 * features, B * H * W]."""

    features: int
    height: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(Product(self.features, name="conv1")(x))
        if tiled(self.features, self.height, self.width):
            y = TiledConv(self.features, self.height, self.width, name="conv2")(y)
        else:
            y = Product(self.features, name="conv2")(neighbours(y, self.height, self.width))
        y = Product(4 * self.features, name="conv3")(nn.relu(y))
        if x.shape != y.shape:
            x = Product(4 * self.features, name="conv_shortcut")(x)
        return add_relu(x, y)


class EnteringBlock(nn.Module):
    """The same with a stride and a shortcut, from channels last: [B, H, W, C] -> [4 * features, B * H' * W'].

    The transposes are before the widest maps.
    """

    features: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(Conv(self.features, 1, bias=True, name="conv1")(x))
        y = nn.relu(Conv(self.features, 3, self.strides, bias=True, name="conv2")(y))
        y = Product(4 * self.features, name="conv3")(enter(y))
        x = enter(x[:, :: self.strides, :: self.strides])
        return add_relu(Product(4 * self.features, name="conv_shortcut")(x), y)


def matrix_of(kernel: jax.Array) -> jax.Array:
    """A kernel [k, k, C, F] as `Product` holds it."""
    return kernel.reshape(-1, kernel.shape[-1]).T


def tiles_of(kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution's kernel [3, 3, C, F] as `TiledConv` holds it."""
    return jnp.concatenate(winograd.transform_kernel(kernel)).swapaxes(1, 2)
