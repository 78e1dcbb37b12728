"""SIGTERM and Ctrl-C: a run saves after its step and exits, or exits after the grace period; never a traceback."""

import re
import signal
import subprocess
import threading
import time

import pytest
from helpers_run import Program, result, run_python, saved_steps, start_tiny, train_tiny

from twodal_jax.runtime.preemption import stop_requests

pytestmark = pytest.mark.slow

SECONDS = 10.0  # the longest time from a signal to the exit, apart from the grace period
GRACE = 2
LONG = {
    "stage1.steps": 100_000,
    "run.log_every": 1,
    "run.evaluate_every": 10**6,
    "run.checkpoint_every": 2,
    "run.grace_seconds": GRACE,
}


def stop(process, number, after="", delay=0.0, status=None, limit=SECONDS) -> tuple[float, str]:
    """Sends a signal `delay` seconds after stderr matches `after`; returns (seconds to the exit, stderr)."""
    process.wait_until(after)
    time.sleep(delay)
    began = time.monotonic()
    process.send_signal(number)
    process.wait(120)
    seconds, errors = time.monotonic() - began, process.stderr_text()
    assert process.returncode in (status or [128 + number]), errors[-3000:]
    assert seconds < limit and "Traceback" not in errors
    return seconds, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_saves_after_the_step_in_which_a_signal_came(tmp_path, number):
    with start_tiny(tmp_path, LONG) as process:
        _, errors = stop(process, number, after=r"step 5/")
    step = int(re.search(r"Stopped at step (\d+); saved", errors)[1])
    assert step >= 5 and saved_steps(tmp_path)[-1] == step


def test_a_signal_before_the_first_step_saves_the_state(tmp_path):
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # the evaluation before the first step takes seconds
    with start_tiny(tmp_path, {"run.grace_seconds": 60}, env=environment) as process:
        _, errors = stop(process, signal.SIGTERM, after="parameters, steps 0 to", delay=0.7, limit=60)
    assert "Stopped at step 0; saved" in errors and saved_steps(tmp_path) == [0]


@pytest.mark.parametrize(
    "number, block",
    [
        (signal.SIGTERM, {"slow_steps": {6: 60.0}}),
        (signal.SIGINT, {"slow_steps": {6: 60.0}}),
        (signal.SIGTERM, {"events": {7: "sleep:3600"}}),
    ],
    ids=["long step, SIGTERM", "long step, Ctrl-C", "no data"],
)
def test_a_run_whose_step_does_not_end_exits_after_the_grace_period(tmp_path, number, block):
    with start_tiny(tmp_path, LONG, **block) as process:
        seconds, errors = stop(process, number, after=r"step 5/", delay=1, limit=GRACE + SECONDS)
    assert seconds >= GRACE
    assert f"no step ended within {GRACE} s" in errors and "last checkpoint is step 4" in errors
    assert saved_steps(tmp_path)[-1] == 4


def test_a_run_that_compiles_exits_after_the_grace_period(tmp_path):
    with start_tiny(tmp_path, LONG, env={"JAX_ENABLE_COMPILATION_CACHE": "false"}, slow_steps={1: 60.0}) as process:
        _, errors = stop(process, signal.SIGTERM, r"step 0  NME validation", delay=2, limit=GRACE + SECONDS)
    assert "No checkpoint was written yet" in errors


def test_a_run_that_is_ended_while_it_writes_its_report_writes_it_when_resumed(tmp_path):
    with start_tiny(tmp_path, slow_report=60) as process:
        stop(process, signal.SIGTERM, after="reporting", delay=1, status=[-signal.SIGTERM])
    assert not (tmp_path / "report.html").exists()
    result(train_tiny(tmp_path))
    assert (tmp_path / "report.html").exists()


def test_a_second_ctrl_c_interrupts_at_once():
    with stop_requests(60.0, lambda: None) as requests:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert requests.due(1) and requests.code == 128 + signal.SIGINT


OTHER_SIGNAL = """
import signal, time
from twodal_jax.runtime.preemption import stop_requests

signal.signal(signal.SIGUSR1, lambda *_: None)
with stop_requests(0.1, lambda: None) as requests:
    signal.raise_signal(signal.SIGUSR1)
    time.sleep(0.5)
    print("goes on", requests.due(1))
    signal.raise_signal(signal.SIGTERM)
    time.sleep(60)
"""


def test_a_handled_signal_of_another_kind_does_not_start_the_grace_period():
    process = run_python("-c", OTHER_SIGNAL)
    assert process.stdout == "goes on False\n" and process.returncode == 128 + signal.SIGTERM


def test_handlers_are_restored_and_no_thread_is_left():
    before, threads = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)], threading.active_count()
    with stop_requests(0.1, lambda: None) as requests:
        signal.raise_signal(signal.SIGTERM)
        assert requests.due(1)
        time.sleep(0.3)  # the grace period does not end a process that is stopping
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert threading.active_count() == threads


def test_a_run_saves_although_stderr_is_closed(tmp_path):
    """In `2>&1 | tee log`, a Ctrl-C ends tee as well."""
    with start_tiny(tmp_path, LONG, stderr=subprocess.PIPE) as process:
        for line in process.stderr:
            if "step 3/" in line:
                break
        process.stderr.close()
        time.sleep(1)  # further lines are written
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 128 + signal.SIGINT
    assert saved_steps(tmp_path)[-1] >= 3


@pytest.mark.parametrize("delay", [0.3, 3.0])
def test_the_command_exits_without_a_traceback_when_interrupted_at_its_start(tmp_path, delay):
    with Program("-m", "twodal_jax.main", "--config=configs/demo.py", f"--workdir={tmp_path / 'run'}") as process:
        stop(process, signal.SIGINT, delay=delay, status=[-signal.SIGINT, 128 + signal.SIGINT])
