"""SIGTERM and Ctrl-C, whatever a run is doing: it saves, leaves within ten seconds, and shows no traceback."""

import json
import re
import signal
import threading
import time

import pytest
from helpers_run import shared_compilations, start_python

from twodal_jax.runtime import stopping

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


LONG = {"stage1.steps": 100_000, "run.log_every": 1, "run.evaluate_every": 10**6, "run.checkpoint_every": 10**6}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_run_saves_the_current_step(start, tmp_path, number):
    process = start(tmp_path, **LONG)
    seconds, said = signalled(process, number, seen=r"step 5/")
    assert process.returncode == 128 + number, said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said
    step = re.search(r"Stopped at step (\d+); saved", said)[1]
    assert int(step) >= 5
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [step]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_waits_for_data_saves_what_it_has(start, tmp_path, number):
    process = start(tmp_path, {5: "stall"}, **LONG)
    seconds, said = signalled(process, number, seen=r"step 3/", delay=1)
    assert process.returncode == 128 + number, said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said
    assert "Stopped at step 3; saved" in said
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_in_a_step_of_a_minute_saves_the_step_before(start, tmp_path, number):
    process = start(tmp_path, slow={3: 5.0, 4: 60.0}, **LONG)
    seconds, said = signalled(process, number, seen=r"step 3/", delay=1)
    assert process.returncode == 128 + number, said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said
    assert "Stopped at step 3; saved" in said
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_a_run_that_makes_its_report_leaves_and_the_same_command_makes_it(start, tmp_path):
    process = start(tmp_path, slow_report=60)
    seconds, said = signalled(process, signal.SIGTERM, seen="reporting", delay=1)
    assert process.returncode == 128 + signal.SIGTERM, said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said
    assert "Stopped while the report was made" in said and not (tmp_path / "report.html").exists()
    with start(tmp_path) as again:
        said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said[-3000:]
    assert (tmp_path / "report.html").exists()


def test_a_reader_of_the_log_that_goes_first_costs_nothing(start, tmp_path):
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
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert int(saved.name) >= 3


@pytest.mark.parametrize("delay", [0.2, 2.0])
def test_a_run_that_compiles_or_evaluates_leaves_as_soon(start, tmp_path, delay):
    process = start(tmp_path, env={"JAX_ENABLE_COMPILATION_CACHE": "false"}, **LONG)
    seconds, said = signalled(process, signal.SIGINT, seen=r"parameters, steps 0 to", delay=delay)
    assert process.returncode == 128 + signal.SIGINT, said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said and "Stopped at step 0" in said


@pytest.mark.parametrize("delay", [0.3, 1.0, 3.0, 8.0])
def test_the_command_interrupted_while_it_starts_or_makes_its_data_leaves_silently(tmp_path, delay):
    process = start_python("-m", "twodal_jax.main", "--config=configs/demo.py", f"--workdir={tmp_path / 'run'}")
    seconds, said = signalled(process, signal.SIGINT, delay=delay)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT), said[-3000:]
    assert seconds < SECONDS and "Traceback" not in said


def test_leave_is_called_only_where_the_block_is_too_slow():
    left = []
    old = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with stopping.in_time(left.append, grace=5):
            signal.raise_signal(signal.SIGTERM)
        assert not left
        with stopping.in_time(left.append, grace=0.1):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(1)
        assert left == [signal.SIGTERM]
        with stopping.in_time(left.append, grace=0.1):
            time.sleep(0.3)
        assert len(left) == 1
    finally:
        signal.signal(signal.SIGTERM, old)
