"""Runs whose disk fills up, or whose folder may not be written: an error at that save, or training goes on."""

import shutil

import pytest
from helpers_disk import small_disk
from helpers_run import ALL, result, ROOT, saved_steps, train_tiny

from twodal_jax.training import metric_logger

pytestmark = pytest.mark.slow

# Saves are due at steps 2, 4 and 6. Batches are fetched one step ahead, and saves end in the background.
BEFORE, AFTER = "wait_for:{workdir}/checkpoints/2;", "sleep:3;"
FAULTS = {
    "full disk": (BEFORE + "fill:{workdir}", AFTER + "free:{workdir}"),
    "limited file size": (BEFORE + "limit:20000", AFTER + "limit:0"),
    "read-only folder": (BEFORE + "forbid:{workdir}/checkpoints", AFTER + "allow:{workdir}/checkpoints"),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a run without faults prints."""
    return result(train_tiny(tmp_path_factory.mktemp("intact")))


@pytest.fixture
def workdir(tmp_path, request):
    """A work directory, on a small disk where it is to fill up; and the events that begin and end the fault."""
    if request.param != "full disk":
        yield tmp_path, *FAULTS[request.param]
        return
    with small_disk(tmp_path / "disk", 24) as disk:
        if disk is None:
            pytest.skip("only root can mount a disk")
        yield disk, *FAULTS[request.param]


def train(workdir, events=(), **config):
    return train_tiny(workdir, config, events, obey_permissions=True)


def assert_fails(process, message):
    assert process.returncode == 4, process.stderr[-3000:]
    assert message in process.stderr and "Traceback" not in process.stderr


@pytest.mark.parametrize("workdir", FAULTS if ALL else ["full disk", "read-only folder"], indirect=True)
def test_a_failed_save_stops_the_run_which_can_be_resumed(expected, workdir):
    workdir, begin, end = workdir
    assert_fails(train(workdir, {4: begin}), "could not be written")  # the log may fail before the checkpoint
    assert saved_steps(workdir) == [2]
    if "free" in end:
        (workdir / "filler").unlink()
    (workdir / "checkpoints").chmod(0o755)
    assert result(train(workdir))["hash"] == expected["hash"]


@pytest.mark.parametrize("workdir", FAULTS if ALL else ["limited file size"], indirect=True)
def test_training_goes_on_after_a_failed_save_where_the_config_says_so(expected, workdir):
    workdir, begin, end = workdir
    process = train(workdir, {4: begin, 6: end}, **{"run.on_failed_save": "continue"})
    assert result(process) == expected
    assert "4: this checkpoint could not be written" in process.stderr and "Training goes on" in process.stderr
    assert "Traceback" not in process.stderr
    assert saved_steps(workdir) == [2, 6]
    history = metric_logger.read_history(workdir)
    assert [entry["step"] for entry in history if entry["kind"] == "train"] == [2, 4, 6]


@pytest.mark.parametrize("workdir", ["full disk"], indirect=True)
def test_a_last_state_that_cannot_be_saved_is_an_error_in_any_case(workdir):
    workdir, begin, _ = workdir
    process = train(workdir, {4: begin}, **{"run.on_failed_save": "continue"})
    assert_fails(process, "6: this checkpoint could not be written")
    assert "SaveError" in process.stderr and saved_steps(workdir) == [2]


def test_a_work_directory_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert_fails(train(tmp_path / "locked" / "run"), "could not be written")


def test_a_relative_work_directory_is_relative_to_the_current_folder(expected, tmp_path):
    relative = "/".join([".."] * (len(ROOT.parts) - 1)) + f"/{tmp_path.relative_to('/')}/run"
    assert result(train(relative)) == expected
    assert saved_steps(tmp_path / "run") == [4, 6]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    assert train(relative).returncode == 0
