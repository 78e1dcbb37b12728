"""Leaving soon after SIGTERM or Ctrl-C, whatever the main thread is busy with."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

# The loop looks after every step; so long it may take to do so.
GRACE = 4.0  # seconds


@contextlib.contextmanager
def in_time(leave: Callable[[int], None], *, grace: float = GRACE) -> Iterator[None]:
    """Calls `leave(signal)` from a thread where the block has not ended `grace` seconds after a signal.

    The block handles SIGTERM and SIGINT itself; but handlers of Python wait for the main thread, which
    may compile for minutes. To be entered from the main thread.
    """
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        while received := os.read(reading, 1):
            if received[0] in (signal.SIGTERM, signal.SIGINT):
                if not ended.wait(grace):
                    leave(received[0])
                return

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
