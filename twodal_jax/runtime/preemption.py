"""Preemption: a run that gets SIGTERM or Ctrl-C finishes its step, saves its state and exits.

    TRAINING --signal--> STOPPING --the step ends--> SAVING --the checkpoint is on disk--> exit, status 128 + signal
                            |
                            +--no step ends within the grace period--> exit, status 128 + signal

In the second case (a long step, a compilation, a wait for data) the last checkpoint is reported. Resuming from any
checkpoint gives the same result bit for bit, so only computing time is lost. A second Ctrl-C interrupts at once.

Python runs signal handlers in the main thread, which may be busy in a compilation for minutes. The grace period is
therefore watched by a thread, which the operating system wakes through a pipe (`signal.set_wakeup_fd`).

In a group of processes SIGTERM belongs to JAX's preemption service: it informs all processes, and Orbax's
`reached_preemption` names the step after which all of them stop. A Ctrl-C is passed on to the service as a SIGTERM.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import orbax.checkpoint as ocp

from twodal_jax.distributed import cluster

_RUN_ENDED = 0  # written to the pipe; no signal has this number


class Stopped(Exception):
    """The run was asked to stop and its state is saved. `code`: the exit status, 128 + the signal."""

    def __init__(self, step: int, code: int):
        super().__init__(f"Stopped at step {step}; saved. The same command resumes from there.")
        self.code = code


class Preemption:
    """The signals of a run.

    Attributes:
      received: the signals that this process got, in order.
    """

    def __init__(self):
        self.received: list[int] = []
        self._stopping = threading.Event()

    def due(self, step: int) -> bool:
        """Whether to save and exit after `step`; the same on every process of a group.

        To be called before the first step and after every step. Once it is true, the grace period no longer ends the
        process.
        """
        due = ocp.utils.reached_preemption(step) if cluster.is_group() else bool(self.received)
        if due:
            self._stopping.set()
        return due

    @property
    def code(self) -> int:
        """Exit status of a stopped run: 128 + the signal; SIGTERM where another process of the group got it."""
        return 128 + (self.received[0] if self.received else signal.SIGTERM)

    def _handle(self, number: int, _frame: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received.append(number)

    def _watch(self, pipe: int, grace_seconds: float, last_checkpoint: Callable[[], int | None]) -> None:
        """Ends the process where the loop does not stop within the grace period after the first SIGTERM or SIGINT."""
        number = None
        while number not in (_RUN_ENDED, signal.SIGTERM, signal.SIGINT):  # the pipe gets every signal with a handler
            number = next(iter(os.read(pipe, 1)), _RUN_ENDED)
        if number == _RUN_ENDED:
            return
        if cluster.is_group() and number == signal.SIGINT:
            os.kill(os.getpid(), signal.SIGTERM)
        if not self._stopping.wait(grace_seconds):
            _exit_now(128 + number, grace_seconds, last_checkpoint())


def _exit_now(code: int, grace_seconds: float, step: int | None) -> None:
    saved = "No checkpoint was written yet; the same command starts again."
    if step is not None:
        saved = f"The last checkpoint is step {step}; the same command resumes from it."
    try:
        print(f"Stopped: no step ended within {grace_seconds:g} s of the signal. {saved}", file=sys.stderr, flush=True)
    finally:  # also where stderr is closed
        os._exit(code)


@contextlib.contextmanager
def stop_requests(grace_seconds: float, last_checkpoint: Callable[[], int | None]) -> Iterator[Preemption]:
    """Collects SIGTERM and SIGINT while the block runs. To be entered by the main thread.

    Args:
      grace_seconds: time from a signal to the end of the process where no step ends.
      last_checkpoint: the step of the newest checkpoint on disk, or None; called from another thread.
    """
    preemption = Preemption()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    arguments = reading, grace_seconds, last_checkpoint
    thread = threading.Thread(target=preemption._watch, args=arguments, name="preemption", daemon=True)
    caught = (signal.SIGINT,) if cluster.is_group() else (signal.SIGTERM, signal.SIGINT)
    thread.start()
    handlers = {number: signal.signal(number, preemption._handle) for number in caught}
    old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield preemption
    finally:
        preemption._stopping.set()
        signal.set_wakeup_fd(old)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.write(writing, bytes([_RUN_ENDED]))
        thread.join()
        os.close(writing)
        os.close(reading)
