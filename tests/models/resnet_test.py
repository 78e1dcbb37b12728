"""The regressor: sizes by formula, variants and precision. Most tests evaluate shapes only."""

import flax.linen as nn
import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.models import resnet
from twodal_jax.models.resnet import Regressor
from twodal_jax.training.state import num_parameters

IMAGES = jax.ShapeDtypeStruct((2, 120, 120, 4), jnp.float32)


def shapes(module):
    return jax.eval_shape(module.init, jax.random.key(0), IMAGES)


def resnet50_parameters(inputs, outputs):
    """He et al. 2016: bottlenecks of (1x1, 3x3, 1x1), each convolution followed by scale and bias."""

    def conv(size, wide_in, wide_out):
        return size * size * wide_in * wide_out + 2 * wide_out

    total, wide = conv(7, inputs, 64), 64
    for features, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3)):
        for block in range(blocks):
            total += conv(1, wide, features) + conv(3, features, features) + conv(1, features, 4 * features)
            total += conv(1, wide, 4 * features) if block == 0 else 0
            wide = 4 * features
    return total + wide * outputs + outputs


def test_number_of_parameters_equals_the_formula():
    assert resnet50_parameters(3, 1000) == 25_557_032  # the published number, which checks the formula
    assert resnet50_parameters(4, 62) == 23_508_032 + 7 * 7 * 64 + 2048 * 62 + 62
    pyramid = sum(48 * (width + 2) for width in (512, 1024, 2048)) + 3 * 3 * 48 * 64
    hidden = (2048 + 2 * 64) * 256 + 256
    expected = {
        ("resnet50", "authors"): resnet50_parameters(4, 62),
        ("resnet50", "standard"): resnet50_parameters(4, 62),
        ("resnet50", "keypoints"): 23_508_032 + 7 * 7 * 64 + pyramid + hidden + 256 * 62 + 62,
        ("resnet18", "standard"): 11_176_512 + 7 * 7 * 64 + 512 * 62 + 62,
    }
    assert {case: num_parameters(shapes(Regressor(*case))["params"]) for case in expected} == expected


@pytest.mark.parametrize("variant", resnet.VARIANTS)
@pytest.mark.parametrize("arch", resnet.STAGE_SIZES)
def test_output_is_62_float32_numbers_per_face(arch, variant):
    module = Regressor(arch, variant, 0.125, jnp.bfloat16)
    out = jax.eval_shape(lambda v, x: module.apply(v, x), shapes(module), IMAGES)
    assert out.shape == (2, 62) and out.dtype == jnp.float32


def random_variables(module, seed=0):
    """Random parameters and statistics of order 1, made without running the network."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if "kernel" in jax.tree_util.keystr(path):
            return rng.normal(size=leaf.shape).astype(np.float32) / np.sqrt(leaf.size / leaf.shape[-1])
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(module))


@pytest.mark.parametrize("variant, size, pooled", [("authors", 8, 7), ("standard", 4, 4)])
def test_pooling_averages_the_last_map_and_the_authors_variant_its_top_left_7_by_7(variant, size, pooled):
    module = Regressor("resnet18", variant, 0.125)
    variables = random_variables(module)

    def output(last_map):
        """Output of the network with its last map replaced."""

        def intercept(next_function, arguments, keywords, context):
            out = next_function(*arguments, **keywords)
            if (context.module.name, context.method_name) != ("stage4_block2", "__call__"):
                return out
            assert out.shape == last_map.shape
            return last_map

        with nn.intercept_methods(intercept):
            return module.apply(variables, jnp.zeros((1, 120, 120, 4))).sum()

    gradient = jax.jit(jax.grad(output))(jnp.zeros((1, size, size, 64)))
    weights = np.abs(np.asarray(gradient)).sum(axis=(0, 3))
    expected = np.zeros((size, size))
    expected[:pooled, :pooled] = weights[0, 0]
    assert weights[0, 0] > 0
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def exact():
    """(compiled network for 3 inputs, variables, inputs, outputs) in float32."""
    images = helpers_model.smooth_images(np.random.default_rng(1), 3).astype(np.float32) / 128 - 1
    inputs = jnp.asarray(np.concatenate([images, images[..., :1]], axis=-1))
    module = Regressor("resnet18", "standard", 0.125)
    variables, apply = random_variables(module), jax.jit(module.apply)
    return apply, variables, inputs, np.asarray(apply(variables, inputs))


def test_bfloat16_is_close_to_float32_and_keeps_parameters_in_float32(exact):
    _, variables, inputs, expected = exact
    rough = Regressor("resnet18", "standard", 0.125, jnp.bfloat16)
    assert {v.dtype for v in jax.tree.leaves(shapes(rough))} == {jnp.dtype("float32")}
    found = np.asarray(jax.jit(rough.apply)(variables, inputs))
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_faces_are_independent_in_evaluation(exact):
    apply, variables, inputs, expected = exact
    alone = apply(variables, inputs[1:2].repeat(3, 0))
    np.testing.assert_allclose(alone[0], expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "module, shape, message",
    [
        (Regressor("resnet51"), (1, 120, 120, 4), "resnet51.*resnet18, resnet50"),
        (Regressor(variant="ours"), (1, 120, 120, 4), "ours.*authors, standard"),
        (Regressor(), (1, 120, 120, 3), r"\[B, 120, 120, 4\].*3"),
    ],
)
def test_wrong_names_and_inputs_raise_an_error(module, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_the_heatmap_mlp_is_off_by_default_and_reads_the_heatmap_only():
    network = Regressor("resnet18", "standard", 0.125, heatmap_mlp_width=16)
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (2, 120, 120, 4)).astype(np.float32)
    variables = network.init(jax.random.key(0), inputs)
    plain = Regressor("resnet18", "standard", 0.125).init(jax.random.key(0), inputs)
    assert set(variables["params"]) - set(plain["params"]) == {"heatmap_dense1", "heatmap_dense2"}
    # A head that reads only the MLP's features.
    kernel = np.zeros(variables["params"]["head"]["kernel"].shape, np.float32)
    kernel[-16:] = 1.0
    params = variables["params"] | {"head": {"kernel": kernel, "bias": np.zeros(62, np.float32)}}

    def output(x):
        return np.asarray(network.apply({**variables, "params": params}, x))

    other_image = inputs.copy()
    other_image[..., :3] = rng.uniform(-1, 1, (2, 120, 120, 3))
    np.testing.assert_array_equal(output(other_image), output(inputs))
    empty, marked = np.full((2, 1, 120, 120, 4), -1.0, np.float32)
    marked[:, 50:54, 60:64, 3] = 1.0
    np.testing.assert_array_equal(output(empty), 0.0)
    assert (output(marked) > 0).any()
