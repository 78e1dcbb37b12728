"""Layers that differ from Flax's for a measured reason; parameters and statistics keep Flax's layout.

On a CPU, XLA's filter gradient of a 1x1 convolution is up to 12 times slower than a matrix product, 3x3 convolutions
with many channels need fewer multiplications in Winograd's form (`models.cpu.winograd`), automatic differentiation of
BatchNorm makes four to five slow column reductions per layer, and a two-dimensional max-pool is slower than two
one-dimensional ones. Each layer takes the form that is fast on the platform that a program is lowered for
(`by_platform`), so a program exported for several platforms has the right form for each. The mathematics is the same.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from twodal_jax.distributed.platforms import by_platform
from twodal_jax.models.cpu import winograd

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
SHARED_MOMENTS = "shared_moments"  # stored under rematerialisation, because they cost an all-reduce
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [padding] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _matmul_1x1(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A 1x1 convolution as a matrix product."""
    x = x[:, ::stride, ::stride]
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


def _with_bias(module: nn.Module, x: jax.Array) -> jax.Array:
    """Output of `module.convolve`, plus the parameter `bias` [features] if the module has one."""
    if not module.bias:
        return module.convolve(x)
    offset = module.param("bias", nn.initializers.zeros, (module.features,))
    return module.convolve(x) + offset.astype(module.dtype)


class Conv(nn.Module):
    """2D convolution, NHWC, with PyTorch's padding (kernel // 2 on every side).

    On a CPU a 1x1 convolution is a matrix product, and a 3x3 one takes Winograd's form if `winograd.is_faster`.
    Parameters: `kernel` [k, k, in, out] and, with `bias`, `bias` [out].
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    dtype: jnp.dtype = jnp.float32
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, in] -> [B, H', W', out]."""
        return _with_bias(self, x)

    def convolve(self, x: jax.Array) -> jax.Array:
        """Convolution without bias."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", KERNEL_INIT, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        plain = functools.partial(_convolve, stride=self.strides, padding=(self.kernel_size // 2,) * 2)
        if self.kernel_size == 1:
            return by_platform(functools.partial(_matmul_1x1, stride=self.strides), plain, x, kernel)
        if winograd.is_faster(x.shape, shape, self.strides, self.dtype):
            return by_platform(winograd.convolve, plain, x, kernel)
        return plain(x, kernel)


def _column_means(*factors: jax.Array) -> jax.Array:
    """Means of the product of the factors [..., C] over all axes but the last -> [C] float32."""
    return by_platform(_column_means_on_cpu, _plain_column_means, *factors)


def _plain_column_means(*factors: jax.Array) -> jax.Array:
    product = functools.reduce(jnp.multiply, [factor.astype(jnp.float32) for factor in factors])
    return jnp.mean(product, axis=tuple(range(product.ndim - 1)))


def _column_means_on_cpu(*factors: jax.Array) -> jax.Array:
    """Column means as a matrix product of ones with blocks of rows [M, C], which is fast and exact on a CPU.

    Narrow rows are joined several at a time, because a product of a few columns leaves most of a CPU's lanes empty.
    """
    rows = functools.reduce(jnp.multiply, factors).reshape(-1, factors[0].shape[-1])
    count, features = rows.shape
    joined = 1
    while joined * features < 128 and count % (16 * joined) == 0:
        joined *= 2
    blocks = next((blocks for blocks in (8, 4, 2) if count % (blocks * joined) == 0), 0)
    if not blocks:
        return _plain_column_means(rows)
    selector = jnp.repeat(jnp.eye(blocks, dtype=rows.dtype), count // (blocks * joined), axis=1)
    wide = rows.reshape(count // joined, joined * features)
    sums = jnp.matmul(selector, wide, preferred_element_type=jnp.float32)
    return sums.reshape(-1, features).sum(axis=0) / count


def _pmean_pair(first, second, axis_name: str | None):
    """Means of two arrays of equal shape over the mapped axis, in one all-reduce."""
    if axis_name is None or jax.lax.axis_size(axis_name) == 1:
        return first, second
    return tuple(jax.lax.pmean(jnp.stack([first, second]), axis_name))


def _moments(x, axis_name):
    moments = _pmean_pair(_column_means(x), _column_means(x, x), axis_name)
    mean, square = checkpoint_name(moments, SHARED_MOMENTS)
    return mean, jnp.maximum(square - mean**2, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch normalisation of [..., C] with the batch's statistics and a closed-form gradient.

    Returns the normalised x, and mean and (biased) variance [C] in float32 over all other axes; no gradient flows
    through the last two. With `axis_name`, statistics and gradient are those of the entries of all devices.
    """
    return _normalize_forward(x, scale, bias, axis_name)[0]


def _normalize_forward(x, scale, bias, axis_name):
    mean, variance = _moments(x, axis_name)
    inverse = jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
    factor = scale * inverse
    out = x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)
    return (out, mean, variance), (x, scale, mean, inverse)


def _normalize_backward(axis_name, residuals, cotangents):
    x, scale, mean, inverse = residuals
    cotangent, _, _ = cotangents
    local = _column_means(cotangent), _column_means(cotangent, x)
    mean_g, mean_gx = _pmean_pair(*local, axis_name)
    normalized_g = (mean_gx - mean_g * mean) * inverse  # mean of cotangent * normalised x
    slope = scale * inverse
    by_x = slope * normalized_g * inverse
    offset = slope * mean_g - by_x * mean
    gradient = cotangent * slope.astype(x.dtype) - x * by_x.astype(x.dtype) - offset.astype(x.dtype)
    local_g, local_gx = local
    count = x.size // x.shape[-1]
    return gradient, (local_gx - local_g * mean) * inverse * count, local_g * count


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last; names and shapes are those of Flax's `nn.BatchNorm`.

    Attributes:
      axis_name: mapped axis whose devices share statistics, or None.
      scale_init: initialiser of the scale (zeros for the last layer of a residual branch).
    """

    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    momentum: float = BATCH_NORM_MOMENTUM

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalise with the batch's statistics (`train`) or the running ones."""
        features = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        variance = self.variable("batch_stats", "var", jnp.ones, features)
        if not train:
            factor = scale * jax.lax.rsqrt(variance.value + BATCH_NORM_EPSILON)
            return x * factor.astype(x.dtype) + (bias - mean.value * factor).astype(x.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        out, batch_mean, batch_variance = normalize_batch(x, scale, bias, axis_name)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            mean.value += (1 - self.momentum) * (batch_mean - mean.value)
            variance.value += (1 - self.momentum) * (batch_variance - variance.value)
        return out


class StemConv(nn.Module):
    """7x7 convolution of a ResNet's stem, with stride 2 and padding 3; parameters as in `Conv`.

    On a CPU it runs on 2x2 blocks of pixels as a 4x4 convolution with stride 1: the same sums, whose gradient with
    respect to the input needs no dilated convolution.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, in] -> [B, H', W', out]."""
        return _with_bias(self, x)

    def convolve(self, x: jax.Array) -> jax.Array:
        """Convolution without bias."""
        kernel = self.param("kernel", KERNEL_INIT, (7, 7, x.shape[-1], self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        plain = functools.partial(_convolve, stride=2, padding=(3, 3))
        if x.shape[1] % 2 or x.shape[2] % 2:
            return plain(x, kernel)
        return by_platform(_convolve_blocks, plain, x, kernel)


def _convolve_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`StemConv` on 2x2 blocks of pixels."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, -1)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return _convolve(blocks, kernel.reshape(4, 4, 4 * channels, -1), 1, (2, 1))


@jax.custom_jvp
def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """relu(x + y), the end of a residual block; NaN where y is minus infinity.

    On a CPU the same result is written as a sum of two arrays. XLA repeats an operation on one array in every loop that
    uses its result, so it would recompute a block's output in each later block, from the products of all earlier ones.
    """
    return by_platform(lambda x, y: jnp.maximum(x, -y) + y, lambda x, y: jax.nn.relu(x + y), x, y)


@add_relu.defjvp
def _add_relu_jvp(primals, tangents):
    out = add_relu(*primals)
    return out, jnp.where(out > 0, sum(tangents), 0)


def _strided_slices(x: jax.Array, axis: int, window: int, stride: int) -> list[jax.Array]:
    count = (x.shape[axis] - window) // stride + 1
    return [jax.lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis) for start in range(window)]


def max_pool(x: jax.Array, *, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Max-pool of [B, H, W, C], one axis after the other, as a maximum of strided slices.

    On a CPU the gradient of `reduce_window` is a scalar loop, that of a maximum is element-wise. Equal entries share
    the gradient.
    """
    if padding:
        width = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        x = jnp.pad(x, width, constant_values=-jnp.inf)
    for axis in (1, 2):
        x = functools.reduce(jnp.maximum, _strided_slices(x, axis, window, stride))
    return x


def scaled(features: int, width: float) -> int:
    """Number of features at a width multiplier: a multiple of 8, at least 8."""
    return max(8, int(features * width / 8 + 0.5) * 8)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, with the list of choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}; expected one of {', '.join(choices)}.")
