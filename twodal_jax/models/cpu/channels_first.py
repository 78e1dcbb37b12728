"""Wide residual blocks of a folded network on a CPU, computed as [channels, positions].

With few images a map has few positions. The product of kernel and map, in this order, then has the kernel on its
long side and reads each of its rows once and in order, which requires channels first. The widest 3x3 convolutions use
Winograd's form (`models.cpu.winograd`), with their input transformed by one product with a constant. The others are one
product with the nine neighbours of every position. `is_faster` decides by the number of images.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.models.cpu import winograd
from twodal_jax.models.layers import add_relu, Conv, KERNEL_INIT

# Measured on two cores with AVX-512. {minimum channels: maximum images} for which blocks are faster in this form.
MAX_IMAGES = {256: 4, 512: 32}
MIN_CHANNELS_TILED = 512  # of 3x3 convolutions that are faster in Winograd's form


def is_faster(images: int, features: int, dtype: jnp.dtype) -> bool:
    """Whether bottleneck blocks are faster in this form on this machine, for `images` images at a time.

    The parameters have this form too, so it depends on the device at hand; exported networks never use it.
    """
    faster = any(features >= channels and images <= maximum for channels, maximum in MAX_IMAGES.items())
    return jax.default_backend() == "cpu" and dtype == jnp.float32 and faster


def uses_winograd(features: int, height: int, width: int) -> bool:
    """Whether a block's 3x3 convolution uses Winograd's form."""
    return features >= MIN_CHANNELS_TILED and height % winograd.TILE == 0 and width % winograd.TILE == 0


def to_channels_first(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [C, B * H * W]. The transpose is free, because the products after it read the array unchanged."""
    return x.reshape(-1, x.shape[-1]).T


def weighted_sum(x: jax.Array, weights: np.ndarray) -> jax.Array:
    """[C, B * H * W] -> [B, C], sums over positions with weights [H, W] float32."""
    x = x.reshape(len(x), -1, weights.size)
    return jnp.einsum("p,cbp->bc", weights.ravel(), x, precision=jax.lax.Precision.HIGHEST)


def neighbours(x: jax.Array, height: int, width: int) -> jax.Array:
    """[C, B * H * W] -> [9 * C, B * H * W]: the inputs of a 3x3 kernel at each position, zeros outside the map.

    Row (3 i + j) * C + c is channel c of the neighbour i - 1 rows down and j - 1 columns right.
    """
    x = jnp.pad(x.reshape(len(x), -1, height, width), ((0, 0), (0, 0), (1, 1), (1, 1)))
    columns = jnp.stack([x[..., j : j + width] for j in range(3)])
    rows = columns.reshape(-1, x.shape[1], (height + 2) * width)
    size = height * width
    seen = jnp.concatenate([rows[..., i * width : i * width + size] for i in range(3)])
    return seen.reshape(len(seen), -1)


def input_tiles(height: int, width: int) -> np.ndarray:
    """Matrix [H * W, 16, tiles], float32, from a map's positions to the entries of its transformed Winograd tiles."""

    def along(length: int) -> np.ndarray:
        """[4, tiles, length] of one axis; tile t covers positions 2 t - 1 to 2 t + 2, zeros outside the map."""
        seen = np.zeros((length // winograd.TILE, winograd.TILE + 2, length + 2), np.float32)
        for tile, entries in enumerate(seen):
            np.fill_diagonal(entries[:, winograd.TILE * tile :], 1)
        return np.einsum("ie,tep->itp", winograd.INPUT, seen[:, :, 1:-1])

    both = np.einsum("isy,jtx->yxijst", along(height), along(width))
    return both.reshape(height * width, winograd.INPUT.size, -1)


class Product(nn.Module):
    """Product with a bias, [C, M] -> [features, M]: a 1x1 convolution, or a 3x3 one of `neighbours`.

    Parameters: `matrix` [features, C], `bias`.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer; the class's docstring has the shapes."""
        matrix = self.param("matrix", lambda key: matrix_of(KERNEL_INIT(key, (1, 1, len(x), self.features))))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return matrix @ x + bias[:, None]


class TiledConv(nn.Module):
    """Winograd's 3x3 convolution with a bias: [C, B * H * W] -> [features, B * H * W]; H and W even.

    Parameters: `tiles` [16, features, C], the transformed kernel, and `bias`.
    """

    features: int
    height: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer; the class's docstring has the shapes."""
        kernel = self.param("tiles", lambda key: tiles_of(KERNEL_INIT(key, (3, 3, len(x), self.features))))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        transform = input_tiles(self.height, self.width)
        tiles = x.reshape(-1, len(transform)) @ transform.reshape(len(transform), -1)
        tiles = tiles.reshape(len(x), -1, *transform.shape[1:])
        products = jnp.einsum("efc,cbet->efbt", kernel, tiles)
        side = len(winograd.INPUT)
        grid = [[products[side * i + j] for j in range(side)] for i in range(side)]
        outputs = [jnp.stack(row, axis=-1) for row in winograd.transformed(winograd.OUTPUT, grid)]
        rows = jnp.stack([row.reshape(-1, self.width) for row in outputs], axis=1)
        return rows.reshape(self.features, -1) + bias[:, None]


class Block(nn.Module):
    """Bottleneck block (`models.resnet.Block`) with stride 1: [C, B * H * W] -> [4 * features, B * H * W]."""

    features: int
    height: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer; the class's docstring has the shapes."""
        y = nn.relu(Product(self.features, name="conv1")(x))
        if uses_winograd(self.features, self.height, self.width):
            y = TiledConv(self.features, self.height, self.width, name="conv2")(y)
        else:
            y = Product(self.features, name="conv2")(neighbours(y, self.height, self.width))
        y = Product(4 * self.features, name="conv3")(nn.relu(y))
        if x.shape != y.shape:
            x = Product(4 * self.features, name="conv_shortcut")(x)
        return add_relu(x, y)


class EntryBlock(nn.Module):
    """Bottleneck block with stride and shortcut that enters channels first: [B, H, W, C] -> [4 features, B * H' * W'].

    It transposes before the widest maps.
    """

    features: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer; the class's docstring has the shapes."""
        y = nn.relu(Conv(self.features, 1, bias=True, name="conv1")(x))
        y = nn.relu(Conv(self.features, 3, self.strides, bias=True, name="conv2")(y))
        y = Product(4 * self.features, name="conv3")(to_channels_first(y))
        x = to_channels_first(x[:, :: self.strides, :: self.strides])
        return add_relu(Product(4 * self.features, name="conv_shortcut")(x), y)


def matrix_of(kernel: jax.Array) -> jax.Array:
    """Kernel [k, k, C, F] in the layout of `Product`."""
    return kernel.reshape(-1, kernel.shape[-1]).T


def tiles_of(kernel: jax.Array) -> jax.Array:
    """Kernel [3, 3, C, F] in the layout of `TiledConv`."""
    return jnp.concatenate(winograd.transform_kernel(kernel)).swapaxes(1, 2)
