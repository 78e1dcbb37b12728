"""A batch in parts: accumulated gradients are the parts' mean, and the big batch's where statistics agree."""

import functools

import helpers_model
import jax
import numpy as np
import pytest

from twodal_jax.training import averaging, batch as training_batch, step as train_step
from twodal_jax.training.state import create_train_state

pytestmark = pytest.mark.slow
LOSSES = helpers_model.ALL_LOSSES | dict.fromkeys(("loss_3d_con", "loss_cyc"), 0.0)  # one pass
PARTS = 2


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


@pytest.fixture(scope="module")
def state():
    """Fresh, but with a random head: a zero one lets no gradient into the layers below it."""
    fresh = create_train_state(spec(), seed=0)
    params = dict(fresh.regressor.params)
    shape = params["head"]["kernel"].shape
    kernel = np.random.default_rng(0).normal(0.0, shape[0] ** -0.5, shape).astype(np.float32)
    params["head"] = params["head"] | {"kernel": kernel}
    return fresh.replace(regressor=fresh.regressor.replace(params=params))


def spec(**settings):
    return helpers_model.tiny_spec(losses=LOSSES, **settings)


@functools.cache
def step(**settings):
    return jax.jit(functools.partial(train_step.train_step, spec=spec(**settings)))


def gradients_in(new):
    """(regressor's, critic's) gradients and statistics, from what the optimisers keep after a first step."""
    return (
        helpers_model.leaves(new.regressor.opt_state[0].trace),
        {path: mu / 0.1 for path, mu in helpers_model.leaves(new.critic.opt_state[0].mu).items()},
        helpers_model.leaves(new.regressor.batch_stats),
    )


def assert_close(found, expected, tolerance=1e-5):
    """Within `tolerance` of the largest entry of each network, which must not be nothing."""
    for a, b in zip(found, expected):
        scale = max(np.abs(value).max() for value in b.values())
        assert a.keys() == b.keys() and scale > 1e-4
        for path in a:
            np.testing.assert_allclose(a[path], b[path], rtol=0, atol=tolerance * max(scale, 1), err_msg=path)


def both_halves(batch):
    return [jax.tree.map(lambda x: np.split(x, PARTS)[index], batch) for index in range(PARTS)]


def test_accumulated_gradients_are_the_mean_of_separate_calls(state, model):
    batch = helpers_model.tiny_batch(model, annotated=4, wild=4)
    plain = spec()

    @jax.jit
    def separate(part):
        annotated = training_batch.prepare_annotated(part["annotated"], model, plain)
        wild = training_batch.prepare_wild(part["wild"], plain)
        loss = functools.partial(train_step.regressor_loss, spec=plain)
        gradients, (_, stats, whitened, _) = jax.grad(loss, has_aux=True)(
            state.regressor.params, state, annotated, wild, model
        )
        critic, _ = jax.grad(train_step.critic_loss, has_aux=True)(
            state.critic.params, annotated, wild, whitened, plain
        )
        return gradients, critic, stats

    found = [[helpers_model.leaves(tree) for tree in separate(part)] for part in both_halves(batch)]
    mean = [{path: (a[path].astype(np.float64) + b[path]) / 2 for path in a} for a, b in zip(*found)]
    new, metrics = step(accumulate=PARTS, alternate=False)(state, batch, model)
    assert_close(gradients_in(new), mean)
    assert int(new.skipped) == 0 and float(metrics["skipped"]) == 0
    # The halves differ, so that a mean of one of them twice would be found out.
    assert max(np.abs(found[0][0][path] - found[1][0][path]).max() for path in found[0][0]) > 1e-3


def test_accumulation_equals_the_big_batch_where_the_parts_statistics_agree(state, model):
    half = helpers_model.tiny_batch(model)
    batch = jax.tree.map(lambda x: np.concatenate([x] * PARTS), half)
    accumulated, metrics = step(accumulate=PARTS)(state, batch, model)
    whole, metrics_whole = step()(state, batch, model)
    assert_close(gradients_in(accumulated), gradients_in(whole))
    for name in metrics_whole:
        np.testing.assert_allclose(metrics[name], metrics_whole[name], rtol=1e-5)


def test_a_broken_part_skips_the_whole_step(state, model):
    batch = helpers_model.tiny_batch(model, annotated=4, wild=4)
    batch["annotated"]["alpha"][3] = np.nan
    new, _ = step(accumulate=PARTS)(state, batch, model)
    helpers_model.assert_identical((new.regressor, new.critic), (state.regressor, state.critic))
    assert [int(new.step), int(new.skipped)] == [1, 1]


def test_rematerialised_blocks_have_the_same_gradients_and_statistics(state, model):
    batch = helpers_model.tiny_batch(model, annotated=4, wild=4)
    again, _ = step(remat=True)(state, batch, model)
    plain, _ = step()(state, batch, model)
    assert_close(gradients_in(again), gradients_in(plain), tolerance=1e-6)


def test_means_over_parts_are_those_of_all_rows():
    rows = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    found = averaging.accumulate_microbatches(lambda x: {"mean": x.mean(axis=0)}, rows, 3)
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0))
