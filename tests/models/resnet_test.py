"""The regressor: sizes by formula, variants, and precision. Shapes are evaluated, not computed."""

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


@pytest.mark.parametrize("variant", ["authors", "standard"])
def test_resnet50_has_the_parameters_of_the_formula(variant):
    assert resnet50_parameters(3, 1000) == 25_557_032  # as everywhere, which checks the formula
    found = num_parameters(shapes(Regressor("resnet50", variant))["params"])
    assert found == resnet50_parameters(4, 62)
    assert found == 23_508_032 + 7 * 7 * 64 + 2048 * 62 + 62


def test_keypoints_add_a_pyramid_of_three_maps_a_score_map_each_and_a_hidden_layer():
    found = num_parameters(shapes(Regressor("resnet50", "keypoints"))["params"])
    pyramid = sum(48 * (wide + 2) for wide in (512, 1024, 2048)) + 3 * 3 * 48 * 64
    hidden = (2048 + 2 * 64) * 256 + 256
    assert found == 23_508_032 + 7 * 7 * 64 + pyramid + hidden + 256 * 62 + 62


def test_resnet18_has_the_parameters_everybody_knows():
    found = num_parameters(shapes(Regressor("resnet18", "standard"))["params"])
    assert found == 11_176_512 + 7 * 7 * 64 + 512 * 62 + 62


@pytest.mark.parametrize("variant", resnet.VARIANTS)
@pytest.mark.parametrize("depth", resnet.STAGE_SIZES)
def test_output_is_sixty_two_numbers_a_face(depth, variant):
    module = Regressor(depth, variant, 0.125, jnp.bfloat16)
    out = jax.eval_shape(lambda v, x: module.apply(v, x), shapes(module), IMAGES)
    assert out.shape == (2, 62) and out.dtype == jnp.float32


def test_last_map_is_8_by_8_with_stride_1_and_4_by_4_with_stride_2():
    for variant, size in (("authors", 8), ("standard", 4)):
        module = Regressor("resnet18", variant, 0.125)
        _, state = jax.eval_shape(
            lambda v, x: module.apply(v, x, capture_intermediates=True, mutable=["intermediates"]),
            shapes(module),
            IMAGES,
        )
        last = state["intermediates"]["stage4_block2"]["__call__"][0]
        assert last.shape[1:3] == (size, size)


def random_variables(module, seed=0):
    """Parameters and statistics of order 1 (no network is run to make them)."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if "kernel" in jax.tree_util.keystr(path):
            return rng.normal(size=leaf.shape).astype(np.float32) / np.sqrt(leaf.size / leaf.shape[-1])
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(module))


def pooled_gradient(variant):
    """Which pixels of the last map the output depends on: the last block is replaced by the map."""
    module = Regressor("resnet18", variant, 0.125)
    size = 8 if variant == "authors" else 4

    def head(last_map):
        def intercept(next_function, arguments, keywords, context):
            out = next_function(*arguments, **keywords)
            return last_map if context.module.name == "stage4_block2" else out

        with nn.intercept_methods(intercept):
            return module.apply(random_variables(module), jnp.zeros((1, 120, 120, 4))).sum()

    gradient = jax.jit(jax.grad(head))(jnp.zeros((1, size, size, 64)))
    return np.abs(np.asarray(gradient)).sum(axis=(0, 3))


def test_authors_pool_sees_the_top_left_seven_by_seven():
    seen = pooled_gradient("authors")
    assert seen.shape == (8, 8)
    np.testing.assert_array_equal(seen[7], 0)
    np.testing.assert_array_equal(seen[:, 7], 0)
    np.testing.assert_allclose(seen[:7, :7], seen[0, 0], rtol=1e-5)
    assert seen[0, 0] > 0


def test_standard_pool_sees_everything_alike():
    seen = pooled_gradient("standard")
    np.testing.assert_allclose(seen, seen[0, 0], rtol=1e-5)


@pytest.fixture(scope="module")
def exact():
    """(compiled network of 3 inputs, variables, inputs, outputs) in float32."""
    images = helpers_model.smooth_images(np.random.default_rng(1), 3).astype(np.float32) / 128 - 1
    inputs = jnp.asarray(np.concatenate([images, images[..., :1]], axis=-1))
    module = Regressor("resnet18", "standard", 0.125)
    variables, apply = random_variables(module), jax.jit(module.apply)
    return apply, variables, inputs, np.asarray(apply(variables, inputs))


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(exact):
    _, variables, inputs, expected = exact
    rough = Regressor("resnet18", "standard", 0.125, jnp.bfloat16)
    assert {v.dtype for v in jax.tree.leaves(shapes(rough))} == {jnp.dtype("float32")}
    found = np.asarray(jax.jit(rough.apply)(variables, inputs))
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_evaluation_treats_every_face_alone(exact):
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
def test_wrong_names_and_inputs_are_errors(module, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_the_dense_way_from_the_heatmap_is_off_by_default_and_sees_the_heatmap_alone():
    network = Regressor("resnet18", "standard", 0.125, heatmap_mlp_width=16)
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (2, 120, 120, 4)).astype(np.float32)
    variables = network.init(jax.random.key(0), inputs)
    plain = Regressor("resnet18", "standard", 0.125).init(jax.random.key(0), inputs)
    assert set(variables["params"]) - set(plain["params"]) == {"heatmap_dense1", "heatmap_dense2"}
    # Only the dense way may speak, and only about the heatmap.
    kernel = np.zeros(variables["params"]["head"]["kernel"].shape, np.float32)
    kernel[-16:] = 1.0
    params = variables["params"] | {"head": {"kernel": kernel, "bias": np.zeros(62, np.float32)}}

    def out(x):
        return np.asarray(network.apply({**variables, "params": params}, x))

    other_image = inputs.copy()
    other_image[..., :3] = rng.uniform(-1, 1, (2, 120, 120, 3))
    np.testing.assert_array_equal(out(other_image), out(inputs))
    empty, marked = np.full((2, 1, 120, 120, 4), -1.0, np.float32)
    marked[:, 50:54, 60:64, 3] = 1.0
    np.testing.assert_array_equal(out(empty), 0.0)
    assert (out(marked) > 0).any()
