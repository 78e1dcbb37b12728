"""A lock on a folder: two processes must not write the same checkpoints, or the same parts of a data set."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import jax

from twodal_jax.distributed import broadcast
from twodal_jax.io.text import WriteError, writing

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None

LOCK = ".lock"


@contextlib.contextmanager
def only_run(workdir: pathlib.Path, alternative: str = "another --workdir") -> Iterator[None]:
    """Holds the folder's lock, which the system releases when the process ends, for whatever reason.

    Where the file system has no locks, the block runs without one.

    Args:
      workdir: the folder; exists.
      alternative: what the error message recommends.

    Raises:
      WriteError: another process holds the lock; the message names it.
    """
    with writing(workdir / LOCK):
        opened = open(workdir / LOCK, "a+", encoding="utf-8")
    with opened as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise WriteError(
                f"{workdir}: another run is at work there (process {file.read().strip() or 'unknown'}). Wait for it,"
                f" stop it, or give {alternative}."
            ) from None
        except OSError:
            pass
        with contextlib.suppress(OSError):  # on a full disk the process is not named
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


@contextlib.contextmanager
def only_run_of_group(workdir: pathlib.Path) -> Iterator[None]:
    """`only_run`, held by the primary process of a group.

    Raises:
      WriteError: another process holds the lock; raised by all processes.
    """
    with contextlib.ExitStack() as stack:
        message = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(only_run(workdir))
            except WriteError as error:
                message = str(error)
        if message := broadcast.broadcast_text(message):
            raise WriteError(message)
        yield
