"""A run's state between its loop and a thread that ends the run in the loop's stead."""

import threading

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.runtime import progress as progress_module
from twodal_jax.runtime.progress import Progress


@flax.struct.dataclass
class State:
    step: jax.Array
    weights: jax.Array


class Steps:
    """Steps that double the weights, give the old ones away, and end when they are let."""

    def __init__(self):
        self.begun, self.let = threading.Semaphore(0), threading.Semaphore(0)
        self._step = jax.jit(lambda s: State(s.step + 1, 2 * s.weights), donate_argnums=0)

    def __call__(self, state, batch, model):
        self.begun.release()
        self.let.acquire()
        return self._step(state), {"loss": state.step}


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture
def progress():
    return Progress(State(jnp.int32(7), jnp.array([1.0, 3.0])))


@pytest.fixture
def loop(progress, steps):
    """A loop of endless steps."""

    def run():
        while True:
            progress.advance(steps, None, None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert steps.begun.acquire(timeout=60)
    return thread


def never(step):
    return False


def test_during_a_step_there_is_nothing_to_take_but_what_is_saved(progress, steps, loop):
    assert progress.take(never) is None and not progress.ended
    assert progress.take(lambda step: step == 7) == (7, None) and progress.ended


def test_during_the_step_after_a_long_one_the_state_before_it_is_there(progress, steps, loop, monkeypatch):
    monkeypatch.setattr(progress_module, "SLOW_STEP", 0.0)
    steps.let.release()
    assert steps.begun.acquire(timeout=60)
    step, state = progress.take(never)
    assert step == 8 and int(state.step) == 8
    np.testing.assert_array_equal(state.weights, [2.0, 6.0])


def test_the_loop_begins_no_step_once_a_thread_ends_the_run(progress, steps):
    step, state = progress.take(never)
    loop = threading.Thread(target=progress.advance, args=(steps, None, None), daemon=True)
    loop.start()
    assert not steps.begun.acquire(timeout=0.3) and loop.is_alive()
    assert step == progress.step == 7 and not state.weights.is_deleted()


def test_what_the_loop_has_ended_no_thread_takes(progress):
    progress.end()
    assert progress.ended and progress.take(lambda step: True) is None
    progress.end()  # once more is nothing


def test_the_loop_does_not_end_what_a_thread_ends(progress):
    taken = []
    other = threading.Thread(target=lambda: taken.append(progress.take(never)))
    other.start()
    other.join()
    assert taken[0][0] == 7
    loop = threading.Thread(target=progress.end, daemon=True)
    loop.start()
    loop.join(0.3)
    assert loop.is_alive()


def test_a_thread_may_seize_what_the_loop_is_ending(progress):
    progress.end()
    other = threading.Thread(target=progress.seize)
    other.start()
    other.join()
    loop = threading.Thread(target=progress.end, daemon=True)
    loop.start()
    loop.join(0.3)
    assert loop.is_alive()
