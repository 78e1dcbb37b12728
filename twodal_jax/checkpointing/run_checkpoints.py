"""The checkpoints of a run: its latest ones, its best one, and the reaction to a failed save."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from twodal_jax.checkpointing.manager import Checkpoints, SaveError
from twodal_jax.training.state import TrainState

STOP, CONTINUE = ON_FAILED = ("stop", "continue")


class RunCheckpoints:
    """The latest checkpoints of a run and its best one.

    Args:
      latest: the folder of the latest checkpoints.
      best: the folder of the best one; None where no validation part chooses it.
      description: saved with each checkpoint.
      on_failed: STOP: a failed save is an error. CONTINUE: it is reported and training goes on.

    Attributes:
      report: prints a message about a failed save.
    """

    def __init__(self, latest: Checkpoints, best: Checkpoints | None, description: Mapping[str, Any], on_failed: str):
        self._latest, self._best = latest, best
        self._all = [checkpoints for checkpoints in (latest, best) if checkpoints is not None]
        self._description, self._on_failed = description, on_failed
        self.report: Callable[[str], None] = lambda message: print(message, file=sys.stderr)

    def save(self, state: TrainState) -> None:
        """Saves in the background, after an earlier save has ended. Raises SaveError as `check` does."""
        self.check(wait=True)
        self._latest.save(state, self._description)

    def save_best(self, state: TrainState) -> None:
        """Saves in the background to the folder of the best state. Raises SaveError as `check` does."""
        self.check(wait=True)
        self._best.save(state, self._description)

    def check(self, *, wait: bool = False) -> None:
        """Raises SaveError, or reports it, where a background save has failed; `wait` lets running saves end first."""
        for checkpoints in self._all:
            try:
                checkpoints.wait() if wait else checkpoints.check()
            except SaveError as error:
                if self._on_failed == STOP:
                    raise
                self.report(f"WARNING: {error} Training goes on.")

    def save_last(self, state: TrainState, step: int) -> None:
        """Returns when the state of `step` is on disk.

        Raises:
          SaveError: it could not be written, whatever `on_failed` is.
        """
        for checkpoints in self._all:
            try:
                checkpoints.wait()
            except SaveError as error:
                self.report(f"WARNING: {error}")
        if step != self._latest.saved_step:
            self._latest.save(state, self._description, wait=True)
