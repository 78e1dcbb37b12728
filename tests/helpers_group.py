"""Groups of processes on this machine, for tests."""

import contextlib
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from helpers_run import ROOT


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def place(index: int, port: int, count: int = 2) -> str:
    """`config.distributed` of one process of a group on this machine."""
    return f"127.0.0.1:{port},{count},{index}"


@dataclasses.dataclass
class Finished:
    """How a process ended. seconds: from `together`'s start of it to its end."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


@contextlib.contextmanager
def started(commands, env=None):
    """Starts [python, *command] for each command at once -> the processes; kills what is left of them.

    Each process has `out` and `err`, the paths its output goes to.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        **(env or {}),
    }
    processes = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as files:
        try:
            for index, command in enumerate(commands):
                paths = [pathlib.Path(folder) / f"{index}.{name}" for name in ("out", "err")]
                out, err = (files.enter_context(path.open("w")) for path in paths)
                process = subprocess.Popen(
                    [sys.executable, *map(str, command)], env=environment, cwd=ROOT, stdout=out, stderr=err
                )
                process.out, process.err = paths
                processes.append(process)
            yield processes
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()


def finish(processes, timeout: float = 120) -> list[Finished]:
    """Waits for all of them, together at most `timeout` seconds."""
    began, ended = time.monotonic(), {}
    while len(ended) < len(processes):
        for index, process in enumerate(processes):
            if index not in ended and process.poll() is not None:
                ended[index] = time.monotonic() - began
        if time.monotonic() - began > timeout:
            tails = "\n---\n".join(process.err.read_text()[-2000:] for process in processes)
            raise AssertionError(f"After {timeout} s only {sorted(ended)} had ended.\n{tails}")
        time.sleep(0.05)
    return [
        Finished(process.returncode, process.out.read_text(), process.err.read_text(), ended[index])
        for index, process in enumerate(processes)
    ]


def together(commands, env=None, timeout: float = 120) -> list[Finished]:
    """Runs commands at once, to their ends."""
    with started(commands, env) as processes:
        return finish(processes, timeout)
