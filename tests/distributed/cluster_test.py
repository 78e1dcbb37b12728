"""Two processes as one run on this machine: stopped, killed, resumed, and with an error in one of them."""

import json
import os
import re
import signal

import pytest
from helpers_run import ALL, free_port, place, QUICK_COMPILER, result, run_together, saved_steps, started, tiny_command

from twodal_jax.runtime.run_lock import only_run

pytestmark = pytest.mark.slow
# One forward pass and the critic: these tests check how the processes interact.
CONFIG = {
    "self_supervision": False,
    "stage1.steps": 6,
    "stage2.steps": 0,
    "run.evaluate_every": 1000,
    "run.report_faces": 1,
    "run.max_skipped_in_a_row": 3,
}
ENV = {"XLA_FLAGS": QUICK_COMPILER}
EXIT_SECONDS = {"signal": 10, "lost process": 30}  # documented times to the exit of all processes


def commands(workdir, events=({}, {}), second=(), **config):
    """The command lines of both processes. events: of each. second: the config of the second one, where it differs."""
    port = free_port()
    configs = CONFIG | config, CONFIG | config | dict(second)
    return [tiny_command(workdir, configs[index], events[index], distributed=place(index, port)) for index in range(2)]


def hashes(processes):
    return [result(process)["hash"] for process in processes]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(folder, hash) of a group whose processes run to the end."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    first, second = hashes(run_together(commands(workdir), ENV))
    assert first == second
    return workdir, first


def test_the_primary_process_alone_writes_report_and_history(undisturbed):
    workdir, _ = undisturbed
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["step"] == 6 and (workdir / "report.html").exists()
    lines = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [0, 6]


def test_when_a_process_is_killed_the_other_exits_and_the_resumed_group_is_bit_identical(undisturbed, tmp_path):
    for killed, step in ((1, "4"), (0, "6")):
        events = [{}, {}]
        events[killed] = {step: "SIGKILL"}
        with started(commands(tmp_path, events), ENV) as processes:
            processes[killed].finish(400)
            assert processes[1 - killed].finish(EXIT_SECONDS["lost process"]).returncode != 0
        assert not (tmp_path / "metrics.json").exists()
    assert saved_steps(tmp_path)  # the save of step 4 has waited for that of step 2
    assert hashes(run_together(commands(tmp_path), ENV)) == [undisturbed[1]] * 2


@pytest.mark.parametrize(
    "number, receivers, statuses",
    [
        (signal.SIGTERM, [1], [143, 143]),
        (signal.SIGINT, [0], [130, 143]),
        pytest.param(signal.SIGINT, [0, 1], [130, 130], marks=pytest.mark.skipif(not ALL, reason="TWODAL_TEST_ALL")),
    ],
)
def test_a_signal_to_one_process_or_all_stops_every_process_at_the_same_saved_step(
    tmp_path, number, receivers, statuses
):
    endless = {"stage1.steps": 100_000, "run.checkpoint_every": 100_000, "run.log_every": 1}
    with started(commands(tmp_path, **endless), ENV) as processes:
        processes[0].wait_until(r"step \d\d+/")
        for index in receivers:
            os.kill(processes[index].pid, number)
        ended = [process.finish(EXIT_SECONDS["signal"]) for process in processes]
    assert [process.returncode for process in ended] == statuses, ended[0].stderr[-3000:]
    steps = {int(re.search(r"Stopped at step (\d+); saved", process.stderr)[1]) for process in ended}
    assert steps == set(saved_steps(tmp_path)) and len(steps) == 1
    assert "Traceback" not in ended[0].stderr + ended[1].stderr


def test_broken_batches_of_one_process_are_skipped_by_both_and_too_many_stop_both(tmp_path):
    events = [{}, {step: "nan" for step in (2, 3, 4)}]
    for process in run_together(commands(tmp_path, events), ENV):
        assert process.returncode == 3, process.stderr[-3000:]
        assert "NotFinite: Stopped at step 4" in process.stderr
    assert saved_steps(tmp_path)[-1] == 4


def test_processes_with_different_configs_name_the_differing_fields_and_exit(tmp_path):
    different = {"stage1.learning_rate": 0.5, "run.evaluate_every": 7}
    first, second = run_together(commands(tmp_path, second=different), ENV)
    assert first.returncode == second.returncode == 4
    assert "different configs" in first.stderr and "see the messages of the 1 that differ" in first.stderr
    for field, value in different.items():
        assert re.search(rf"  {field}: .*{value!r}", second.stderr)
    assert not (tmp_path / "checkpoints").exists()


def test_every_process_reports_that_another_run_uses_the_folder(tmp_path):
    with only_run(tmp_path):
        ended = run_together(commands(tmp_path), ENV)
    for process in ended:
        assert process.returncode == 4 and "another run is at work there" in process.stderr
