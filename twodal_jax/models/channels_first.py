"""Wide residual blocks of a folded network on a CPU, computed as [channels, positions].

With few images a map has few positions: kernel times map, in this order, is a product whose long side is the
kernel's, and each of its rows is read once and in order. That needs channels first. The 3x3 convolution is Winograd's
(`models.winograd`), with its input transformed by one product with a constant. `pays` says which blocks take this
form.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.models import winograd
from twodal_jax.models.layers import KERNEL_INIT, add_relu, on_cpu

# Measured on two cores with AVX-512: narrower blocks are faster with channels last.
LEAST_CHANNELS = 512


def pays(x_shape: Sequence[int], features: int, strides: int, dtype: jnp.dtype) -> bool:
    """Whether a bottleneck block of so many features, and those after it, take this form for [B, H, W, C] here."""
    _, height, width, channels = x_shape
    wide = min(channels, features) >= LEAST_CHANNELS and min(height, width) >= winograd.LEAST_SIDE
    whole_tiles = height % winograd.TILE == 0 and width % winograd.TILE == 0
    return on_cpu() and wide and whole_tiles and strides == 1 and dtype == jnp.float32


def enter(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [C, B * H * W]. The transpose costs nothing: products that follow read it as it is."""
    return x.reshape(-1, x.shape[-1]).T


def pooled(x: jax.Array, share: np.ndarray) -> jax.Array:
    """[C, B * H * W] -> [B, C], sums over positions; share: float32 [H, W], the weight of each."""
    x = x.reshape(len(x), -1, share.size)
    return jnp.einsum("p,cbp->bc", share.ravel(), x, precision=jax.lax.Precision.HIGHEST)


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
    """A 1x1 convolution with a bias: [C, M] -> [features, M]. Parameters: `matrix` [features, C], `bias`."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        matrix = self.param("matrix", lambda key: matrix_of(KERNEL_INIT(key, (1, 1, len(x), self.features))))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return matrix @ x + bias[:, None]


class TiledConv(nn.Module):
    """A 3x3 convolution with a bias: [C, B * H * W] -> [features, B * H * W].

    Parameters: `tiles` [16, features, C], the transformed kernel, and `bias`. `shape` begins with B, H, W.
    """

    features: int
    shape: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width = self.shape[:3]
        kernel = self.param("tiles", lambda key: tiles_of(KERNEL_INIT(key, (3, 3, len(x), self.features))))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        constant = input_tiles(height, width)
        tiles = x.reshape(len(x) * batch, height * width) @ constant.reshape(height * width, -1)
        tiles = tiles.reshape(len(x), batch, *constant.shape[1:])
        products = jnp.einsum("efc,cbet->efbt", kernel, tiles)
        side = len(winograd.INPUT)
        grid = [[products[side * i + j] for j in range(side)] for i in range(side)]
        outputs = [jnp.stack(row, axis=-1) for row in winograd.transformed(winograd.OUTPUT, grid)]
        rows = jnp.stack([row.reshape(-1, width) for row in outputs], axis=1)
        return rows.reshape(self.features, -1) + bias[:, None]


class Block(nn.Module):
    """A bottleneck block (`models.regressor.Block`) with stride 1: [C, M] -> [4 * features, M].

    shape: begins with B, H, W, whose product is M.
    """

    features: int
    shape: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(Product(self.features, name="conv1")(x))
        y = nn.relu(TiledConv(self.features, self.shape, name="conv2")(y))
        y = Product(4 * self.features, name="conv3")(y)
        if x.shape != y.shape:
            x = Product(4 * self.features, name="conv_shortcut")(x)
        return add_relu(x, y)


def matrix_of(kernel: jax.Array) -> jax.Array:
    """A 1x1 convolution's kernel [1, 1, C, F] as `Product` holds it."""
    return kernel[0, 0].T


def tiles_of(kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution's kernel [3, 3, C, F] as `TiledConv` holds it."""
    return jnp.concatenate(winograd.transform_kernel(kernel)).swapaxes(1, 2)
