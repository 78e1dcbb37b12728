"""Gradient accumulation over microbatches, and rematerialisation."""

import functools

import helpers_model
import jax
import numpy as np
import pytest

from twodal_jax.training import averaging, step as train_step
from twodal_jax.training.state import create_train_state

pytestmark = pytest.mark.slow
LOSSES = helpers_model.ALL_LOSSES | dict.fromkeys(("loss_3d_con", "loss_cyc"), 0.0)  # one pass
MICROBATCHES = 2


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


@pytest.fixture(scope="module")
def state():
    """An initial state with a random head; a zero head passes no gradient to the layers below."""
    return helpers_model.with_random_head(create_train_state(spec(), seed=0))


def spec(**settings):
    return helpers_model.tiny_spec(losses=LOSSES, **settings)


@functools.cache
def step(**settings):
    return jax.jit(functools.partial(train_step.train_step, spec=spec(**settings)))


def gradients_in(new):
    """Gradients of regressor and critic and the statistics, from the optimisers' states after a first step."""
    return (
        helpers_model.leaves(new.regressor.opt_state[0].trace),
        {path: mu / 0.1 for path, mu in helpers_model.leaves(new.critic.opt_state[0].mu).items()},
        helpers_model.leaves(new.regressor.batch_stats),
    )


def assert_close(found, expected, tolerance=1e-5):
    """Compare with `tolerance` relative to the largest entry of each network, which must not be almost zero."""
    for a, b in zip(found, expected):
        scale = max(np.abs(value).max() for value in b.values())
        assert a.keys() == b.keys() and scale > 1e-4
        for path in a:
            np.testing.assert_allclose(a[path], b[path], rtol=0, atol=tolerance * max(scale, 1), err_msg=path)


def test_accumulation_equals_the_whole_batch_if_the_microbatches_are_equal(state, model):
    half = helpers_model.tiny_batch(model)
    batch = jax.tree.map(lambda x: np.concatenate([x] * MICROBATCHES), half)
    accumulated, metrics = step(accumulate=MICROBATCHES)(state, batch, model)
    whole, metrics_whole = step()(state, batch, model)
    assert_close(gradients_in(accumulated), gradients_in(whole))
    for name in metrics_whole:
        np.testing.assert_allclose(metrics[name], metrics_whole[name], rtol=1e-5)


def test_rematerialised_blocks_have_the_same_gradients_and_statistics(state, model):
    batch = helpers_model.tiny_batch(model, annotated=4, wild=4)
    again, _ = step(remat=True)(state, batch, model)
    plain, _ = step()(state, batch, model)
    assert_close(gradients_in(again), gradients_in(plain), tolerance=1e-6)


def test_accumulated_means_are_those_of_all_rows():
    rows = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    found = averaging.accumulate_microbatches(lambda x: {"mean": x.mean(axis=0)}, rows, 3)
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0))
