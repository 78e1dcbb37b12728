"""Each loss against its formula in NumPy; finite values and gradients at critical points."""

import functools
import os

import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax import losses
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import morphable_model, projection


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


def alphas(count=3, seed=0):
    return helpers_model.random_alpha(np.random.default_rng(seed), count)


def weights_loop(model, true, predicted, dims):
    """w of L_3d by the paper's definition: 62 projections with one coefficient replaced, float64."""
    project = functools.partial(helpers_model.project_float64, model.landmark_mean, model.landmark_basis)
    reference = project(true)[:, :dims]
    moved = []
    for i in range(62):
        changed = true.astype(np.float64)
        changed[i] = predicted[i]
        moved.append(np.linalg.norm(project(changed)[:, :dims] - reference))
    return np.array(moved) / np.sum(moved)


@pytest.mark.parametrize("dims", [2, 3])
def test_coefficient_weights_equal_the_papers_definition_and_pass_no_gradient(model, dims):
    true, predicted = alphas(seed=1), alphas(seed=2)
    weights = np.asarray(losses.coefficient_weights(true, predicted, model, dims=dims))
    assert weights.shape == (3, 62)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    for found, a, b in zip(weights, true, predicted):
        np.testing.assert_allclose(found, weights_loop(model, a, b, dims), rtol=1e-4, atol=1e-7)
    # The third row of the pose moves no 2D landmark.
    np.testing.assert_array_equal(weights > 0, np.tile((np.arange(62) // 4 != 2) | (dims == 3), (3, 1)))
    gradient = jax.grad(lambda a, b: losses.coefficient_weights(a, b, model)[0, 3], (0, 1))(true, predicted)
    np.testing.assert_array_equal(np.stack(gradient), 0)


def test_loss_3d_is_a_weighted_sum_of_squares_with_constant_weights(model):
    true, predicted = alphas(seed=1), alphas(seed=2)
    whitened = [(a - model.alpha_mean) / model.alpha_std for a in (predicted, true)]
    found = losses.loss_3d(*map(jnp.asarray, whitened), model, dims=3)
    weights = np.stack([weights_loop(model, a, b, 3) for a, b in zip(true, predicted)])
    difference = whitened[0].astype(np.float64) - whitened[1]
    np.testing.assert_allclose(found, (weights * difference**2).sum(-1), rtol=1e-3)
    gradient = jax.grad(lambda p: losses.loss_3d(p, whitened[1], model, dims=3).sum())(whitened[0])
    np.testing.assert_allclose(gradient, 2 * weights * difference, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", ["loss_3d", "loss_vdc", "loss_2d_con", "loss_3d_con"])
def test_losses_and_gradients_are_zero_at_an_exact_prediction(model, loss):
    rng = np.random.default_rng(3)
    true, function = {
        "loss_3d": ((alphas() - model.alpha_mean) / model.alpha_std, lambda p, t: losses.loss_3d(p, t, model)),
        "loss_vdc": (alphas(), lambda p, t: losses.loss_vdc(p, t, model)),
        "loss_2d_con": (rng.normal(size=(2, 18, 2)), lambda p, t: losses.loss_2d_con(p, t, jnp.ones((2, 18)))),
        "loss_3d_con": (rng.normal(size=(5, 68, 3)), losses.loss_3d_con),
    }[loss]
    true = jnp.asarray(true, jnp.float32)
    value, gradients = jax.value_and_grad(lambda p, t: function(p, t).sum(), (0, 1))(true, true)
    assert value == 0
    np.testing.assert_array_equal(np.stack(gradients), 0)


def test_safe_norm_has_gradient_zero_at_zero():
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(losses.safe_norm(vectors), np.linalg.norm(vectors, axis=-1), rtol=1e-6)
    assert losses.safe_norm(jnp.zeros(3)) == 0
    np.testing.assert_array_equal(jax.grad(losses.safe_norm)(jnp.zeros(3)), 0)


@pytest.mark.parametrize("loss", [losses.loss_2d_con, losses.loss_cyc])
def test_landmark_losses_are_weighted_sums_of_distances(loss):
    rng = np.random.default_rng(1)
    predicted, true = rng.normal(size=(2, 4, 18, 2)).astype(np.float32)
    weights = rng.uniform(0.5, 4, (4, 18)).astype(np.float32)
    distances = np.linalg.norm(predicted - true, axis=-1)
    for w in (weights, weights[0]):
        np.testing.assert_allclose(loss(predicted, true, w), (w * distances).sum(-1), rtol=1e-5)


def test_normalized_weights_have_the_same_sum_unless_few_landmarks_are_visible():
    mask = np.random.default_rng(3).uniform(1, 4, 18).astype(np.float32)
    visible = np.ones((5, 18), np.float32)
    visible[1, ::2] = visible[2, 4:] = visible[3, 1:] = visible[4] = 0
    weights = mask * visible
    normalized = np.asarray(losses.normalize_by_visibility(weights, mask.sum()))
    np.testing.assert_allclose(normalized[:2].sum(-1), mask.sum(), rtol=1e-5)
    np.testing.assert_allclose(normalized[0], mask, rtol=1e-5)
    for face in (1, 2):  # the proportions within a face stay
        np.testing.assert_allclose(
            normalized[face] / normalized[face].sum(), weights[face] / weights[face].sum(), rtol=1e-5
        )
    np.testing.assert_allclose(normalized[3], losses.MAX_VISIBILITY_FACTOR * weights[3], rtol=1e-5)
    np.testing.assert_array_equal(normalized[4], 0)


@pytest.mark.parametrize("loss", [losses.loss_2d_con, losses.loss_cyc])
@pytest.mark.parametrize("hidden", [slice(0, 3), slice(0, 18)])
def test_hidden_nan_landmarks_do_not_contribute(loss, hidden):
    rng = np.random.default_rng(2)
    predicted, true = rng.normal(size=(2, 18, 2)).astype(np.float32)
    weights = np.ones(18, np.float32)
    true[hidden], weights[hidden] = np.nan, 0
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(predicted), true, weights)
    kept = weights > 0
    np.testing.assert_allclose(value, np.linalg.norm((predicted - true)[kept], axis=-1).sum(), rtol=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[hidden], 0)


def test_loss_3d_con_is_the_sum_of_distances():
    a, b = np.random.default_rng(4).normal(size=(2, 5, 68, 3)).astype(np.float32)
    np.testing.assert_allclose(losses.loss_3d_con(a, b), np.linalg.norm(a - b, axis=-1).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_losses_of_the_critic_follow_the_formula_with_soft_labels(smoothing):
    rng = np.random.default_rng(8)
    true, predicted = rng.normal(size=5).astype(np.float32), rng.normal(size=7).astype(np.float32)
    critic_true, critic_predicted = (1 / (1 + np.exp(-x.astype(np.float64))) for x in (true, predicted))

    def cross_entropy(output, label):
        return -(label * np.log(output) + (1 - label) * np.log(1 - output)).mean()

    expected = cross_entropy(critic_true, 1 - smoothing) + cross_entropy(critic_predicted, smoothing)
    np.testing.assert_allclose(losses.loss_sc_critic(true, predicted, smoothing=smoothing), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.loss_sc(predicted), np.log(1 - critic_predicted), rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.05, 0.1, 0.3])
def test_a_smoothed_critic_is_optimal_at_its_labels_and_gives_the_regressor_a_gradient(smoothing):
    logit = jnp.log(smoothing / (1 - smoothing))  # of C = e
    gradients = jax.grad(functools.partial(losses.loss_sc_critic, smoothing=smoothing), (0, 1))(
        -logit[None], logit[None]
    )
    np.testing.assert_allclose(np.concatenate(gradients), 0, atol=1e-6)
    np.testing.assert_allclose(jax.grad(losses.loss_sc)(logit), -smoothing, rtol=1e-4)


def test_unit_scale_follows_a_worked_example():
    """One landmark of weight 4 in a mask of 28 is 6 pixels off, all 68 points 3 pixels, all vertices 12 pixels."""
    mask = [4.0, 4.0, *4 * [2.0], *12 * [1.0]]
    names = ("loss_2d_con", "loss_3d_con", "loss_cyc", "loss_vdc", "loss_contour")
    in_pixels = dict(zip(names, (24.0, 204.0, 24.0, 144.0, 6.0)))
    # 6 pixels are a twentieth of the crop's side, 3 a fortieth, 12 a tenth.
    expected = {
        ("pixel", "sum"): (24.0, 204.0, 24.0, 144.0, 6.0),
        ("pixel", "mean"): (24 / 28, 3.0, 24 / 28, 144.0, 6.0),
        ("side", "sum"): (0.2, 68 / 40, 0.2, 0.01, 0.05),
        ("side", "mean"): (0.2 / 28, 0.025, 0.2 / 28, 0.01, 0.05),
    }
    for (unit, reduction), values in expected.items():
        scale = losses.unit_scale(unit, reduction, mask)
        assert {name: scale[name] * in_pixels[name] for name in scale} == pytest.approx(dict(zip(names, values)))


def test_the_mean_over_landmarks_includes_weighted_jaw_points():
    scale = losses.unit_scale("pixel", "mean", [*18 * [1.0], 3.0, 3.0, 3.0])
    assert scale["loss_2d_con"] == scale["loss_cyc"] == pytest.approx(1 / 27)
    assert scale["loss_3d_con"] == pytest.approx(1 / 68)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_losses_of_the_critic_are_stable_at_large_logits(logit):
    logits = jnp.array([logit])
    value, gradients = jax.value_and_grad(losses.loss_sc_critic, (0, 1))(logits, -logits)
    np.testing.assert_allclose(value, 0 if logit > 0 else 200, atol=1e-4)
    assert np.isfinite(np.stack(gradients)).all()
    value, gradient = jax.value_and_grad(lambda x: losses.loss_sc(x).sum())(logits)
    np.testing.assert_allclose(value, -100 if logit > 0 else 0, atol=1e-4)
    assert np.isfinite(gradient).all()


def test_descending_loss_sc_raises_the_critics_output():
    assert jax.grad(losses.loss_sc)(0.3) < 0
    gradient_true, gradient_predicted = jax.grad(losses.loss_sc_critic, (0, 1))(jnp.zeros(2), jnp.zeros(2))
    assert (gradient_true < 0).all() and (gradient_predicted > 0).all()


def dense_vdc(model, predicted, true):
    """VDC in float64 by its definition on meshes."""
    vertices = [helpers_model.project_float64(model.mean, model.basis, alpha) for alpha in (predicted, true)]
    return ((vertices[0] - vertices[1]) ** 2).sum(-1).mean()


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("num_vertices", [100, 400])
def test_closed_form_vdc_equals_the_definition(num_vertices, distance):
    model = helpers_model.tiny_model(num_vertices=num_vertices)
    true = alphas(seed=1)
    predicted = (true + distance * (alphas(seed=2) - true)).astype(np.float32)
    expected = [dense_vdc(model, p, t) for p, t in zip(predicted, true)]
    np.testing.assert_allclose(losses.loss_vdc(predicted, true, model), expected, rtol=1e-4)
    if distance == 1.0:
        meshes = (projection.vertices_crop(model, a) for a in (predicted, true))
        np.testing.assert_allclose(losses.loss_vdc_dense(*meshes), expected, rtol=1e-4)


def test_vdc_needs_no_mesh_and_has_the_gradient_of_the_dense_one(model):
    true, predicted = jnp.asarray(alphas(seed=1)), jnp.asarray(alphas(seed=2))
    small = morphable_model.without_mesh(model)
    closed = jax.grad(lambda p: losses.loss_vdc(p, true, small).sum())(predicted)

    def through_the_mesh(p):
        return losses.loss_vdc_dense(projection.vertices_crop(model, p), projection.vertices_crop(model, true)).sum()

    expected = jax.grad(through_the_mesh)(predicted)
    scale = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(closed / scale, expected / scale, atol=1e-4)


@pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4])
def test_closed_form_vdc_equals_the_definition_on_the_real_model(distance):
    model = load_morphable_model(os.path.join(os.environ["TWODAL_DATA_DIR"], "bfm_3ddfa"))
    assert model.num_vertices == 53_215
    rng = np.random.default_rng(0)
    whitened = rng.standard_normal((2, 3, 62))
    true = (whitened[0] * model.alpha_std + model.alpha_mean).astype(np.float32)
    predicted = (true + distance * whitened[1] * model.alpha_std).astype(np.float32)
    expected = [dense_vdc(model, p, t) for p, t in zip(predicted, true)]
    np.testing.assert_allclose(losses.loss_vdc(predicted, true, model), expected, rtol=1e-4)


def test_losses_agree_under_jit_and_vmap(model):
    rng = np.random.default_rng(6)
    a, b = jnp.asarray(alphas(seed=1)), jnp.asarray(alphas(seed=2))
    points = jnp.asarray(rng.normal(size=(2, 3, 18, 2)).astype(np.float32))
    cloud = jnp.asarray(rng.normal(size=(2, 3, 68, 3)).astype(np.float32))
    cases = {
        "loss_3d": (lambda x, y: losses.loss_3d(x, y, model), a, b),
        "loss_vdc": (lambda x, y: losses.loss_vdc(x, y, model), a, b),
        "loss_2d_con": (lambda x, y: losses.loss_2d_con(x, y, jnp.ones(18)), *points),
        "loss_3d_con": (losses.loss_3d_con, *cloud),
        "loss_sc": (lambda x, y: losses.loss_sc(x + y), jnp.arange(3.0), jnp.ones(3)),
    }
    for name, (loss, x, y) in cases.items():
        batch = jax.jit(loss)(x, y)
        assert batch.shape == (3,), name
        np.testing.assert_allclose(jax.vmap(loss)(x, y), batch, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: losses.loss_3d(jnp.zeros((2, 62)), jnp.zeros((1, 62)), m), "whitened"),
        (lambda m: losses.loss_vdc(jnp.zeros((2, 62)), jnp.zeros(62), m), "alpha"),
        (lambda m: losses.loss_2d_con(jnp.zeros((2, 18, 2)), jnp.zeros((18, 2)), jnp.ones(18)), "landmarks"),
        (lambda m: losses.loss_3d_con(jnp.zeros((2, 68, 3)), jnp.zeros((2, 68, 2))), "landmarks"),
        (lambda m: losses.coefficient_weights(jnp.zeros(62), jnp.zeros(62), m, dims=4), "dims"),
    ],
)
def test_shapes_that_would_broadcast_raise_an_error(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_loss_pdc_is_the_mean_square():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4, 62))
    np.testing.assert_allclose(losses.loss_pdc(a, b), ((a - b) ** 2).mean(-1), rtol=1e-5)


def arc(start=0.0, end=np.pi, radius=40.0):
    """Landmarks [68, 2] with the jaw on an arc and all others at one point."""
    angle = np.linspace(start, end, 17)
    jaw = np.stack([60 - radius * np.cos(angle), 50 + radius * np.sin(angle)], axis=-1)
    return np.concatenate([jaw, np.full((51, 2), 60.0)]).astype(np.float32)


def test_contour_loss_allows_sliding_along_the_outline_but_not_leaving_it():
    long = arc(-0.3, np.pi + 0.3)
    assert float(losses.loss_contour(arc(), arc())) == 0.0
    sliding = float(losses.loss_contour(long, arc()))  # other points of the same circle
    distance = np.linalg.norm(long[:17] - arc()[:17], axis=-1).mean()
    assert sliding < 1.0 < distance / 3
    wider = float(losses.loss_contour(arc(radius=46.0), arc()))
    np.testing.assert_allclose(wider, 6.0, atol=0.5)


def test_contour_loss_uses_the_jaw_only_and_has_finite_gradients():
    moved = arc()
    moved[17:] += 5
    assert float(losses.loss_contour(moved, arc())) == 0.0
    gradient = jax.grad(lambda x: losses.loss_contour(x, arc()))(jnp.asarray(arc(radius=44.0)))
    assert np.isfinite(gradient).all() and np.abs(gradient[:17]).sum() > 0
    assert np.isfinite(jax.grad(lambda x: losses.loss_contour(x, arc()))(jnp.asarray(arc()))).all()
