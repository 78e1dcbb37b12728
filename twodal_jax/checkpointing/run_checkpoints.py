"""What a run keeps on disk while it trains: when a save has failed, and what then."""

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from twodal_jax.checkpointing.manager import Checkpoints, SaveError
from twodal_jax.training.state import TrainState

STOP, CONTINUE = ON_FAILED = ("stop", "continue")


class RunSaves:
    """A run's latest checkpoints and its best one.

    Args:
      latest, best: the two folders; best is None where nothing chooses a best state. description: saved with each.
      on_failed: STOP: a save that failed is an error; CONTINUE: it is said, and training goes on.

    Attributes:
      say: where it is said.
    """

    def __init__(self, latest: Checkpoints, best: Checkpoints | None, description: Mapping[str, Any], on_failed: str):
        self._latest, self._best = latest, best
        self._all = [checkpoints for checkpoints in (latest, best) if checkpoints is not None]
        self._description, self._on_failed = description, on_failed
        self._lock = threading.RLock()
        self.say: Callable[[str], None] = lambda message: print(message, file=sys.stderr)

    def save(self, state: TrainState) -> None:
        """Saves in the background, once an earlier save has ended. Raises SaveError: see `check`."""
        with self._lock:
            self.check(wait=True)
            self._latest.save(state, self._description)

    def save_best(self, state: TrainState) -> None:
        """The same for the best one."""
        with self._lock:
            self.check(wait=True)
            self._best.save(state, self._description)

    def check(self, *, wait: bool = False) -> None:
        """Raises SaveError, or says it, where a save in the background has failed; `wait`: when it has ended."""
        with self._lock:
            for checkpoints in self._all:
                try:
                    checkpoints.wait() if wait else checkpoints.check()
                except SaveError as error:
                    if self._on_failed == STOP:
                        raise
                    self.say(f"WARNING: {error} Training goes on.")

    def holds(self, step: int) -> bool:
        """Whether this step need not be saved: it is (or is being), or it is what a run starts from."""
        return step in (0, self._latest.saved_step)

    def save_now(self, state: TrainState, step: int, *, together: bool = True) -> None:
        """Returns when the state of `step` is on disk. Any thread may call it.

        Args:
          together: whether all processes of a group do; else the first one does.

        Raises:
          SaveError: it cannot be written, whatever `on_failed` is.
        """
        with self._lock:
            self._say_failed(together)
            if not self.holds(step):
                self._latest.save(state, self._description, wait=True, together=together)

    def finish(self, step: int) -> None:
        """Returns when no save runs any more; raises SaveError if that of `step` has failed.

        Any thread may call it; in a group the first process does.
        """
        with self._lock:
            self._say_failed(together=False)
            if not self.holds(step):
                raise SaveError(f"Step {step} is not saved; the same command continues from the step before.")

    def _say_failed(self, together: bool) -> None:
        for checkpoints in self._all:
            try:
                checkpoints.wait(together=together)
            except SaveError as error:
                self.say(f"WARNING: {error}")
