"""The lock of a folder: one process holds it, and it is free when that process ends."""

import contextlib
import signal

import pytest
from helpers_run import Program

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
    with Program("-c", HOLDER, folder) as process:
        process.wait_until(lambda: process.stdout_text() == "held\n")
        yield process


def test_the_lock_is_refused_while_another_process_holds_it_and_free_after_its_end(tmp_path):
    for number in (signal.SIGKILL, signal.SIGTERM):
        with holder(tmp_path) as process:
            with pytest.raises(WriteError, match=f"another run is at work there .process {process.pid}"):
                with only_run(tmp_path):
                    pass
            process.send_signal(number)
            process.wait(timeout=30)
            with only_run(tmp_path):
                assert (tmp_path / ".lock").read_text().strip().isdigit()


def test_a_process_may_lock_a_folder_again_and_two_folders_at_once(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for _ in range(2):
        with only_run(tmp_path), only_run(other):
            pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(WriteError, match="missing"), only_run(tmp_path / "missing"):
        pass
