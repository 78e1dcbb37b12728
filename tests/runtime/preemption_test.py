"""SIGTERM and Ctrl-C: a run saves after its step and exits, or exits after the grace period; never a traceback."""

import json
import re
import signal
import threading
import time

import pytest
from helpers_run import shared_compilations, start_python

from twodal_jax.runtime.preemption import stop_requests

pytestmark = pytest.mark.slow

SECONDS = 10.0


def signalled(process, number, seen=None, delay=0.0):
    """Sends a signal `delay` seconds after `seen(line of stderr)` -> (seconds until it left, stderr)."""
    lines, ready = [], threading.Event()

    def read():
        for line in process.stderr:
            lines.append(line)
            if seen and re.search(seen, line):
                ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    if seen:
        assert ready.wait(600), lines
    time.sleep(delay)
    began = time.monotonic()
    process.send_signal(number)
    process.wait(120)
    seconds = time.monotonic() - began
    reader.join()
    process.stdout.close()
    print(f"left after {seconds:.1f} s with {process.returncode}")
    return seconds, "".join(lines)


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return shared_compilations(tmp_path_factory.mktemp("compilation_cache"))


@pytest.fixture(scope="module")
def start(env):
    def start(workdir, events=(), env=env, slow=(), slow_report=0, **config):
        settings = json.dumps(
            {"events": dict(events), "slow": dict(slow), "slow_report": slow_report, "config": config}
        )
        return start_python("tests/helpers_run.py", workdir, settings, env=env)

    return start


GRACE = 2
LONG = {
    "stage1.steps": 100_000,
    "run.log_every": 1,
    "run.evaluate_every": 10**6,
    "run.checkpoint_every": 2,
    "run.grace_seconds": GRACE,
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_saves_the_step_in_which_a_signal_came(start, tmp_path, number):
    process = start(tmp_path, **LONG)
    seconds, said = signalled(process, number, seen=r"step 5/")
    assert process.returncode == 128 + number, said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said
    step = re.search(r"Stopped at step (\d+); saved", said)[1]
    assert int(step) >= 5 and (tmp_path / "checkpoints" / step).is_dir()


@pytest.mark.parametrize(
    "number, block",
    [
        (signal.SIGTERM, {"slow": {6: 60.0}}),
        (signal.SIGINT, {"slow": {6: 60.0}}),
        (signal.SIGTERM, {"events": {7: "stall"}}),
    ],
    ids=["long step, SIGTERM", "long step, Ctrl-C", "no data"],
)
def test_where_no_step_ends_the_last_checkpoint_is_named_after_the_grace_period(start, tmp_path, number, block):
    process = start(tmp_path, **block, **LONG)
    seconds, said = signalled(process, number, seen=r"step 5/", delay=1)
    assert process.returncode == 128 + number, said[-3000:]
    assert GRACE <= seconds < GRACE + SECONDS and "Traceback" not in said
    assert f"no step ended within {GRACE} s" in said and "last checkpoint is step 4" in said
    assert (tmp_path / "checkpoints" / "4").is_dir()


def test_a_run_that_compiles_exits_after_the_grace_period(start, tmp_path):
    process = start(tmp_path, env={"JAX_ENABLE_COMPILATION_CACHE": "false"}, slow={1: 60.0}, **LONG)
    seconds, said = signalled(process, signal.SIGTERM, seen=r"parameters, steps 0 to", delay=0.2)
    assert process.returncode == 128 + signal.SIGTERM, said[-3000:]
    assert seconds < GRACE + SECONDS and "Traceback" not in said and "No checkpoint was written yet" in said


def test_a_run_that_is_ended_while_it_writes_its_report_writes_it_when_resumed(start, tmp_path):
    process = start(tmp_path, slow_report=60)
    seconds, said = signalled(process, signal.SIGTERM, seen="reporting", delay=1)
    assert process.returncode == -signal.SIGTERM, said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said and not (tmp_path / "report.html").exists()
    with start(tmp_path) as again:
        said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said[-3000:]
    assert (tmp_path / "report.html").exists()


def test_a_second_ctrl_c_interrupts_at_once():
    with stop_requests(60.0, lambda: None) as requests:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert requests.due(1) and requests.code == 128 + signal.SIGINT


def test_handlers_are_restored_and_no_thread_is_left():
    before, threads = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)], threading.active_count()
    with stop_requests(0.1, lambda: None) as requests:
        signal.raise_signal(signal.SIGTERM)
        assert requests.due(1)
        time.sleep(0.3)  # the grace period of a run that is stopping does not end the process
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert threading.active_count() == threads


def test_a_closed_stderr_does_not_keep_a_run_from_saving(start, tmp_path):
    """`2>&1 | tee log`: a Ctrl-C ends tee as well."""
    process = start(tmp_path, **LONG)
    for line in process.stderr:
        if "step 3/" in line:
            break
    process.stderr.close()
    time.sleep(1)  # lines that nobody reads
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 128 + signal.SIGINT
    process.stdout.close()
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) >= 3


@pytest.mark.parametrize("delay", [0.3, 3.0])
def test_the_command_exits_without_a_traceback_when_interrupted_at_its_start(tmp_path, delay):
    process = start_python("-m", "twodal_jax.main", "--config=configs/demo.py", f"--workdir={tmp_path / 'run'}")
    seconds, said = signalled(process, signal.SIGINT, delay=delay)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT), said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said
