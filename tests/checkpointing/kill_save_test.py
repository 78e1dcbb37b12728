"""SIGKILL of processes that only save: the next one resumes from an intact checkpoint."""

import time

import helpers_checkpoint
import helpers_fork
import numpy as np
from helpers_model import assert_identical
from helpers_run import ALL

from twodal_jax.checkpointing.manager import Checkpoints

STEPS, KILLS = (60, 40) if ALL else (24, 8)


def test_saves_killed_at_random_moments_leave_an_intact_checkpoint_to_resume_from(tmp_path):
    rng, killed_in_save = np.random.default_rng(0), 0
    for _ in range(KILLS):
        with helpers_fork.started(helpers_checkpoint.save_steps, str(tmp_path), STEPS) as process:
            while not list(tmp_path.glob("*.tmp")) and process.is_alive():
                time.sleep(0.001)
            time.sleep(rng.exponential(0.05))
        killed_in_save += bool(list(tmp_path.glob("*.tmp")))
    assert killed_in_save >= KILLS // 2
    with helpers_fork.started(helpers_checkpoint.save_steps, str(tmp_path), STEPS) as process:
        process.join(300)
        assert process.exitcode == 0
    expected = helpers_checkpoint.numbered_state(STEPS)
    with Checkpoints(tmp_path) as checkpoints:
        assert_identical(checkpoints.restore(expected, helpers_checkpoint.DESCRIPTION), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(STEPS - 1), str(STEPS)]
