"""Disks that fill up or may not be written, without mocks and for root too."""

import contextlib
import ctypes
import os
import pathlib
import resource
import subprocess
import time

CAPABILITIES_VERSION, DAC_OVERRIDE = 0x20080522, 1 << 1


def apply(event: str) -> None:
    """Applies events such as "fill:DIR", one after the other where several are separated by ";"."""
    for one in event.split(";"):
        name, _, value = one.partition(":")
        EVENTS[name](value)


def wait_for(path) -> None:
    """Waits until a path exists."""
    while not pathlib.Path(path).exists():
        time.sleep(0.01)


def fill(folder) -> None:
    """Fills the disk of a folder."""
    with contextlib.suppress(OSError), open(pathlib.Path(folder, "filler"), "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def limit(size) -> None:
    """Limits the size of files that this process writes; 0: no limit."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size) or most, most))


EVENTS = {
    "fill": fill,
    "free": lambda folder: pathlib.Path(folder, "filler").unlink(),
    "forbid": lambda folder: os.chmod(folder, 0o555),
    "allow": lambda folder: os.chmod(folder, 0o755),
    "limit": limit,
    "wait_for": wait_for,
    "sleep": lambda seconds: time.sleep(float(seconds)),
}


def obey_permissions() -> None:
    """Takes root's right to write anywhere from this thread and those it starts; call it before any is started."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    assert libc.capget(header, rights) == 0
    rights[0] &= ~DAC_OVERRIDE
    assert libc.capset(header, rights) == 0


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, megabytes: int):
    """A separate disk mounted at `folder`, or None where this user may not mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
