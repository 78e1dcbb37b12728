"""3x3 convolution with stride 1 and padding 1 by Winograd's F(2x2, 3x3), for CPUs.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), eq. 8 and 9: the output is divided into 2x2
tiles. Each is the entry-wise product of a transformed 4x4 tile of the input and the transformed kernel. Over all tiles
and channels every entry of the 4x4 is one matrix product: 16 multiplications where the plain sum has 36. Each row of
the 4x4 is one batch of products, so that few tiles keep all cores busy. The gradients are the adjoints of the
transforms, with as many products. `is_faster` selects the convolutions that benefit.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

TILE = 2  # outputs of a tile in each direction; it takes TILE + 2 inputs
INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
FLIPPED = (3, 1, 2, 0)  # row i of KERNEL applied to a reversed kernel is its row FLIPPED[i]

# Measured on two cores with AVX-512: below these sizes the transforms cost what the products save.
MIN_CHANNELS, MIN_SIDE, MIN_IMAGES = 256, 7, 4

Grid = Sequence[Sequence[jax.Array]]  # entry (i, j) of every tile, [tiles, C]
Rows = tuple[jax.Array, ...]  # 4 arrays [4, C, F]: a transformed kernel, row by row


def is_faster(x_shape: Sequence[int], kernel_shape: Sequence[int], strides: int, dtype: jnp.dtype) -> bool:
    """Whether a convolution of [B, H, W, C] by [k, k, C, F] has this form and is faster so on a CPU.

    A program exported for any batch size keeps the plain sum.
    """
    if tuple(kernel_shape[:2]) != (3, 3) or strides != 1 or dtype != jnp.float32:
        return False
    images, height, width, _ = x_shape
    few = not isinstance(images, int) or images < MIN_IMAGES
    return not few and min(height, width) >= MIN_SIDE and min(kernel_shape[2:]) >= MIN_CHANNELS


def _combined(row: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
    """sum_i row[i] arrays[i], without the zeros."""
    terms = [x if c == 1 else -x if c == -1 else x * c for c, x in zip(row, arrays) if c != 0]
    return sum(terms[1:], terms[0])


def transformed(matrix: np.ndarray, grid: Grid) -> Grid:
    """Return matrix @ grid @ matrix.T for a grid whose entries are arrays of one shape."""
    columns = [[_combined(row, column) for row in matrix] for column in zip(*grid)]
    return [[_combined(row, rows) for row in matrix] for rows in zip(*columns)]


def _entries(x: jax.Array, before: int, size: int) -> Grid:
    """[B, H, W, C] -> size x size arrays [tiles, C]: entry (i, j) of all tiles, which start every TILE pixels.

    before: number of zeros above and left; below and right there are as many or one more.
    """
    batch, height, width, channels = x.shape
    down, across = -(-height // TILE), -(-width // TILE)
    after = size - TILE - before
    ends = [(before, TILE * count - length + after) for count, length in ((down, height), (across, width))]
    x = jnp.pad(x, ((0, 0), *ends, (0, 0)))

    def entry(i: int, j: int) -> jax.Array:
        stop = (batch, i + TILE * (down - 1) + 1, j + TILE * (across - 1) + 1, channels)
        return jax.lax.slice(x, (0, i, j, 0), stop, (1, TILE, TILE, 1)).reshape(-1, channels)

    return [[entry(i, j) for j in range(size)] for i in range(size)]


def _input_tiles(x: jax.Array) -> Grid:
    """[B, H, W, C] -> 4 x 4 arrays [tiles, C]: the transformed tiles of a convolution's input."""
    return transformed(INPUT, _entries(x, before=1, size=TILE + 2))


def _joined(grid: Grid, shape: tuple[int, ...]) -> jax.Array:
    """Inverse of `_entries` for the 2x2 arrays of disjoint tiles: [B, H, W, C] with `shape`'s B, H and W."""
    batch, height, width = shape[:3]
    tiles = (batch, -(-height // TILE), -(-width // TILE), grid[0][0].shape[-1])
    rows = [jnp.stack([entry.reshape(tiles) for entry in row], axis=3) for row in grid]
    x = jnp.stack(rows, axis=2).reshape(batch, TILE * tiles[1], TILE * tiles[2], tiles[3])
    return x[:, :height, :width]


def _products(first: Rows, second: Rows, contracted: tuple[int, int]) -> Grid:
    """Products of matrices at the same grid position; contracted: the axis of each that is summed over."""
    dimensions = (((contracted[0] + 1,), (contracted[1] + 1,)), ((0,), (0,)))
    return [list(jax.lax.dot_general(a, b, dimensions)) for a, b in zip(first, second)]


def _rows(grid: Grid) -> Rows:
    return tuple(jnp.stack(row) for row in grid)


def transform_kernel(kernel: jax.Array) -> Rows:
    """Transformed kernel [3, 3, C, F] -> 4 arrays [4, C, F], the rows of the 4x4."""
    return _rows(transformed(KERNEL, [[kernel[i, j] for j in range(3)] for i in range(3)]))


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of [B, H, W, C] by [3, 3, C, F] with zero padding of 1 -> [B, H, W, F].

    Agrees with the plain sum to about 1e-6 of the largest value in float32.
    """
    products = _products(_rows(_input_tiles(x)), transform_kernel(kernel), (1, 0))
    return _joined(transformed(OUTPUT, products), x.shape)


def _forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _backward(residuals, cotangent):
    x, kernel = residuals
    # Gradient of the input: a convolution with the flipped kernel, with its channel axes exchanged.
    tiles = _rows(_flipped(_input_tiles(cotangent)))
    products = _flipped(_products(tiles, transform_kernel(kernel), (1, 1)))
    x_gradient = _joined(transformed(OUTPUT, products), x.shape)
    # Gradient of the kernel: the adjoint of every step of the forward pass.
    tiles = _rows(transformed(OUTPUT.T, _entries(cotangent, before=0, size=TILE)))
    products = _products(_rows(_input_tiles(x)), tiles, (0, 0))
    return x_gradient, jnp.stack(_rows(transformed(KERNEL.T, products)))


def _flipped(grid: Grid) -> Grid:
    return [[grid[i][j] for j in FLIPPED] for i in FLIPPED]


convolve.defvjp(_forward, _backward)
