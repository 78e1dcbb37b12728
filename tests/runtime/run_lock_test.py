"""Two runs cannot share a folder, and a dead one leaves it free."""

import contextlib
import signal

import pytest
from helpers_run import start_python

from twodal_jax.io.text import WriteError
from twodal_jax.runtime.run_lock import only_run

HOLDER = """
import pathlib, sys, time
from twodal_jax.runtime.run_lock import only_run
with only_run(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(folder):
    """A process that holds the folder's lock."""
    with start_python("-c", HOLDER, folder) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_is_refused_with_the_first_ones_process(tmp_path):
    with holder(tmp_path) as process:
        with pytest.raises(WriteError, match=f"another run is at work there .process {process.pid}"):
            with only_run(tmp_path):
                pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_is_free_once_its_run_is_dead(tmp_path, number):
    with holder(tmp_path) as process:
        process.send_signal(number)
        process.wait(timeout=30)
        with only_run(tmp_path):
            assert (tmp_path / ".lock").read_text().strip().isdigit()


def test_one_run_after_the_other_and_two_folders_at_once(tmp_path):
    for _ in range(2):
        with only_run(tmp_path):
            other = tmp_path / "other"
            other.mkdir(exist_ok=True)
            with only_run(other):
                pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(WriteError, match="missing"), only_run(tmp_path / "missing"):
        pass
