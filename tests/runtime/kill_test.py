"""SIGKILL of real runs, often while a checkpoint is being written: the result is that of a run never killed."""

import signal
import time

import numpy as np
import pytest
from helpers_run import ALL, result, start_tiny

from twodal_jax.training import metric_logger

pytestmark = pytest.mark.slow

STAGE_1, STAGE_2 = 8, 8
# Without the losses of the second pass, which take half of the compilation.
CONFIG = {
    "self_supervision": False,
    "stage1.steps": STAGE_1,
    "stage2.steps": STAGE_2,
    "run.checkpoint_every": 1,
    "run.evaluate_every": 6,
    "run.log_every": 4,
}


class KilledRun:
    """A run in `workdir` that is started, killed and started again.

    kills: number of kills. kills_in_save: of those that left an incomplete checkpoint.
    """

    def __init__(self, workdir):
        self.workdir, self.kills, self.kills_in_save = workdir, 0, 0

    def kill(self, moment, delay: float) -> None:
        """Starts the run and kills it `delay` seconds after `moment()` is true."""
        with start_tiny(self.workdir, CONFIG) as process:
            left_behind = self.incomplete()
            while process.poll() is None and not moment(self.incomplete() - left_behind):
                left_behind &= self.incomplete()  # the new process deletes what the last one left
                time.sleep(0.001)
            time.sleep(delay)
            process.kill()
            assert process.wait() == -signal.SIGKILL, process.stderr_text()[-3000:]
        self.kills += 1
        self.kills_in_save += bool(self.incomplete())

    def incomplete(self) -> set[str]:
        return {path.name for path in (self.workdir / "checkpoints").glob("*.tmp")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """(hash, seconds of a save) of a run that is not killed."""
    run, saving, total = KilledRun(tmp_path_factory.mktemp("undisturbed")), 0, 0.0
    with start_tiny(run.workdir, CONFIG) as process:
        while process.poll() is None:
            began, in_save = time.monotonic(), bool(run.incomplete())
            time.sleep(0.001)
            saving += in_save
            total += in_save * (time.monotonic() - began)
        return result(process.finish())["hash"], total / (STAGE_1 + STAGE_2)


@pytest.mark.parametrize("seed", [0, 1] if ALL else [0])
def test_a_run_that_was_killed_often_ends_as_one_that_never_was(expected, tmp_path, seed):
    expected, save_seconds = expected
    rng, run = np.random.default_rng(seed), KilledRun(tmp_path)
    run.kill(bool, rng.uniform(0, save_seconds))
    run.kill(lambda incomplete: f"{STAGE_1}.tmp" in incomplete, rng.uniform(0, save_seconds))
    stage_2 = tmp_path / "checkpoints" / str(STAGE_1)
    run.kill(lambda _: stage_2.exists(), rng.uniform(0, 0.5))  # in the first step of stage 2
    while run.kills < (10 if ALL else 4) or run.kills_in_save < (5 if ALL else 2):
        assert run.kills < 20, "kills do not hit saves"
        run.kill(bool, rng.uniform(0, save_seconds))
    with start_tiny(tmp_path, CONFIG) as process:
        assert result(process.finish())["hash"] == expected
    assert not run.incomplete()
    history = [(entry["kind"], entry["step"]) for entry in metric_logger.read_history(tmp_path)]
    assert len(history) == len(set(history))
