"""Leaving soon after SIGTERM or Ctrl-C, whatever the main thread is busy with."""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator

# The loop looks after every step; so long it may take to do so.
GRACE = 3.0  # seconds
ASK_SECONDS = 0.5


@contextlib.contextmanager
def in_time(
    leave: Callable[[int], None],
    *,
    grace: float = GRACE,
    at_once: Callable[[int], None] = lambda number: None,
    asked: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Calls `leave(signal)` from a thread where the block has not ended `grace` seconds after a signal.

    The block handles SIGTERM and SIGINT itself; but handlers of Python wait for the main thread, which
    may compile for minutes. To be entered from the main thread.

    Args:
      at_once: called with each signal when it comes, from that thread.
      asked: polled; where it is true, the block is to end as after a SIGTERM, unless another signal came.
    """
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def received() -> int | None:
        """The next signal; None if the block has ended, or if it is to be asked whether it should."""
        if select.select([reading], [], [], ASK_SECONDS if asked else None)[0]:
            return next(iter(os.read(reading, 1)), None)
        return None

    def watch() -> None:
        number = None
        while not ended.is_set() and number is None:
            number = received()
            if number in (signal.SIGTERM, signal.SIGINT):
                at_once(number)
            else:
                number = signal.SIGTERM if asked and asked() else None
        if not ended.wait(grace):
            leave(number)

    thread = threading.Thread(target=watch, name="stopping", daemon=True)
    thread.start()
    old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(old)
        os.close(writing)
        thread.join()
        os.close(reading)
