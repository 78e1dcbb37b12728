"""kill -9 of real runs, most of them while a checkpoint is being written: the end is that of a run never killed.

Two runs are killed ten times each, started again each time. The moments come from seeded generators.
"""

import json
import pathlib
import signal
import time

import numpy as np
import pytest
from helpers_run import shared_compilations, start_python

from twodal_jax.training import metric_logger

pytestmark = pytest.mark.slow

STAGE_1, STAGE_2 = 8, 8
# Without the losses that take a second pass: half of a start is compiling them.
CONFIG = {
    "self_supervision": False,
    "stage1.steps": STAGE_1,
    "stage2.steps": STAGE_2,
    "run.checkpoint_every": 1,
    "run.evaluate_every": 6,
    "run.log_every": 4,
}
SOON = 0.001  # seconds between two looks at a folder


def result(printed: str) -> str:
    return json.loads(printed.splitlines()[-1])["hash"]


class Lives:
    """A run in `workdir`, started as often as needed.

    `in_save`: kills that left a half-written checkpoint. `seconds_to_save`: from a start to its save, of the
    quickest life: one while the machine was busy with something else says little of the next.
    """

    def __init__(self, workdir: pathlib.Path, env: dict[str, str]):
        self.workdir, self.env = workdir, env
        self.kills = self.in_save = 0
        self.seconds_to_save = float("inf")

    def start(self):
        settings = json.dumps({"config": CONFIG})
        return start_python("tests/helpers_run.py", self.workdir, settings, env=self.env)

    def finish(self) -> str:
        """Lets a run go on to its end -> its hash."""
        with self.start() as process:
            out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err[-3000:]
        return result(out)

    def kill(self, wait_for, delay: float) -> None:
        """One life that ends by SIGKILL, `delay` seconds after `wait_for(process)` returned."""
        with self.start() as process:
            wait_for(process)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            _, err = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL, err[-3000:]
        self.kills += 1
        self.in_save += bool(self.being_written())

    def being_written(self) -> set[str]:
        return {path.name for path in (self.workdir / "checkpoints").glob("*.tmp")}

    def save_begins(self, count: int = 1, step: int | None = None):
        """Waits for the count-th save of this life, or for that of `step`."""

        def wait(process):
            left_behind, seen, began = self.being_written(), set(), time.monotonic()
            while len(seen) < count and f"{step}.tmp" not in seen and process.poll() is None:
                now = self.being_written()
                left_behind &= now  # what an earlier life left is deleted first
                seen |= now - left_behind
                time.sleep(SOON)
            self.seconds_to_save = min(self.seconds_to_save, time.monotonic() - began)

        return wait

    def saved(self, step: int):
        """Waits for a whole checkpoint."""

        def wait(process):
            while not (self.workdir / "checkpoints" / str(step)).exists() and process.poll() is None:
                time.sleep(SOON)

        return wait


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return shared_compilations(tmp_path_factory.mktemp("compilation_cache"))


@pytest.fixture(scope="module")
def undisturbed(env, tmp_path_factory):
    """(hash, seconds a save takes) of a run that nobody kills; it fills the compilation cache, too."""
    lives = Lives(tmp_path_factory.mktemp("undisturbed"), env)
    looks, saving = [], 0
    with lives.start() as process:
        while process.poll() is None:
            looks.append(time.monotonic())
            saving += bool(lives.being_written())
            time.sleep(SOON)
        out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return result(out), np.median(np.diff(looks)) * saving / (STAGE_1 + STAGE_2)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_ten_times_ends_as_one_that_never_was(undisturbed, env, tmp_path, seed):
    expected, save_seconds = undisturbed
    rng, lives = np.random.default_rng(seed), Lives(tmp_path, env)

    def in_a_save(count):
        lives.kill(lives.save_begins(count), rng.uniform(0, save_seconds))

    def anywhere():
        # Before a quick life's first save, so not long enough for a run to end.
        lives.kill(lambda process: None, rng.uniform(0, lives.seconds_to_save))

    for _ in range(2):
        in_a_save(int(rng.integers(1, 3)))
    anywhere()
    lives.kill(lives.save_begins(step=STAGE_1), rng.uniform(0, save_seconds))  # at the switch
    lives.kill(lives.saved(STAGE_1), rng.uniform(0, 0.5))  # the first step of stage 2
    while lives.kills < 8 or lives.in_save < 5:
        assert lives.kills < 20, "kills do not hit saves"
        in_a_save(1)
    for _ in range(2):
        anywhere()
    assert lives.finish() == expected
    assert lives.kills >= 10 and lives.in_save >= 5
    print(f"{lives.kills} kills, {lives.in_save} of them in a save of {1000 * save_seconds:.0f} ms")
    assert not lives.being_written()
    history = [(entry["kind"], entry["step"]) for entry in metric_logger.read_history(tmp_path)]
    assert len(history) == len(set(history))
