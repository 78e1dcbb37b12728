"""Checkpoints: exact, refused where they belong to another run, clear where there is none."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from helpers_checkpoint import DESCRIPTION, state
from helpers_model import assert_identical

from twodal_jax.checkpointing import format as checkpoint_format
from twodal_jax.checkpointing.manager import CheckpointError, Checkpoints, SaveError
from twodal_jax.training.state import TrainState


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


def test_saving_another_state_under_the_same_step_replaces_it_and_later_ones_go(checkpoints):
    folder = checkpoints()
    for step in (3, 4):
        folder.save(state(step, seed=0), DESCRIPTION)
    folder.save(state(3, seed=1), DESCRIPTION, wait=True)
    assert checkpoints().latest_step() == 3
    assert_identical(checkpoints().restore(state(), DESCRIPTION), state(3, seed=1))


def test_saves_that_follow_each_other_faster_than_the_disk_all_arrive(checkpoints):
    folder = checkpoints(keep=8)
    for step in range(1, 9):
        folder.save(state(step, seed=step), DESCRIPTION)
    folder.wait()
    for step in range(1, 9):
        restored = checkpoints(keep=8).restore(state(), DESCRIPTION, step=step)
        assert_identical(restored, state(step, seed=step))


def test_an_exception_while_a_save_runs_comes_through_and_the_save_ends_whole(tmp_path):
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as folder:
        folder.save(state(3), DESCRIPTION)
        raise ZeroDivisionError
    assert_identical(Checkpoints(tmp_path).restore(state(seed=1), DESCRIPTION), state(3))
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_a_save_that_fails_in_the_background_is_raised_once_and_older_ones_stay(checkpoints, tmp_path):
    folder = checkpoints()
    folder.save(state(2, seed=2), DESCRIPTION, wait=True)
    (tmp_path / "checkpoints" / "3.tmp").write_text("a file where a folder must be made")
    folder.save(state(3), DESCRIPTION)
    with pytest.raises(SaveError, match="3: this checkpoint could not be written.*MB are free") as error:
        folder.wait()
    assert "Older ones are whole" in str(error.value)
    folder.wait()  # not again
    assert folder.saved_step is None and folder.latest_step() == 2
    (tmp_path / "checkpoints" / "3.tmp").unlink()
    folder.save(state(3, seed=3), DESCRIPTION, wait=True)
    assert_identical(checkpoints().restore(state(), DESCRIPTION), state(3, seed=3))


def test_what_a_killed_process_left_is_tidied_up(checkpoints, tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints().save(state(3), DESCRIPTION, wait=True)
    (folder / "4.tmp" / "state").mkdir(parents=True)
    shutil.copytree(folder / "3", folder / "1.old")
    assert checkpoints().latest_step() == 3
    assert [path.name for path in folder.iterdir()] == ["3"]
    (folder / "3").rename(folder / "3.old")  # killed while the only one was replaced
    assert_identical(checkpoints().restore(state(seed=1), DESCRIPTION), state(3))


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            lambda s: s.replace(
                regressor=s.regressor.replace(params={"conv": {"kernel": np.zeros((3, 3, 2, 8), np.float32)}})
            ),
            "regressor/params/conv/kernel: 'float32[3, 3, 2, 4]' there, 'float32[3, 3, 2, 8]' here",
        ),
        (lambda s: s.replace(skipped=np.zeros((), np.int64)), "skipped: 'int32[]' there, 'int64[]' here"),
        (
            lambda s: s.replace(critic=s.critic.replace(opt_state=())),
            "critic/opt_state/1/count: 'int32[]' there, None here",
        ),
    ],
)
def test_other_shapes_or_another_optimiser_are_refused_and_named(checkpoints, tmp_path, change, expected):
    checkpoints().save(state(), DESCRIPTION, wait=True)
    with pytest.raises(CheckpointError, match="belongs to another run") as error:
        checkpoints().restore(change(state()), DESCRIPTION)
    assert expected in str(error.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


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


@pytest.mark.parametrize("name", ["runs [x]", "a\\b", "gs:", "ü #1 50% ?*{}"])
def test_any_name_of_a_work_directory_will_do(tmp_path, name):
    with Checkpoints(tmp_path / name / "checkpoints") as opened:
        opened.save(state(), DESCRIPTION, wait=True)
        assert_identical(opened.restore(state(seed=1), DESCRIPTION), state())
    assert [path.name for path in (tmp_path / name / "checkpoints").iterdir()] == ["3"]


def test_a_checkpoint_that_orbax_did_not_finish_is_an_error_at_that_save(checkpoints, monkeypatch):
    class Unfinished(checkpoint_format.ocp.Checkpointer):
        def save(self, directory, *arguments, **named):
            super().save(directory, *arguments, **named)
            (directory / checkpoint_format.WHOLE).unlink()

    opened = checkpoints()
    opened.save(state(), DESCRIPTION, wait=True)
    monkeypatch.setattr(checkpoint_format.ocp, "Checkpointer", Unfinished)
    with pytest.raises(SaveError, match="did not finish state/.*Older ones are whole"):
        opened.save(state(step=4), DESCRIPTION, wait=True)
    assert_identical(opened.restore(state(seed=1), DESCRIPTION), state())


def test_what_somebody_else_put_beside_the_checkpoints_stays(checkpoints, tmp_path):
    names = ["4.old_keep", "my.older notes", "x.tmp", "007", "²"]
    left_over = ["1.tmp", "1.old", "1.old2"]
    for name in [*names, *left_over]:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    opened = checkpoints(keep=1)
    for step in (3, 5):
        opened.save(state(step=step), DESCRIPTION, wait=True)
    assert int(opened.restore(state(seed=1), DESCRIPTION).step) == 5
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == sorted([*names, "5"])
