"""A run without a network: its state is a count and arrays that follow from it. For processes that are killed."""

import numpy as np

from twodal_jax.checkpointing.manager import Checkpoints
from twodal_jax.training.state import NetState, TrainState

DESCRIPTION = {"seed": 0}


def fresh(arrays: int = 24, size: int = 20_000) -> TrainState:
    """About as many bytes as a small network with its optimiser."""
    params = {f"layer{i}": np.full(size, i, np.float32) for i in range(arrays)}
    zero = np.zeros((), np.int32)
    return TrainState(zero, zero, zero, zero, NetState(params, {}, ()), NetState({}, {}, ()))


def advanced(state: TrainState) -> TrainState:
    step = state.step + np.int32(1)
    params = {
        name: (value * np.float32(1.25) + np.sin(np.arange(value.size, dtype=np.float32) * step)) % np.float32(9)
        for name, value in state.regressor.params.items()
    }
    return state.replace(step=step, regressor=state.regressor.replace(params=params))


def count(folder: str, steps: int) -> None:
    """Counts on from the newest checkpoint to `steps`, saving every step in the background."""
    with Checkpoints(folder) as checkpoints:
        state = checkpoints.resume(fresh(), DESCRIPTION)
        while state.step < steps:
            state = advanced(state)
            checkpoints.save(state, DESCRIPTION)
