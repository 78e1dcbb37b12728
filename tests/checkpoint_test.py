"""Checkpoints: exact, refused where they belong to another run, clear where there is none."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers_model import assert_identical

from twodal_jax.checkpoint import CheckpointError, Checkpoints
from twodal_jax.train_state import NetState, TrainState

DESCRIPTION = {"seed": 0, "landmark_mask": [4.0, 2.0, 1.0], "stage1.learning_rate": 5e-5, "none": None}


def state(step=3, seed=0):
    """A small state with what real ones have: nested names, scalars, empty statistics, odd values."""
    rng = np.random.default_rng(seed)

    def net(stats):
        params = {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}}
        params["conv"]["kernel"].reshape(-1)[:4] = [np.float32(1e-42), -0.0, 3.4e38, 1 / 3]
        momentum = {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}}
        return NetState(params, stats, ({"trace": momentum}, {"count": np.int32(step)}))

    counters = [np.asarray(value, np.int32) for value in (step, 2, 1)]
    return TrainState(
        *counters, regressor=net({"norm": {"mean": np.full(4, 0.1, np.float32)}}), critic=net({})
    )


@pytest.fixture
def checkpoints(tmp_path):
    opened = []

    def open_folder(keep=2):
        opened.append(Checkpoints(tmp_path / "checkpoints", keep=keep))
        return opened[-1]

    yield open_folder
    for one in opened:
        one.close()


def test_a_state_comes_back_bit_for_bit(checkpoints):
    saved = state()
    checkpoints().save(saved, DESCRIPTION, wait=True)
    restored = checkpoints().restore(state(seed=1), DESCRIPTION)
    assert isinstance(restored, TrainState)
    assert_identical(restored, saved)


def test_a_state_on_the_device_comes_back_too(checkpoints):
    saved = state()
    on_device = saved.replace(step=jnp.asarray(saved.step), skipped=jnp.asarray(saved.skipped))
    checkpoints().save(on_device, DESCRIPTION, wait=True)
    assert_identical(checkpoints().restore(state(seed=1), DESCRIPTION), saved)


def test_arrays_changed_after_a_save_in_the_background_do_not_reach_it(checkpoints):
    folder, saved = checkpoints(), state()
    folder.save(saved, DESCRIPTION)
    expected = state()
    folder.wait()
    assert_identical(checkpoints().restore(state(seed=1), DESCRIPTION), expected)


def test_the_newest_ones_are_kept_and_the_latest_is_restored(checkpoints):
    folder = checkpoints(keep=2)
    for step in (1, 2, 3):
        folder.save(state(step, seed=step), DESCRIPTION, wait=True)
    again = checkpoints()
    assert again.latest_step() == 3
    assert_identical(again.restore(state(), DESCRIPTION), state(3, seed=3))
    assert_identical(again.restore(state(), DESCRIPTION, step=2), state(2, seed=2))


def test_saving_the_same_step_twice_keeps_the_first(checkpoints):
    folder = checkpoints()
    folder.save(state(3, seed=0), DESCRIPTION)
    folder.save(state(3, seed=0), DESCRIPTION, wait=True)
    assert_identical(checkpoints().restore(state(seed=1), DESCRIPTION), state(3, seed=0))


def test_another_description_is_refused_and_the_differing_fields_are_named(checkpoints):
    checkpoints().save(state(), DESCRIPTION, wait=True)
    other = DESCRIPTION | {"seed": 1, "new_field": True}
    with pytest.raises(CheckpointError) as error:
        checkpoints().restore(state(), other)
    message = str(error.value)
    assert "seed: 0 there, 1 here" in message and "new_field: None there, True here" in message
    assert "learning_rate" not in message and "--workdir" in message


def test_an_empty_folder_is_an_error_that_names_it(checkpoints, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint") as error:
        checkpoints().restore(state(), DESCRIPTION)
    assert str(tmp_path) in str(error.value)
    assert checkpoints().resume(state(seed=1), DESCRIPTION).step == 3  # what it was given
    assert checkpoints().latest_step() is None


def test_no_temporary_files_are_left(checkpoints, tmp_path):
    checkpoints().save(state(), DESCRIPTION, wait=True)
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert names == ["3"], names
