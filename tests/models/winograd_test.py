"""Winograd's convolution: the plain sum's values and gradients, and where it is used."""

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
    return np.stack(
        [
            np.stack(
                [
                    sum(
                        scipy.signal.correlate2d(image[..., c], kernel[..., c, f], "same")
                        for c in range(image.shape[-1])
                    )
                    for f in range(kernel.shape[-1])
                ],
                axis=-1,
            )
            for image in x
        ]
    )


@pytest.mark.parametrize("height, width", [(8, 8), (7, 10), (1, 3), (2, 1)])
def test_values_equal_scipys_correlation(height, width):
    x, kernel, _ = arrays(height, width, 3, 5)
    expected = plain_float64(x, kernel)
    found = jax.jit(winograd.convolve)(x, kernel)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("height, width", [(8, 8), (7, 10), (1, 3)])
def test_gradients_are_the_adjoints_of_the_plain_sum(height, width):
    """<convolve(x, k), g> is linear in x and in k: its gradients are known from SciPy's values alone."""
    x, kernel, cotangent = arrays(height, width, 3, 4)
    _, backwards = jax.vjp(winograd.convolve, x, kernel)
    x_gradient, kernel_gradient = jax.jit(backwards)(cotangent)
    other_x, other_kernel, _ = arrays(height, width, 3, 4, seed=1)
    for found, expected in (
        ((x_gradient * other_x).sum(), (plain_float64(other_x, kernel) * cotangent).sum()),
        ((kernel_gradient * other_kernel).sum(), (plain_float64(x, other_kernel) * cotangent).sum()),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_xlas_convolution_entry_by_entry():
    x, kernel, cotangent = arrays(9, 6, 8, 5)

    def xla(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for own, wanted in zip(*(jax.vjp(f, x, kernel)[1](cotangent) for f in (winograd.convolve, xla))):
        np.testing.assert_allclose(own, wanted, atol=3e-6 * np.abs(wanted).max())


WIDE = winograd.MIN_CHANNELS
FOUR = (4, 8, 8, WIDE)


@pytest.mark.parametrize(
    "x_shape, kernel, strides, dtype, expected",
    [
        (FOUR, (3, 3, WIDE, WIDE), 1, jnp.float32, True),
        (FOUR, (3, 3, WIDE, WIDE), 2, jnp.float32, False),
        (FOUR, (3, 3, WIDE, WIDE), 1, jnp.bfloat16, False),  # sums of four lose bits it has not got
        (FOUR, (3, 3, WIDE, WIDE - 8), 1, jnp.float32, False),
        (FOUR, (1, 1, WIDE, WIDE), 1, jnp.float32, False),
        ((4, 4, 4, WIDE), (3, 3, WIDE, WIDE), 1, jnp.float32, False),
        ((1, 8, 8, WIDE), (3, 3, WIDE, WIDE), 1, jnp.float32, False),
    ],
)
def test_it_pays_for_wide_float32_convolutions_of_stride_1(x_shape, kernel, strides, dtype, expected):
    assert winograd.is_faster(x_shape, kernel, strides, dtype) is expected


def convolutions(module, variables, shape):
    """How many convolutions the program has that is lowered for the device at hand."""
    lowered = jax.jit(module.apply).lower(variables, jax.ShapeDtypeStruct(shape, jnp.float32))
    return lowered.as_text().count("stablehlo.convolution")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends keep the plain convolution")
def test_a_wide_layer_takes_it_unless_its_program_is_for_any_batch_size():
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
