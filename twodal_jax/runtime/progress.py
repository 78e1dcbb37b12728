"""How far a run is, for its loop and for a thread that may have to end it in the loop's stead."""

import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from twodal_jax.distributed import sharding
from twodal_jax.training.state import TrainState

SLOW_STEP = 4.0  # seconds: during the step after such a one the state before it is kept


class Progress:
    """A run's state, changed by its loop, one step at a time.

    Either the loop ends the run (`end`) or a thread does (`take`, `seize`), whoever comes first. The
    loop then stays where it is, until the thread ends the process.

    Attributes:
      state: after `step` steps; for the loop alone, since a step gives its buffers away.
    """

    def __init__(self, state: TrainState):
        self.state = state
        self.step = int(state.step)
        self._lock = threading.Lock()
        self._ended_by: threading.Thread | None = None  # not its number, which a later one may get
        self._in_step = False
        self._seconds = 0.0  # of the step before
        self._spare: tuple[int, TrainState] | None = None

    def advance(self, step_fn: Callable, batch: Any, model: Any) -> dict[str, jax.Array]:
        """The loop's next step, `step_fn(state, batch, model)` -> (state, metrics); returns its metrics.

        Where the step before took long, the first process keeps a copy of the state on the host until
        this one is done.
        """
        slow = self._seconds > SLOW_STEP and jax.process_index() == 0
        spare = (self.step, sharding.host_copy(self.state)) if slow else None
        with self._lock:
            self._in_step, self._spare = True, spare
        self._go_on()
        began = time.monotonic()
        self.state, metrics = step_fn(self.state, batch, model)
        if not sharding.runs_ahead():
            jax.block_until_ready(self.state)
        self._seconds = time.monotonic() - began
        with self._lock:
            self.step, self._in_step, self._spare = self.step + 1, False, None
        return metrics

    def end(self) -> None:
        """The loop ends the run; does not return where a thread is ending it already."""
        with self._lock:
            self._ended_by = self._ended_by or threading.current_thread()
        self._go_on()

    def _go_on(self) -> None:
        """Returns to the loop unless a thread is ending the run."""
        if self._ended_by not in (None, threading.current_thread()):
            threading.Event().wait()

    @property
    def ended(self) -> bool:
        """Whether somebody ends the run, or has."""
        return self._ended_by is not None

    def take(self, saved: Callable[[int], bool]) -> tuple[int, TrainState | None] | None:
        """A thread ends the run, if there is a state to end it with; None where it must ask again.

        Args:
          saved: step -> whether its state need not be saved.

        Returns:
          A number of steps, and the state after them or None if it need not be saved. None during a step
          whose state before is neither kept nor saved, and where the run is ended by somebody else.
        """
        with self._lock:
            if self.ended:
                return None
            found = self._spare or (self.step, None if self._in_step else self.state)
            if found[1] is None and not saved(found[0]):
                return None
            self._ended_by = threading.current_thread()
            return found

    def seize(self) -> None:
        """A thread ends the run, even if the loop has begun to."""
        with self._lock:
            self._ended_by = threading.current_thread()
