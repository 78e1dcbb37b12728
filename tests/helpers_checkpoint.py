"""A small training state, and a process that saves such states until it is killed."""

import numpy as np
from helpers_model import assert_identical

from twodal_jax.checkpointing.manager import Checkpoints
from twodal_jax.training.state import NetState, TrainState

DESCRIPTION = {"seed": 0, "landmark_mask": [4.0, 2.0, 1.0], "stage1.learning_rate": 5e-5, "none": None}


def state(step=3, seed=0, layers=0) -> TrainState:
    """A state with nested names, scalars, empty statistics and unusual values; `layers`: further 80 kB arrays."""
    rng = np.random.default_rng(seed)

    def net(stats):
        params = {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}}
        params["conv"]["kernel"].reshape(-1)[:4] = [np.float32(1e-42), -0.0, 3.4e38, 1 / 3]
        params |= {f"layer{i}": rng.normal(size=20_000).astype(np.float32) for i in range(layers)}
        momentum = {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}}
        return NetState(params, stats, ({"trace": momentum}, {"count": np.int32(step)}))

    counters = [np.asarray(value, np.int32) for value in (step, 2, 1)]
    return TrainState(
        np.uint32(seed), *counters, regressor=net({"norm": {"mean": np.full(4, 0.1, np.float32)}}), critic=net({})
    )


def numbered_state(step: int) -> TrainState:
    """The state of a step of `save_steps`: about as many bytes as a small network with its optimiser."""
    return state(step, seed=step, layers=12)


def save_steps(folder: str, steps: int) -> None:
    """Saves every step in the background, from the newest checkpoint to `steps`; checks the one it resumes from."""
    with Checkpoints(folder) as checkpoints:
        resumed = checkpoints.resume(numbered_state(0), DESCRIPTION)
        assert_identical(resumed, numbered_state(int(resumed.step)))
        for step in range(int(resumed.step) + 1, steps + 1):
            checkpoints.save(numbered_state(step), DESCRIPTION)
