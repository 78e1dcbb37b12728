"""A small training state for tests of checkpoints."""

import numpy as np

from twodal_jax.training.state import NetState, TrainState

DESCRIPTION = {"seed": 0, "landmark_mask": [4.0, 2.0, 1.0], "stage1.learning_rate": 5e-5, "none": None}


def state(step=3, seed=0):
    """A small state with what real ones have: nested names, scalars, empty statistics, odd values."""
    rng = np.random.default_rng(seed)

    def net(stats):
        params = {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}}
        params["conv"]["kernel"].reshape(-1)[:4] = [np.float32(1e-42), -0.0, 3.4e38, 1 / 3]
        momentum = {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}}
        return NetState(params, stats, ({"trace": momentum}, {"count": np.int32(step)}))

    counters = [np.asarray(value, np.int32) for value in (step, 2, 1)]
    return TrainState(
        np.uint32(seed), *counters, regressor=net({"norm": {"mean": np.full(4, 0.1, np.float32)}}), critic=net({})
    )
