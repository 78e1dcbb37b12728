"""Leaving soon after SIGTERM or Ctrl-C, whatever the main thread is busy with."""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator

# The loop looks after every step; so long it may take to do so.
GRACE = 2.0  # seconds
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

    def received(seconds: float | None) -> int | None:
        """The next signal, if it comes within so long; None if not, or if the block has ended."""
        if not select.select([reading], [], [], seconds)[0]:
            return None
        number = next(iter(os.read(reading, 1)), None)
        return number if number in (signal.SIGTERM, signal.SIGINT) else None

    def watch() -> None:
        number = None
        while not ended.is_set() and number is None:
            number = received(ASK_SECONDS if asked else None)
            if number is not None:
                at_once(number)
            elif asked and asked():
                number = signal.SIGTERM
        if not ended.wait(grace):
            leave(received(0) or number)

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
