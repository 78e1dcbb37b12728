"""Two processes as one run on this machine: stopped, killed, started again, broken on one of them."""

import json
import os
import re
import signal
import time

import pytest
from helpers_group import finish, free_port, place, started, together

from twodal_jax.runtime.run_lock import only_run

pytestmark = pytest.mark.slow
# One forward pass and the critic: what is looked at here is how the processes get on with one another.
CONFIG = {
    "self_supervision": False,
    "stage1.steps": 6,
    "stage2.steps": 0,
    "run.evaluate_every": 1000,
    "run.report_faces": 1,
    "run.max_skipped_in_a_row": 3,
}


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """Runs share a compilation cache, so that only the first one compiles."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compilation_cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "XLA_FLAGS": "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0",
    }


def commands(workdir, events=({}, {}), slow=(), slow_report=0, **config):
    """Both processes' command lines; events: of each, slow, slow_report: of both, see helpers_run."""
    port = free_port()
    return [
        [
            "tests/helpers_run.py",
            workdir,
            json.dumps(
                {
                    "distributed": place(index, port),
                    "events": events[index],
                    "slow": dict(slow),
                    "slow_report": slow_report,
                    "config": CONFIG | config,
                }
            ),
        ]
        for index in range(2)
    ]


def hashes(processes):
    for process in processes:
        assert process.returncode == 0, process.stderr[-3000:]
    return [json.loads(process.stdout.splitlines()[-1])["hash"] for process in processes]


def steps_saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.fixture(scope="module")
def never_killed(env, tmp_path_factory):
    """(folder, hash) of a group nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    first, second = hashes(together(commands(workdir), env, timeout=400))
    assert first == second
    return workdir, first


def test_the_first_process_alone_writes_the_report_and_history(never_killed):
    workdir, _ = never_killed
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["step"] == 6 and (workdir / "report.html").exists()
    lines = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [0, 6]


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_is_killed_the_other_leaves_and_the_group_continues_bit_identical(
    never_killed, env, tmp_path, killed
):
    events = [{}, {}]
    events[killed] = {"6": "SIGKILL"}  # the save of step 4 has waited for that of step 2
    with started(commands(tmp_path, events), env) as processes:
        finish([processes[killed]], timeout=300)
        (other,) = finish([processes[1 - killed]], timeout=30)  # 30 s: what is promised
    assert other.returncode != 0
    assert steps_saved(tmp_path) and not (tmp_path / "metrics.json").exists()
    assert hashes(together(commands(tmp_path), env)) == [never_killed[1]] * 2


def wait_for(process, seen, seconds=300):
    """Returns when a process's log matches a pattern."""
    deadline = time.monotonic() + seconds
    while not re.search(seen, process.err.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, process.err.read_text()[-3000:]
        time.sleep(0.05)


ENDLESS = {"stage1.steps": 100_000, "run.checkpoint_every": 100_000, "run.log_every": 1}
SIGNALS = pytest.mark.parametrize(
    "number, whom, codes",
    [(signal.SIGTERM, [1], [143, 143]), (signal.SIGINT, [0], [130, 143]), (signal.SIGINT, [0, 1], [130, 130])],
)


def stop(both, number, whom, codes):
    """Sends a signal to some of two processes -> the step both say they stopped at, in time."""
    for index in whom:
        os.kill(both[index].pid, number)
    ended = finish(both, timeout=10)  # 10 s: what is promised
    print("left after", *(f"{process.seconds:.1f}" for process in ended), "s")
    assert [process.returncode for process in ended] == codes, ended[0].stderr[-3000:]
    said = [re.search(r"Stopped at step (\d+); saved", process.stderr) for process in ended]
    assert said[0] and said[1] and said[0][1] == said[1][1]
    assert "Traceback" not in ended[0].stderr + ended[1].stderr
    return int(said[0][1])


@SIGNALS
def test_a_signal_to_one_or_all_stops_every_process_at_the_same_saved_step(env, tmp_path, number, whom, codes):
    with started(commands(tmp_path, **ENDLESS), env) as both:
        wait_for(both[0], r"step \d\d+/")
        step = stop(both, number, whom, codes)
    assert steps_saved(tmp_path) == [step]


def test_broken_batches_on_one_process_only_are_skipped_by_both_and_too_many_stop_both(env, tmp_path):
    events = [{}, {step: "nan" for step in ("2", "3", "4")}]
    for process in together(commands(tmp_path, events), env):
        assert process.returncode == 3, process.stderr[-3000:]
        assert "NotFinite: Stopped at step 4" in process.stderr
    assert steps_saved(tmp_path)[-1] == 4


@pytest.mark.parametrize("field", ["stage1.learning_rate", "run.evaluate_every"])
def test_processes_started_with_different_configs_say_so_and_leave(env, tmp_path, field):
    both = commands(tmp_path)
    settings = json.loads(both[1][2])
    settings["config"][field] = 0.5 if field.startswith("stage") else 7
    both[1][2] = json.dumps(settings)
    first, second = together(both, env, timeout=120)
    assert first.returncode == second.returncode == 4
    assert "different configs" in first.stderr and "1 of them say in what" in first.stderr
    assert f"  {field}: " in second.stderr and f"{settings['config'][field]!r} here" in second.stderr
    assert not (tmp_path / "checkpoints").exists()


def test_a_folder_at_which_another_run_works_is_told_by_every_process(env, tmp_path):
    with only_run(tmp_path):
        ended = together(commands(tmp_path), env, timeout=120)
    for process in ended:
        assert process.returncode == 4 and "another run is at work there" in process.stderr
