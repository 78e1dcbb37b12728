"""A disk that fills up or may not be written, without a mock: for tests, as root or not."""

import contextlib
import ctypes
import os
import pathlib
import resource
import subprocess
import time

CAPABILITIES_VERSION, DAC_OVERRIDE = 0x20080522, 1 << 1


def happen(event: str) -> None:
    """What befalls a process: "fill:DIR", "free:DIR" (the disk of DIR), "forbid:DIR", "allow:DIR" (writing
    into DIR), "limit:BYTES" (a file's size; 0: none), "stall" (nothing more comes), "saved:DIR" (waits until
    it is there), "pause:SECONDS"; several, parted by ";", one after the other."""
    known = {
        "fill": fill,
        "free": free,
        "forbid": forbid,
        "allow": allow,
        "limit": limit,
        "stall": stall,
        "saved": saved,
        "pause": pause,
    }
    for one in event.split(";"):
        what, _, value = one.partition(":")
        known[what](value)


def saved(folder) -> None:
    while not pathlib.Path(folder).exists():
        time.sleep(0.01)


def pause(seconds) -> None:
    time.sleep(float(seconds))


def fill(folder) -> None:
    with contextlib.suppress(OSError), open(pathlib.Path(folder, "filler"), "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def free(folder) -> None:
    pathlib.Path(folder, "filler").unlink()


def forbid(folder) -> None:
    os.chmod(folder, 0o555)


def allow(folder) -> None:
    os.chmod(folder, 0o755)


def limit(size) -> None:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size) or most, most))


def stall(_value) -> None:
    time.sleep(3600)


def obey_permissions() -> None:
    """Takes root's right to write anywhere from this thread and those it starts; before any is started."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    assert libc.capget(header, rights) == 0
    rights[0] &= ~DAC_OVERRIDE
    assert libc.capset(header, rights) == 0


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, megabytes: int):
    """A disk of its own at `folder`, or None where this user may not mount one."""
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
