"""One process a folder: two that write the same checkpoints, or parts of a data set, would spoil each other's."""

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
def only_run(workdir: pathlib.Path, else_give: str = "another --workdir") -> Iterator[None]:
    """Holds the folder's lock, which ends with the process however that ends.

    Where the file system knows no locks the run goes on without.

    Raises:
      WriteError: another process holds it; the message says which.
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
                f"{workdir}: another run is at work there (process {file.read().strip() or 'unknown'}). Wait for it or"
                f" stop it, or give {else_give}."
            ) from None
        except OSError:
            pass
        with contextlib.suppress(OSError):  # who holds it is told where there is room to write it
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


@contextlib.contextmanager
def only_run_of_group(workdir: pathlib.Path) -> Iterator[None]:
    """`only_run`, held by the first process of a group.

    Raises:
      WriteError: on all of them.
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
