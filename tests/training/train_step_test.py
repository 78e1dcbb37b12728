"""Training steps: updates, their order, losses and metrics, and skipped steps."""

import functools

import helpers_model
import jax
import numpy as np
import optax
import pytest
from helpers_model import ALL_LOSSES, assert_identical, identical, STAGE1_LOSSES, STAGE2_LOSSES

from twodal_jax import forward
from twodal_jax.forward import HeatmapSettings
from twodal_jax.geometry import heatmap, projection
from twodal_jax.training import batch as training_batch, step as train_step
from twodal_jax.training.augmentation import AugmentationSettings
from twodal_jax.training.state import create_train_state, LOSS_NAMES


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


@pytest.fixture(scope="module")
def batch(model):
    return helpers_model.tiny_batch(model)


@pytest.fixture(scope="module")
def state():
    """An initial state with a random head; a zero head passes no gradient to the layers below."""
    return helpers_model.with_random_head(create_train_state(helpers_model.tiny_spec(), seed=0))


@functools.cache
def compiled(step, fields=(), losses=tuple(STAGE1_LOSSES.items())):
    """fields: ((name, value), ...) of `TrainSpec` to replace."""
    spec = helpers_model.tiny_spec(losses=dict(losses))
    return jax.jit(functools.partial(step, spec=spec.replace(**dict(fields))))


@pytest.fixture(scope="module")
def full_step():
    return compiled(train_step.train_step)


@pytest.fixture(scope="module")
def without_second_pass(state, batch, model):
    """The state after a `regressor_step` with losses of one pass only (quick to compile)."""
    losses = STAGE1_LOSSES | {"loss_3d_con": 0.0, "loss_cyc": 0.0}
    return compiled(train_step.regressor_step, losses=tuple(losses.items()))(state, batch, model)[0]


def test_train_step_updates_both_networks_and_reports_all_losses(full_step, state, batch, model):
    new, metrics = full_step(state, batch, model)
    for name in ("regressor", "critic"):
        before, after = (helpers_model.leaves(getattr(s, name)) for s in (state, new))
        changed = [path for path in before if not np.array_equal(before[path], after[path])]
        assert len(changed) > len(before) / 2, name
    assert int(new.step) == 1 and int(new.skipped) == 0
    terms = {name for name, weight in STAGE1_LOSSES.items() if weight}
    assert set(metrics) == terms | {"loss", "loss_sc_critic", "gradient_norm", "gradient_norm_critic", "skipped"}
    total = sum(STAGE1_LOSSES[name] * float(metrics[name]) for name in terms)
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


@pytest.mark.parametrize("kind, centre", [("points", [62, 66]), ("gaussian", [48, 54])])
def test_heatmaps_have_the_mouth_centre_of_their_kind_and_losses_compare_the_papers(state, batch, model, kind, centre):
    spec = helpers_model.tiny_spec(losses=STAGE1_LOSSES | {"loss_sc": 0.0}).replace(heatmap=HeatmapSettings(kind))
    wild = training_batch.prepare_wild(batch["wild"], spec)
    alpha = helpers_model.random_alpha(np.random.default_rng(3), len(wild.image))
    result = forward.reconstruct((alpha - model.alpha_mean) / model.alpha_std, model)
    shown = []

    def second_pass(points):
        shown.append(np.asarray(points))
        return result

    convention = (second_pass, lambda found: found.landmarks_18)
    terms = train_step._wild_losses(result, wild, *convention, state.critic.params, np.zeros((2, 62)), spec)
    (points,) = shown
    np.testing.assert_allclose(points[:, 16], result.landmarks[:, centre, :2].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(np.delete(points, 16, axis=1), np.delete(result.landmarks_18, 16, axis=1))
    np.testing.assert_array_equal(terms["loss_cyc"], terms["loss_2d_con"])

    faces = training_batch.prepare_annotated(batch["annotated"], model, spec)
    alpha = np.asarray(faces.whitened) * model.alpha_std + model.alpha_mean
    expected = projection.landmarks_crop(model, alpha)[:, centre, :2].mean(axis=1)
    np.testing.assert_allclose(faces.heatmap_landmarks[:, 16], expected, atol=1e-3)
    np.testing.assert_array_equal(*(np.delete(x, 16, axis=1) for x in (faces.heatmap_landmarks, faces.landmarks)))


def test_rgb_and_bgr_images_give_the_same_faces(batch, model):
    spec = helpers_model.tiny_spec(losses=STAGE1_LOSSES)

    def faces(batch):
        annotated = training_batch.prepare_annotated(batch["annotated"], model, spec)
        return annotated, training_batch.prepare_wild(batch["wild"], spec)

    def in_rgb(part):
        other = {name: value for name, value in part.items() if name != "image"}
        return other | {"image_rgb": part["image"][..., ::-1]}

    assert_identical(*map(jax.jit(faces), (batch, {name: in_rgb(part) for name, part in batch.items()})))


def test_regressor_step_keeps_the_critic_bit_identical(without_second_pass, state):
    after = without_second_pass
    assert_identical(after.critic, state.critic)
    assert not identical(after.regressor.params, state.regressor.params)
    assert not identical(after.regressor.batch_stats, state.regressor.batch_stats)


def test_critic_step_keeps_the_regressor_bit_identical(state, batch, model):
    after, metrics = compiled(train_step.critic_step)(state, batch, model)
    assert_identical(after.regressor, state.regressor)
    assert not identical(after.critic.params, state.critic.params)
    assert set(metrics) == {"loss_sc_critic", "gradient_norm_critic"}


# Losses of one pass compile faster. They include L_sc, which depends on the order of both steps.
ONE_PASS = tuple((STAGE1_LOSSES | {"loss_3d_con": 0.0, "loss_cyc": 0.0, "loss_sc": 1.0}).items())
SMOOTHED = (("label_smoothing", 0.1), ("coefficient_noise", 0.5))


def changes(after, before):
    """{path: change} of both networks' parameters."""
    new, old = (helpers_model.leaves((state.regressor.params, state.critic.params)) for state in (after, before))
    return {path: new[path].astype(np.float64) - old[path] for path in new}


def assert_same_changes(found, expected, tolerance=2e-3):
    """Compare with `tolerance` relative to each array's largest change, plus float32 rounding of parameters near 1."""
    for path, change in expected.items():
        size = np.abs(change).max()
        np.testing.assert_allclose(found[path], change, atol=tolerance * size + 2e-7, err_msg=path)


def plain_descent(**fields):
    """Fields for SGD, with which changes are linear in the gradients; the critic's rate is high."""
    optimizers = {"regressor_optimizer": optax.sgd(1e-3), "critic_optimizer": optax.sgd(1.0)}
    return tuple((optimizers | dict(SMOOTHED) | fields).items())


CRITIC_FIRST = plain_descent()
SIMULTANEOUS = plain_descent(alternate=False)
ACCUMULATED = plain_descent(accumulate=2)
ACCUMULATED_SIMULTANEOUS = plain_descent(accumulate=2, alternate=False)


def steps(fields, *names):
    return [compiled(getattr(train_step, name), fields=fields, losses=ONE_PASS) for name in names]


@pytest.fixture(scope="module")
def halves(state, batch, model):
    """States after each half of a step from the old state: (`critic_step`, `regressor_step`)."""
    return [step(state, batch, model)[0] for step in steps(CRITIC_FIRST, "critic_step", "regressor_step")]


def test_the_critics_step_comes_first(state, batch, model, halves):
    step, regressor_step = steps(CRITIC_FIRST, "train_step", "regressor_step")
    found, metrics = step(state, batch, model)
    expected, _ = regressor_step(halves[0], batch, model)
    assert_same_changes(changes(found, state), changes(expected, state))
    # The order matters: against the old critic the regressor's step differs.
    new, old = (helpers_model.leaves(after.regressor.params) for after in (expected, halves[1]))
    start = helpers_model.leaves(state.regressor.params)
    assert max(np.abs(new[p] - old[p]).max() / np.abs(new[p] - start[p]).max() for p in new) > 0.02
    assert metrics["gradient_norm_critic"] > 0


def test_without_alternation_both_halves_use_the_old_state(state, batch, model, halves):
    found, _ = steps(SIMULTANEOUS, "train_step")[0](state, batch, model)
    expected = state.replace(critic=halves[0].critic, regressor=halves[1].regressor)
    assert_same_changes(changes(found, state), changes(expected, state))


@pytest.mark.parametrize("fields", [ACCUMULATED, ACCUMULATED_SIMULTANEOUS], ids=["alternating", "simultaneous"])
def test_accumulation_averages_changes_and_statistics_of_microbatches(state, model, fields):
    """Each network changes by the mean of its changes on each microbatch, the critic first when alternating."""
    batch = helpers_model.tiny_batch(model, annotated=4, wild=4, seed=5)
    parts = [jax.tree.map(lambda rows, at=at: rows[at], batch) for at in (slice(0, 2), slice(2, 4))]
    found, _ = steps(fields, "train_step")[0](state, batch, model)
    critic_step, regressor_step = steps(CRITIC_FIRST, "critic_step", "regressor_step")

    def mean(trees):
        return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)

    critic = mean([critic_step(state, part, model)[0].critic for part in parts])
    start = state if fields is ACCUMULATED_SIMULTANEOUS else state.replace(critic=critic)
    regressor = mean([regressor_step(start, part, model)[0].regressor for part in parts])
    expected = state.replace(critic=critic, regressor=regressor)
    assert_same_changes(changes(found, state), changes(expected, state))
    statistics = (helpers_model.leaves(new.regressor.batch_stats) for new in (found, expected))
    for a, b in zip(*(leaves.values() for leaves in statistics)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_critics_metric_is_the_papers_loss_for_any_smoothing(state, batch, model):
    plain, smoothed = (
        compiled(train_step.critic_step, fields=(("label_smoothing", e),))(state, batch, model) for e in (0.0, 0.3)
    )
    np.testing.assert_allclose(plain[1]["loss_sc_critic"], smoothed[1]["loss_sc_critic"], rtol=1e-5)
    assert not identical(plain[0].critic.params, smoothed[0].critic.params)


def test_coefficient_noise_depends_on_the_samples_position_only():
    model = helpers_model.tiny_model()
    spec = helpers_model.tiny_spec().replace(coefficient_noise=0.5)
    batch = helpers_model.tiny_batch(model, annotated=8, wild=8)

    @jax.jit
    def noise(part):
        faces = (
            training_batch.prepare_annotated(part["annotated"], model, spec),
            training_batch.prepare_wild(part["wild"], spec),
        )
        return [train_step._critic_noise(of, spec) for of in faces]

    annotated, wild = map(np.asarray, noise(batch))
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    for found, expected in zip(noise(jax.tree.map(lambda rows: rows[order], batch)), (annotated, wild)):
        np.testing.assert_array_equal(found, expected[order])
    drawn = np.concatenate([annotated, wild])
    assert len(np.unique(drawn)) == drawn.size  # all numbers of both sets differ
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0.0, 0.5], atol=0.06)
    other = noise(batch | {"wild": batch["wild"] | {"position": batch["wild"]["position"] + np.uint32(100)}})
    np.testing.assert_array_equal(other[0], annotated)
    assert (np.asarray(other[1]) != wild).all()
    faces, without_noise = training_batch.prepare_wild(batch["wild"], spec), spec.replace(coefficient_noise=0.0)
    np.testing.assert_array_equal(train_step._critic_noise(faces, without_noise), np.zeros((8, 62)))


def test_losses_are_reported_and_summed_in_the_configured_unit(state, batch, model):
    scale = {"loss_2d_con": 0.5, "loss_3d_con": 0.25, "loss_cyc": 0.125}
    pixels, scaled = (
        compiled(train_step.regressor_step, fields=fields)(state, batch, model)[1]
        for fields in ((), (("loss_scale", HashableDict(scale)),))
    )
    for name in pixels.keys() - {"loss", "gradient_norm"}:
        np.testing.assert_allclose(scaled[name], scale.get(name, 1.0) * pixels[name], rtol=1e-4, err_msg=name)
    total = sum(weight * scaled[name] for name, weight in STAGE1_LOSSES.items() if weight)
    np.testing.assert_allclose(scaled["loss"], total, rtol=1e-5)


class HashableDict(dict):
    """A dict that `compiled` can cache by."""

    def __hash__(self):
        return hash(tuple(self.items()))


def test_loss_decreases_and_two_runs_are_bit_identical(full_step, state, batch, model):
    def run():
        new, metrics = state, []
        for _ in range(10):
            new, found = full_step(new, batch, model)
            metrics.append(found)
        return new, metrics

    (first, metrics), (second, _) = run(), run()
    assert_identical(first, second)
    assert metrics[-1]["loss_3d"] < 0.97 * metrics[0]["loss_3d"]
    assert metrics[-1]["loss_sc_critic"] < metrics[0]["loss_sc_critic"]
    assert all(np.isfinite(list(found.values())).all() for found in metrics)


def with_nan(batch, part, field, index):
    copy = {name: dict(fields) for name, fields in batch.items()}
    copy[part][field] = copy[part][field].copy()
    copy[part][field][index] = np.nan
    return copy


@pytest.mark.parametrize("part, field, index", [("annotated", "alpha", (0, 3)), ("wild", "landmarks", (0, 5, 1))])
def test_a_nonfinite_batch_changes_nothing_and_is_counted(full_step, state, batch, model, part, field, index):
    good, _ = full_step(state, batch, model)
    bad = with_nan(batch, part, field, index)
    skipped, metrics = full_step(good, bad, model)
    assert_identical((skipped.regressor, skipped.critic), (good.regressor, good.critic))
    assert [int(skipped.step), int(skipped.skipped), int(skipped.skipped_in_a_row)] == [2, 1, 1]
    assert metrics["skipped"] == 1
    twice, _ = full_step(skipped, bad, model)
    assert int(twice.skipped_in_a_row) == 2
    again, metrics = full_step(twice, batch, model)
    assert [int(again.step), int(again.skipped), int(again.skipped_in_a_row)] == [4, 2, 0]
    assert metrics["skipped"] == 0 and not identical(again.regressor, good.regressor)


@pytest.mark.parametrize(
    "fields", [CRITIC_FIRST, SIMULTANEOUS, ACCUMULATED], ids=["critic first", "simultaneous", "accumulated"]
)
def test_a_skipped_step_keeps_both_networks_in_every_order(state, batch, model, fields):
    (step,) = steps(fields, "train_step")
    for part, field, index in (("annotated", "alpha", (0, 3)), ("wild", "landmarks", (1, 5, 1))):
        new, metrics = step(state, with_nan(batch, part, field, index), model)
        assert_identical((new.regressor, new.critic), (state.regressor, state.critic))
        assert metrics["skipped"] == 1 and int(new.skipped) == 1


def test_a_hidden_nan_landmark_changes_nothing(full_step, state, batch, model):
    hidden = np.argwhere(batch["wild"]["visible"] == 0)[0]
    new, metrics = full_step(state, with_nan(batch, "wild", "landmarks", tuple(hidden)), model)
    assert int(new.skipped) == 0
    expected, _ = full_step(state, batch, model)
    assert_identical(new, expected)


def test_a_batch_without_visible_landmarks_is_trained_on(full_step, state, batch, model):
    hidden_landmarks = {"annotated": batch["annotated"], "wild": dict(batch["wild"])}
    hidden_landmarks["wild"]["visible"] = np.zeros_like(batch["wild"]["visible"])
    new, metrics = full_step(state, hidden_landmarks, model)
    assert int(new.skipped) == 0 and metrics["loss_2d_con"] == 0
    assert np.isfinite(metrics["gradient_norm"])


def test_normalized_faces_have_the_weight_of_all_landmarks(state, batch, model):
    hidden = [0, 1, 2]
    hidden += heatmap.MIRROR_18[hidden].tolist()
    visible = np.ones_like(batch["wild"]["visible"])
    visible[:, hidden] = 0
    shown = {"annotated": batch["annotated"], "wild": batch["wild"] | {"visible": visible}}
    losses = STAGE2_LOSSES | {"loss_2d_con": 0.01}
    spec = helpers_model.tiny_spec(losses=losses)
    plain, normalized = (
        jax.jit(functools.partial(train_step.train_step, spec=chosen))(state, shown, model)[1]["loss_2d_con"]
        for chosen in (spec, spec.replace(normalize_by_visibility=True))
    )
    mask = np.array(spec.landmark_weights)
    np.testing.assert_allclose(normalized / plain, mask.sum() / np.delete(mask, hidden).sum(), rtol=1e-5)


def test_stage_2_trains_with_vdc_only_and_keeps_the_critic(state, batch, model):
    step = compiled(train_step.train_step, losses=tuple(STAGE2_LOSSES.items()))
    new, metrics = step(state, {"annotated": batch["annotated"]}, model)
    assert set(metrics) == {"loss", "loss_vdc", "gradient_norm", "skipped"}
    assert_identical(new.critic, state.critic)
    assert not identical(new.regressor.params, state.regressor.params)


def metric_names(losses, batch, model, state):
    spec = helpers_model.tiny_spec(losses=losses)
    shapes = jax.eval_shape(functools.partial(train_step.train_step, spec=spec), state, batch, model)
    return {name for name in shapes[1] if name in LOSS_NAMES or name == "loss_sc_critic"}


@pytest.mark.parametrize(
    "off, absent",
    [
        (("loss_2d_con", "loss_3d_con", "loss_cyc"), {"loss_2d_con", "loss_3d_con", "loss_cyc"}),
        (("loss_sc",), {"loss_sc", "loss_sc_critic"}),
        (("loss_vdc",), {"loss_vdc"}),
        (("loss_3d",), {"loss_3d"}),
        (("loss_3d_con",), {"loss_3d_con"}),
        (("loss_cyc",), {"loss_cyc"}),
    ],
)
def test_a_loss_of_weight_zero_is_not_computed(state, batch, model, off, absent):
    found = metric_names(ALL_LOSSES | dict.fromkeys(off, 0.0), batch, model, state)
    assert found == {*LOSS_NAMES, "loss_sc_critic"} - absent


def test_the_plain_variant_needs_no_wild_images(state, batch, model):
    plain = dict.fromkeys(LOSS_NAMES, 0.0) | {"loss_3d": 1.0}
    assert metric_names(plain, {"annotated": batch["annotated"]}, model, state) == {"loss_3d"}


def test_an_unknown_loss_raises_an_error():
    with pytest.raises(ValueError, match="loss_4d"):
        helpers_model.tiny_spec(losses={"loss_4d": 1.0})


def test_the_second_pass_does_not_change_running_statistics(full_step, without_second_pass, state, batch, model):
    with_pass, _ = full_step(state, batch, model)
    a, b = (helpers_model.leaves(s.regressor.batch_stats) for s in (with_pass, without_second_pass))
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_initial_states_depend_on_the_seed_only():
    spec = helpers_model.tiny_spec()
    first = create_train_state(spec, 0)
    assert_identical(create_train_state(spec, 0), first)
    assert not identical(create_train_state(spec, 1), first)


def test_augmented_annotated_faces_have_consistent_alpha_and_landmarks(model, batch):
    augmentation = AugmentationSettings(rotation_degrees=30.0, scale=0.2, shift_pixels=5.0)
    spec = helpers_model.tiny_spec(augmentation=augmentation)
    faces = jax.jit(functools.partial(training_batch.prepare_annotated, spec=spec))(batch["annotated"], model)
    alpha = np.asarray(faces.whitened) * model.alpha_std + model.alpha_mean
    np.testing.assert_allclose(faces.landmarks, helpers_model.true_landmarks_18(model, alpha), atol=1e-3)
    np.testing.assert_array_equal(faces.heatmap_landmarks, faces.landmarks)  # no detector noise by default
    assert not np.allclose(alpha[:, :12], batch["annotated"]["alpha"][:, :12], atol=0.1)
    np.testing.assert_allclose(alpha[:, 12:], batch["annotated"]["alpha"][:, 12:], atol=1e-4)
