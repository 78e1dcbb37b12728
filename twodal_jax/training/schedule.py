"""Learning rate of a run of several stages, stored as data: one compiled step serves all rates and lengths."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

DECAYS = ("exponential", "linear")


class StageSchedule(NamedTuple):
    """Learning rates of consecutive stages.

    first, last: [S] float32, learning rate at the beginning and at the end of each stage.
    steps: [S] int32, length of each stage.
    warmup: [] int32, steps of linear warm-up at the start of the run.
    """

    first: np.ndarray
    last: np.ndarray
    steps: np.ndarray
    warmup: np.ndarray


class ScheduleState(NamedTuple):
    """State of the schedule: count [] int32, number of updates, and the schedule itself."""

    count: jax.Array
    schedule: StageSchedule


def learning_rate(schedule: StageSchedule, decay: str, count: jax.Array | int) -> jax.Array:
    """Learning rate [] float32 of update number `count`, from 0.

    decay: "linear", or "exponential": a constant factor per step from a stage's first rate to its last.
    """
    first, last, steps, warmup = (jnp.asarray(part) for part in schedule)
    ends = jnp.cumsum(steps)
    stage = jnp.minimum(jnp.sum(count >= ends), len(ends) - 1)
    done = jnp.clip((count - (ends - steps)[stage]) / steps[stage], 0.0, 1.0)
    if decay == "linear":
        rate = first[stage] + (last[stage] - first[stage]) * done
    else:
        rate = first[stage] * (last[stage] / first[stage]) ** done
    return rate * jnp.minimum(1.0, (count + 1) / jnp.maximum(warmup, 1))


def scale_by_stage_schedule(schedule: StageSchedule, decay: str) -> optax.GradientTransformation:
    """Multiply updates by minus the learning rate; the schedule is part of the state."""

    def init(params: Any) -> ScheduleState:
        del params
        return ScheduleState(jnp.zeros([], jnp.int32), StageSchedule(*(jnp.asarray(part) for part in schedule)))

    def update(updates: Any, state: ScheduleState, params: Any = None) -> tuple[Any, ScheduleState]:
        del params
        rate = learning_rate(state.schedule, decay, state.count)
        scaled = jax.tree.map(lambda update: -rate.astype(update.dtype) * update, updates)
        return scaled, ScheduleState(optax.safe_increment(state.count), state.schedule)

    return optax.GradientTransformation(init, update)
