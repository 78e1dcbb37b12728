"""Runs whose disk fills up, or whose folder may not be written: an error at that save, or training goes on."""

import json
import shutil

import pytest
from helpers_disk import small_disk
from helpers_run import run_python, shared_compilations

from twodal_jax.training import metric_logger

pytestmark = pytest.mark.slow

# Saves at 2, 4 (the switch) and 6; batches are fetched one step ahead, and saves end in the background.
SAVED, FAILED = "saved:{workdir}/checkpoints/2;", "pause:3;"
EVENTS = {
    "a full disk": (SAVED + "fill:{workdir}", FAILED + "free:{workdir}"),
    "a limit of a file's size": (SAVED + "limit:600", FAILED + "limit:0"),
    "a read-only folder": (SAVED + "forbid:{workdir}/checkpoints", FAILED + "allow:{workdir}/checkpoints"),
}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """train(workdir, events, **config overrides) -> finished process, which obeys permissions."""
    env = shared_compilations(tmp_path_factory.mktemp("compilation_cache"))

    def start(workdir, events=(), **config):
        events = {step: event.format(workdir=workdir) for step, event in dict(events).items()}
        settings = {"events": events, "config": config, "obey_permissions": True}
        return run_python("tests/helpers_run.py", workdir, json.dumps(settings), env=env)

    return start


@pytest.fixture(scope="module")
def expected(train, tmp_path_factory):
    """The hash of a run that nothing disturbed."""
    process = train(tmp_path_factory.mktemp("undisturbed"))
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])["hash"]


@pytest.fixture
def workdir(tmp_path, request):
    """A work directory; on a small disk of its own where it is to fill up."""
    if request.param != "a full disk":
        yield tmp_path, EVENTS[request.param]
        return
    with small_disk(tmp_path / "disk", 24) as disk:
        if disk is None:
            pytest.skip("a disk of its own can be mounted by root only")
        yield disk, EVENTS[request.param]


def steps_of(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize("workdir", EVENTS, indirect=True)
def test_a_save_that_cannot_be_written_stops_the_run_and_older_ones_stay(train, expected, workdir):
    workdir, (spoil, mend) = workdir
    process = train(workdir, {4: spoil})
    assert process.returncode == 4, process.stderr[-3000:]
    assert "Traceback" not in process.stderr
    assert "could not be written" in process.stderr
    assert steps_of(workdir) == ["2"]
    if "free" in mend:
        (workdir / "filler").unlink()
    (workdir / "checkpoints").chmod(0o755)
    again = train(workdir)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(again.stdout.splitlines()[-1])["hash"] == expected


@pytest.mark.parametrize("workdir", EVENTS, indirect=True)
def test_training_goes_on_without_a_save_where_it_is_to(train, expected, workdir):
    workdir, (spoil, mend) = workdir
    process = train(workdir, {4: spoil, 6: mend}, **{"run.on_failed_save": "continue"})
    assert process.returncode == 0, process.stderr[-3000:]
    assert "Traceback" not in process.stderr
    assert "4: this checkpoint could not be written" in process.stderr
    assert "Training goes on" in process.stderr
    assert json.loads(process.stdout.splitlines()[-1])["hash"] == expected
    assert steps_of(workdir) == ["2", "6"]
    history = metric_logger.read_history(workdir)
    assert [entry["step"] for entry in history if entry["kind"] == "train"] == [2, 4, 6]


@pytest.mark.parametrize("workdir", ["a full disk"], indirect=True)
def test_a_disk_that_stays_full_is_an_error_at_the_end_of_either_kind(train, workdir):
    workdir, (spoil, _) = workdir
    process = train(workdir, {4: spoil}, **{"run.on_failed_save": "continue"})
    assert process.returncode == 4, process.stderr[-3000:]
    assert "Traceback" not in process.stderr
    assert "SaveError" in process.stderr and "6: this checkpoint could not be written" in process.stderr
    assert steps_of(workdir) == ["2"]


def test_a_work_directory_that_cannot_be_made_is_one_message(train, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    process = train(tmp_path / "locked" / "run")
    assert process.returncode == 4, process.stderr[-3000:]
    assert "could not be written" in process.stderr and "Traceback" not in process.stderr


def test_a_relative_work_directory_is_one_of_the_current_folder(train, expected, tmp_path, monkeypatch):
    from helpers_run import ROOT

    folder = tmp_path.relative_to("/")
    relative = "/".join([".."] * (len(ROOT.parts) - 1)) + f"/{folder}/run"
    process = train(relative)
    assert process.returncode == 0, process.stderr[-3000:]
    assert json.loads(process.stdout.splitlines()[-1])["hash"] == expected
    assert steps_of(tmp_path / "run") == ["4", "6"]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    assert train(relative).returncode == 0
