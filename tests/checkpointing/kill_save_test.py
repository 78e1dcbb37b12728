"""kill -9 of processes that only save, many times: the next one goes on from a whole checkpoint."""

import multiprocessing
import pathlib
import time

import helpers_counting
import numpy as np
import pytest
from helpers_model import assert_identical

from twodal_jax.checkpointing.manager import Checkpoints

STEPS, KILLS = 60, 40


@pytest.fixture(scope="module")
def processes():
    """Processes that are forked from one with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers_counting"])
    return context


def being_written(folder: pathlib.Path) -> list[pathlib.Path]:
    return list(folder.glob("*.tmp"))


def test_forty_kills_most_of_them_in_a_save_leave_a_count_that_goes_on_to_its_end(processes, tmp_path):
    rng, in_save = np.random.default_rng(0), 0
    for _ in range(KILLS):
        process = processes.Process(target=helpers_counting.count, args=(str(tmp_path), STEPS))
        process.start()
        while not being_written(tmp_path) and process.is_alive():
            time.sleep(0.001)
        time.sleep(rng.exponential(0.05))
        process.kill()
        process.join()
        in_save += bool(being_written(tmp_path))
    process = processes.Process(target=helpers_counting.count, args=(str(tmp_path), STEPS))
    process.start()
    process.join()
    assert process.exitcode == 0
    expected = helpers_counting.fresh()
    for _ in range(STEPS):
        expected = helpers_counting.advanced(expected)
    with Checkpoints(tmp_path) as checkpoints:
        assert_identical(checkpoints.restore(expected, helpers_counting.DESCRIPTION), expected)
    print(f"{in_save} of {KILLS} kills left a half-written checkpoint")
    assert in_save >= KILLS // 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(STEPS - 1), str(STEPS)]
