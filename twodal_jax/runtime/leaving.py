"""Saving and leaving for a signal that the loop is too busy to hear: in a long step, compiling, waiting for data; and
leaving before and after it.

A thread does it. In a group the first process saves and tells the others, each of which leaves as well.
"""

import contextlib
import functools
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from twodal_jax.checkpointing.run_checkpoints import RunSaves
from twodal_jax.distributed import cluster
from twodal_jax.runtime import notices, stopping
from twodal_jax.runtime.progress import Progress
from twodal_jax.training.metric_logger import RunLog

STOPPED = "Stopped at step {step}; saved. The same command continues from here."
EARLY = "Stopped before training began."
LATE = "Stopped while the report was made; training is done and saved. The same command makes the report."
LOOK_SECONDS = 0.05
XLA_THREADS = "tf_XLA"  # how their names begin
# A tenth of an ordinary thread's share. With the least there is (19) a process on busy cores takes five seconds to
# end, since its threads must be scheduled once more; with this half a second.
NICE = 10


@contextlib.contextmanager
def in_time(progress: Progress, saves: RunSaves, log: RunLog) -> Iterator[None]:
    """Ends the process, the state saved, where the block has not ended soon after SIGTERM or Ctrl-C.

    To be entered inside of `cluster.stop_requests`, by the main thread. The exit status is 128 + the signal, or
    1 where the state cannot be saved.
    """
    over = threading.Event()

    def leave(number: int) -> None:
        first = jax.process_index() == 0
        found = _save(progress, saves) if first else _word_of_first(progress, over)
        if found is not None:  # else the loop has heard, after all
            _say_and_leave(number, *found, log.stop_display)

    with stopping.in_time(leave, at_once=_pass_on, asked=_asked()):
        try:
            yield
        finally:
            progress.end()
            over.set()


@contextlib.contextmanager
def before_training() -> Iterator[None]:
    """Ends the process soon after a SIGTERM to any of a group; there is nothing to save yet.

    A process alone just dies of one; in a group JAX has taken it for its own. To be entered by the main thread.
    """
    leave = functools.partial(_say_and_leave, message=EARLY, saved=True)
    with stopping.in_time(leave, grace=0.0, asked=_asked()) if cluster.is_group() else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def after_training() -> Iterator[None]:
    """Ends the process soon after SIGTERM or Ctrl-C to it or to any of a group; the last state is saved by then.

    To be entered by the main thread, by all processes of a group.
    """
    leave = functools.partial(_say_and_leave, message=LATE, saved=True)
    with cluster.stop_requests(), stopping.in_time(leave, grace=0.0, at_once=_pass_on, asked=_asked()):
        yield


def _asked() -> Callable[[], bool] | None:
    """What tells whether any process of a group was sent a SIGTERM; None for a process alone."""
    return notices.sigterm_received if cluster.is_group() else None


def _say_and_leave(number: int, message: str, saved: bool, end_display: Callable[[], None] = lambda: None) -> None:
    """Ends this process, in a group when all have heard."""
    try:
        if cluster.is_group() and jax.process_index() == 0:
            notices.tell_leaving(message, saved)
        with contextlib.suppress(OSError):  # nobody reads it any more
            end_display()
            print(message, file=sys.stderr, flush=True)
        if cluster.is_group():
            notices.wait_until_all_heard()
    finally:
        os._exit(128 + number if saved else 1)  # also where nobody reads what it says any more


def _pass_on(number: int) -> None:
    """A Ctrl-C becomes a SIGTERM in a group: of that JAX tells the other processes."""
    if cluster.is_group() and number == signal.SIGINT:
        os.kill(os.getpid(), signal.SIGTERM)


def _save(progress: Progress, saves: RunSaves) -> tuple[str, bool] | None:
    """(what to say, whether the state is saved), of a run it ends; None where the loop ends it."""
    while not (found := progress.take(saves.holds)):
        if progress.ended:
            return None
        time.sleep(LOOK_SECONDS)
    step, state = found
    _give_way()
    try:
        # Before the others stop: queued steps, whose result this may be, want all of them at work.
        jax.block_until_ready(state)
        if cluster.is_group():
            notices.tell_saving()
        saves.finish(step) if state is None else saves.save_now(state, step, together=False)
    except Exception as error:  # a SaveError, or what nobody else would hear of: the loop waits
        return str(error) or repr(error), False
    return STOPPED.format(step=step), True


def _word_of_first(progress: Progress, over: threading.Event) -> tuple[str, bool] | None:
    """What the first process says when it leaves; None where the loop ends the run."""
    while not notices.saving():
        if over.wait(LOOK_SECONDS):
            return None
    progress.seize()
    _give_way()
    while not (found := notices.leaving()):
        time.sleep(LOOK_SECONDS)
    return found


def _give_way() -> None:
    """A step that still goes on is given up: on Linux the threads that compute it leave the cores to the save.

    Otherwise a save, two seconds of work for the paper's networks, would have a small share of them. Threads
    that may hold the interpreter's lock keep their priority: the save needs it.
    """
    for task in pathlib.Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):  # it has just ended
            if (task / "comm").read_text().startswith(XLA_THREADS):
                os.setpriority(os.PRIO_PROCESS, int(task.name), NICE)
