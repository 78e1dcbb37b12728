"""Winograd's convolution: values and gradients of the plain sum, and when it is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from twodal_jax.models.cpu import winograd
from twodal_jax.models.layers import Conv


def arrays(height, width, channels, features, batch=2, seed=0):
    """x, kernel and a cotangent of the output, float32."""
    rng = np.random.default_rng(seed)
    shapes = (batch, height, width, channels), (3, 3, channels, features), (batch, height, width, features)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def plain_float64(x, kernel):
    """The sum over channels of SciPy's correlations."""
    x, kernel = np.float64(x), np.float64(kernel)
    output = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for b, c, f in np.ndindex(len(x), *kernel.shape[2:]):
        output[b, ..., f] += scipy.signal.correlate2d(x[b, ..., c], kernel[..., c, f], "same")
    return output


@pytest.mark.parametrize("height, width", [(8, 8), (7, 10), (1, 3), (2, 1)])
def test_convolve_equals_scipys_correlation(height, width):
    x, kernel, _ = arrays(height, width, 3, 5)
    expected = plain_float64(x, kernel)
    found = jax.jit(winograd.convolve)(x, kernel)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("height, width", [(8, 8), (7, 10), (9, 6), (1, 3)])
def test_gradients_equal_those_of_xlas_convolution(height, width):
    x, kernel, cotangent = arrays(height, width, 8, 5)

    def xla(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for own, wanted in zip(*(jax.vjp(f, x, kernel)[1](cotangent) for f in (winograd.convolve, xla))):
        np.testing.assert_allclose(own, wanted, atol=3e-6 * np.abs(wanted).max())


WIDE = winograd.MIN_CHANNELS
FOUR_IMAGES = (4, 8, 8, WIDE)


@pytest.mark.parametrize(
    "x_shape, kernel, strides, dtype, expected",
    [
        (FOUR_IMAGES, (3, 3, WIDE, WIDE), 1, jnp.float32, True),
        (FOUR_IMAGES, (3, 3, WIDE, WIDE), 2, jnp.float32, False),
        (FOUR_IMAGES, (3, 3, WIDE, WIDE), 1, jnp.bfloat16, False),  # sums of four values lose too many of its bits
        (FOUR_IMAGES, (3, 3, WIDE, WIDE - 8), 1, jnp.float32, False),
        (FOUR_IMAGES, (1, 1, WIDE, WIDE), 1, jnp.float32, False),
        ((4, 4, 4, WIDE), (3, 3, WIDE, WIDE), 1, jnp.float32, False),
        ((1, 8, 8, WIDE), (3, 3, WIDE, WIDE), 1, jnp.float32, False),
    ],
)
def test_is_faster_for_wide_float32_convolutions_of_stride_1(x_shape, kernel, strides, dtype, expected):
    assert winograd.is_faster(x_shape, kernel, strides, dtype) is expected


def convolutions(module, variables, shape):
    """Number of convolutions in the program lowered for the device at hand."""
    lowered = jax.jit(module.apply).lower(variables, jax.ShapeDtypeStruct(shape, jnp.float32))
    return lowered.as_text().count("stablehlo.convolution")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends keep the plain convolution")
def test_a_wide_layer_uses_winograd_unless_its_program_is_for_any_batch_size():
    module = Conv(WIDE)
    x, kernel, _ = arrays(8, 8, WIDE, WIDE, batch=4)
    variables = {"params": {"kernel": kernel}}
    assert convolutions(module, variables, x.shape) == 0
    (batch,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(module.apply))(
        variables, jax.ShapeDtypeStruct((batch, *x.shape[1:]), jnp.float32)
    )
    assert "convolution" in exported.mlir_module()
    expected = np.asarray(exported.call(variables, x))
    found = np.asarray(jax.jit(module.apply)(variables, x))
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())
