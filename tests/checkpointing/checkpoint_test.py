"""Checkpoints: restored bit for bit, atomic, refused where they belong to another run."""

import shutil

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers_checkpoint import DESCRIPTION, state
from helpers_model import assert_identical

from twodal_jax.checkpointing import format as checkpoint_format
from twodal_jax.checkpointing.manager import CheckpointError, Checkpoints, SaveError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def open_checkpoints(folder):
    opened = []

    def open_checkpoints(keep=2):
        opened.append(Checkpoints(folder, keep=keep))
        return opened[-1]

    yield open_checkpoints
    for checkpoints in opened:
        checkpoints.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("place", [lambda s: s, lambda s: s.replace(step=jnp.asarray(s.step))], ids=["host", "device"])
def test_a_state_is_restored_bit_for_bit(open_checkpoints, folder, place):
    open_checkpoints().save(place(state()), DESCRIPTION, wait=True)
    assert_identical(open_checkpoints().restore(state(seed=1), DESCRIPTION), state())
    assert names(folder) == ["3"]


def test_the_newest_checkpoints_are_kept_and_the_latest_is_restored(open_checkpoints, folder):
    checkpoints = open_checkpoints(keep=2)
    for step in range(1, 9):  # in the background, faster than they are written
        saved = state(step, seed=step)
        checkpoints.save(saved, DESCRIPTION)
        saved.regressor.params["conv"]["kernel"][:] = 0  # the saved arrays are copies
    checkpoints.wait()
    assert names(folder) == ["7", "8"]
    again = open_checkpoints()
    assert again.latest_step() == 8
    assert_identical(again.restore(state(), DESCRIPTION), state(8, seed=8))
    assert_identical(again.restore(state(), DESCRIPTION, step=7), state(7, seed=7))


def test_the_same_state_of_a_step_is_kept_and_another_replaces_it_and_deletes_later_steps(open_checkpoints, folder):
    checkpoints = open_checkpoints()
    for step in (3, 4):
        checkpoints.save(state(step), DESCRIPTION, wait=True)
    written = (folder / "4" / "manifest.jsonl").stat().st_mtime_ns
    checkpoints.save(state(4), DESCRIPTION, wait=True)
    assert (folder / "4" / "manifest.jsonl").stat().st_mtime_ns == written
    checkpoints.save(state(3, seed=1), DESCRIPTION, wait=True)
    assert names(folder) == ["3"]
    assert_identical(open_checkpoints().restore(state(), DESCRIPTION), state(3, seed=1))


def test_an_exception_during_a_save_is_raised_and_the_save_is_completed(folder):
    with pytest.raises(ZeroDivisionError), Checkpoints(folder) as checkpoints:
        checkpoints.save(state(3), DESCRIPTION)
        raise ZeroDivisionError
    assert_identical(Checkpoints(folder).restore(state(seed=1), DESCRIPTION), state(3))
    assert names(folder) == ["3"]


def test_a_failed_background_save_is_raised_once_and_older_checkpoints_stay(open_checkpoints, folder):
    checkpoints = open_checkpoints()
    checkpoints.save(state(2, seed=2), DESCRIPTION, wait=True)
    (folder / "3.tmp").write_text("a file in the place of the folder")
    checkpoints.save(state(3), DESCRIPTION)
    with pytest.raises(SaveError, match="3: this checkpoint could not be written.*MB are free.*Older ones are intact"):
        checkpoints.wait()
    checkpoints.wait()  # does not raise again
    assert checkpoints.saved_step is None and checkpoints.latest_step() == 2
    (folder / "3.tmp").unlink()
    checkpoints.save(state(3, seed=3), DESCRIPTION, wait=True)
    assert_identical(open_checkpoints().restore(state(), DESCRIPTION), state(3, seed=3))


def test_a_checkpoint_that_orbax_did_not_finish_is_a_failed_save(open_checkpoints, monkeypatch):
    class Unfinished(ocp.Checkpointer):
        def save(self, directory, *arguments, **named):
            super().save(directory, *arguments, **named)
            (directory / checkpoint_format.LAST_FILE).unlink()

    checkpoints = open_checkpoints()
    checkpoints.save(state(), DESCRIPTION, wait=True)
    monkeypatch.setattr(ocp, "Checkpointer", Unfinished)
    with pytest.raises(SaveError, match="did not finish state/"):
        checkpoints.save(state(step=4), DESCRIPTION, wait=True)
    assert_identical(checkpoints.restore(state(seed=1), DESCRIPTION), state())


def test_remains_of_a_killed_process_are_deleted(open_checkpoints, folder):
    open_checkpoints().save(state(3), DESCRIPTION, wait=True)
    (folder / "4.tmp" / "state").mkdir(parents=True)
    shutil.copytree(folder / "3", folder / "1.old")
    assert open_checkpoints().latest_step() == 3
    assert names(folder) == ["3"]
    (folder / "3").rename(folder / "3.old")  # killed while it replaced the only checkpoint
    assert_identical(open_checkpoints().restore(state(seed=1), DESCRIPTION), state(3))


def test_other_files_and_folders_beside_the_checkpoints_stay(open_checkpoints, folder):
    others = ["4.old_keep", "my.older notes", "x.tmp", "007", "²"]
    for name in [*others, "1.tmp", "1.old", "1.old2"]:
        (folder / name).mkdir(parents=True)
    checkpoints = open_checkpoints(keep=1)
    for step in (3, 5):
        checkpoints.save(state(step=step), DESCRIPTION, wait=True)
    assert int(checkpoints.restore(state(seed=1), DESCRIPTION).step) == 5
    assert names(folder) == sorted([*others, "5"])


def with_wider_kernel(s):
    return s.replace(regressor=s.regressor.replace(params={"conv": {"kernel": np.zeros((3, 3, 2, 8), np.float32)}}))


@pytest.mark.parametrize(
    "change, difference",
    [
        (with_wider_kernel, "conv/kernel: 'float32[3, 3, 2, 4]' in the checkpoint, 'float32[3, 3, 2, 8]' in this run"),
        (
            lambda s: s.replace(skipped=np.zeros((), np.int64)),
            "skipped: 'int32[]' in the checkpoint, 'int64[]' in this",
        ),
        (
            lambda s: s.replace(critic=s.critic.replace(opt_state=())),
            "critic/opt_state/1/count: 'int32[]' in the checkpoint, None in this run",
        ),
    ],
)
def test_other_shapes_and_optimisers_are_refused_and_named(open_checkpoints, folder, change, difference):
    open_checkpoints().save(state(), DESCRIPTION, wait=True)
    with pytest.raises(CheckpointError, match="belongs to another run") as error:
        open_checkpoints().restore(change(state()), DESCRIPTION)
    assert difference in str(error.value)
    assert names(folder) == ["3"]


def test_another_description_is_refused_and_the_differing_fields_are_named(open_checkpoints):
    open_checkpoints().save(state(), DESCRIPTION, wait=True)
    with pytest.raises(CheckpointError) as error:
        open_checkpoints().restore(state(), DESCRIPTION | {"seed": 1, "new_field": True})
    message = str(error.value)
    assert "seed: 0 in the checkpoint, 1 in this run" in message and "new_field: None in the checkpoint" in message
    assert "learning_rate" not in message and "--workdir" in message


def test_restoring_from_an_empty_folder_is_an_error_and_resuming_starts_anew(open_checkpoints, folder):
    with pytest.raises(CheckpointError, match=f"{folder}: holds no checkpoint"):
        open_checkpoints().restore(state(), DESCRIPTION)
    assert_identical(open_checkpoints().resume(state(seed=1), DESCRIPTION), state(seed=1))
    assert open_checkpoints().latest_step() is None


@pytest.mark.parametrize("name", ["runs [x]", "a\\b", "gs:", "ü #1 50% ?*{}"])
def test_a_work_directory_may_have_any_name(tmp_path, name):
    with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
        checkpoints.save(state(), DESCRIPTION, wait=True)
        assert_identical(checkpoints.restore(state(seed=1), DESCRIPTION), state())
    assert names(tmp_path / name / "checkpoints") == ["3"]
