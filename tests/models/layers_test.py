"""Layers that differ from Flax's: values, statistics and gradients equal independent references."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.distributed import platforms
from twodal_jax.models import layers


def rows(count=64, channels=6, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, channels)) * [1, 2, 3, 0.1, 5, 1] + [0, 1, -2, 0, 3, 10]).astype(np.float32)


def batch_norm_float64(x, scale, bias, cotangent):
    """Values, mean, variance and gradients of sum(cotangent * y), in float64."""
    x, scale, bias, g = (np.asarray(v, np.float64) for v in (x, scale, bias, cotangent))
    mean, variance = x.mean(0), x.var(0)
    inverse = 1 / np.sqrt(variance + layers.BATCH_NORM_EPSILON)
    normalized = (x - mean) * inverse
    d_x = scale * inverse * (g - g.mean(0) - normalized * (g * normalized).mean(0))
    return normalized * scale + bias, mean, variance, (d_x, (g * normalized).sum(0), g.sum(0))


@pytest.mark.parametrize("count", [64, 61])  # divisible into row blocks or not
def test_normalize_batch_equals_float64(count):
    x = rows(count)
    rng = np.random.default_rng(1)
    scale, bias = rng.normal(size=(2, 6)).astype(np.float32)
    cotangent = rng.normal(size=x.shape).astype(np.float32)
    y, mean, variance, gradients = batch_norm_float64(x, scale, bias, cotangent)
    found, found_mean, found_variance = layers.normalize_batch(x, scale, bias)
    np.testing.assert_allclose(found, y, atol=1e-4)
    np.testing.assert_allclose(found_mean, mean, atol=1e-5)
    np.testing.assert_allclose(found_variance, variance, rtol=1e-3)
    own = jax.jit(jax.grad(lambda *a: (cotangent * layers.normalize_batch(*a)[0]).sum(), (0, 1, 2)))
    for name, a, b in zip(("x", "scale", "bias"), own(x, scale, bias), gradients):
        error = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert error < 1e-4, (name, error)


def test_batch_norm_equals_flax_in_values_and_running_statistics():
    x = jnp.asarray(rows(2 * 4 * 4).reshape(2, 4, 4, 6))
    own = layers.BatchNorm()
    flax = nn.BatchNorm(momentum=layers.BATCH_NORM_MOMENTUM, epsilon=layers.BATCH_NORM_EPSILON)
    variables = flax.init(jax.random.key(0), x, use_running_average=False)
    assert jax.tree.map(jnp.shape, own.init(jax.random.key(0), x, train=True)) == jax.tree.map(jnp.shape, variables)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda v: jnp.asarray(rng.uniform(0.5, 2, v.shape), jnp.float32), variables)
    y, statistics = own.apply(variables, x, train=True, mutable=["batch_stats"])
    expected, expected_statistics = flax.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, atol=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), statistics, expected_statistics)
    y, expected = own.apply(variables, x, train=False), flax.apply(variables, x, use_running_average=True)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_batch_norm_normalises_by_the_batch_and_keeps_immutable_statistics():
    """The second pass of cycle consistency depends on this."""
    module, x = layers.BatchNorm(), jnp.asarray(rows()) + 7
    variables = module.init(jax.random.key(0), x, train=True)
    y = module.apply(variables, x, train=True)
    assert isinstance(y, jax.Array)  # without updates
    np.testing.assert_allclose(np.asarray(y).mean(0), 0, atol=1e-4)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)


@pytest.mark.parametrize("shards", [2, 4])
def test_batch_norm_over_a_mapped_axis_has_statistics_and_gradients_of_all_shards(shards):
    x = rows()
    rng = np.random.default_rng(3)
    scale, bias = rng.normal(size=(2, 6)).astype(np.float32)
    cotangent = rng.normal(size=x.shape).astype(np.float32)

    def loss(x, scale, bias, cotangent, axis_name):
        y, mean, variance = layers.normalize_batch(x, scale, bias, axis_name)
        return (cotangent * y).mean(), (mean, variance)

    def gradients(x, cotangent, axis_name=None):
        found, stats = jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias, cotangent, axis_name)
        parameters = found[1:] if axis_name is None else jax.lax.pmean(found[1:], axis_name)
        return found[0], parameters, stats

    whole_x, whole_parameters, whole_stats = jax.jit(gradients)(x, cotangent)
    split = [v.reshape(shards, -1, 6) for v in (x, cotangent)]
    mapped = jax.vmap(functools.partial(gradients, axis_name="shards"), axis_name="shards")
    part_x, part_parameters, part_stats = jax.jit(mapped)(*split)
    for a, b in zip((*part_stats, *part_parameters), (*whole_stats, *whole_parameters)):
        np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), rtol=1e-4, atol=1e-5)
    # Each shard's loss is the mean over its own rows.
    np.testing.assert_allclose(part_x.reshape(-1, 6) / shards, whole_x, atol=1e-6)


@pytest.mark.parametrize(
    "kernel_size, strides, size", [(1, 1, 9), (1, 2, 9), (3, 1, 9), (3, 2, 9), (7, 2, 12), (7, 2, 13)]
)
def test_convolutions_equal_xlas(kernel_size, strides, size):
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, size, size, 4)).astype(np.float32))
    module = layers.StemConv(8) if kernel_size == 7 else layers.Conv(8, kernel_size, strides)
    kernel = module.init(jax.random.key(0), x)["params"]["kernel"]
    assert kernel.shape == (kernel_size, kernel_size, 4, 8)
    padding = [(kernel_size // 2,) * 2] * 2

    def plain(kernel, x):
        return jax.lax.conv_general_dilated(
            x, kernel, (strides, strides), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    check_equal_with_gradients(lambda k, x: module.apply({"params": {"kernel": k}}, x), plain, kernel, x)


def check_equal_with_gradients(own, plain, kernel, x):
    expected = plain(kernel, x)
    np.testing.assert_allclose(jax.jit(own)(kernel, x), expected, atol=1e-5)
    cotangent = jnp.asarray(np.random.default_rng(6).normal(size=expected.shape).astype(np.float32))
    found, wanted = (
        jax.jit(jax.grad(lambda k, x, f=function: (cotangent * f(k, x)).sum(), (0, 1)))(kernel, x)
        for function in (own, plain)
    )
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("size, window, stride, padding", [(60, 3, 2, 1), (15, 2, 2, 0), (7, 2, 2, 0)])
def test_max_pool_equals_reduce_window(size, window, stride, padding):
    rng = np.random.default_rng(7)
    count = 2 * size * size * 3
    x = jnp.asarray(rng.permutation(count).reshape(2, size, size, 3).astype(np.float32) / count)  # no ties

    def plain(x):
        pad = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
        size, strides = (1, window, window, 1), (1, stride, stride, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, size, strides, pad)

    own = functools.partial(layers.max_pool, window=window, stride=stride, padding=padding)
    np.testing.assert_array_equal(jax.jit(own)(x), plain(x))
    found, wanted = (jax.jit(jax.grad(lambda x, f=f: (f(x) ** 2).sum()))(x) for f in (own, plain))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_max_pool_shares_the_gradient_among_equal_entries():
    gradient = jax.grad(lambda x: layers.max_pool(x, window=2, stride=2).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient, 0.25)


def test_add_relu_equals_relu_of_a_sum_in_values_and_gradients():
    """Also where the sum is zero or its first term is not finite."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40)).astype(np.float32)
    x[:5], x[5] = -y[:5], np.inf
    cotangent = rng.normal(size=40).astype(np.float32)
    values, pull = jax.vjp(layers.add_relu, x, y)
    expected, pull_expected = jax.vjp(lambda x, y: jax.nn.relu(x + y), x, y)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(pull(cotangent), pull_expected(cotangent))
    assert np.isnan(layers.add_relu(jnp.array([jnp.nan, 1.0]), jnp.array([1.0, jnp.nan]))).all()


def test_memory_traffic_of_residual_blocks_grows_linearly_with_their_number():
    """With relu(x + y), XLA would recompute a block's output in every later block."""

    def bytes_accessed(blocks):
        def chain(x, kernels):
            for kernel in kernels:
                x = layers.add_relu(x, x @ kernel)
            return x

        kernels = [jnp.ones((128, 128))] * blocks
        return jax.jit(chain).lower(jnp.ones((64, 128)), kernels).compile().cost_analysis()["bytes accessed"]

    costs = np.diff([bytes_accessed(blocks) for blocks in range(2, 7)])
    np.testing.assert_array_equal(costs, costs[0])


def test_default_forms_traces_no_choice_of_platform():
    def traced():
        return str(jax.make_jaxpr(lambda x, y: layers.add_relu(x, y))(jnp.ones(3), jnp.ones(3)))

    with platforms.default_forms():
        plain = traced()
    assert "platform_index" not in plain and "platform_index" in traced()


def test_batch_norm_for_accelerators_reduces_without_reshape():
    shape = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.bfloat16)
    vector = jax.ShapeDtypeStruct((16,), jnp.float32)
    step = jax.jit(jax.grad(lambda x, s, b: layers.normalize_batch(x, s, b)[0].astype(jnp.float32).sum(), (0, 1, 2)))
    found = {
        platform: str(jax.export.export(step, platforms=[platform])(shape, vector, vector).mlir_module())
        for platform in ("cpu", "cuda")
    }
    assert "stablehlo.reshape" not in found["cuda"] and "dot_general" not in found["cuda"]
    assert "across dimensions = [0, 1, 2] : (tensor<2x8x8x16xf32>" in found["cuda"]
    assert "dot_general" in found["cpu"]


def test_both_forms_of_column_means_equal_float64():
    x, y = (jnp.asarray(rows(64, seed=seed)).reshape(1, 8, 8, 6) for seed in (0, 1))
    expected = (np.float64(x) * np.float64(y)).mean(axis=(0, 1, 2))
    for form in (layers._column_means_on_cpu, layers._plain_column_means):
        np.testing.assert_allclose(form(x, y), expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    x = jnp.asarray(rows(64)).reshape(1, 8, 8, 6)

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = layers.Conv(8, 3, 1, jnp.bfloat16)(x)
            return layers.BatchNorm()(x, train=True)

    variables = jax.eval_shape(Both().init, jax.random.key(0), x)
    y, updates = jax.eval_shape(lambda v, x: Both().apply(v, x, mutable=["batch_stats"]), variables, x)
    assert y.dtype == jnp.bfloat16
    assert {v.dtype for v in jax.tree.leaves((variables, updates))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("features, width, expected", [(64, 1, 64), (64, 0.125, 8), (32, 0.1, 8), (64, 0.3, 16)])
def test_scaled_features_are_a_multiple_of_eight(features, width, expected):
    assert layers.scaled(features, width) == expected


def test_check_choice_lists_the_choices():
    with pytest.raises(ValueError, match="Unknown colour 'red'; expected one of green, blue"):
        layers.check_choice("colour", "red", ("green", "blue"))
