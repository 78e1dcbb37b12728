"""Jobs in processes of their own, so that none has the other's memory, threads or settings of the C library.

A process is asked for one job after the other through its standard input, so that jobs of several processes can be
timed in turn.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import timing
from twodal_jax.runtime import xla_flags

# How a process has its memory: as programs have it that say nothing, or as `twodal_jax.main` asks.
AS_THE_SYSTEM_HAS_IT = dict.fromkeys(xla_flags.HUGE_PAGES, "")
AS_IN_TRAINING = xla_flags.HUGE_PAGES


class Apart:
    """A job that runs in a process of its own whenever it is called, until `end`.

    Args:
      maker: "module:function"; `function(*arguments)` returns the job and something JSON can say.
      arguments: what JSON can say.
      environment: added to this process's.

    Attributes:
      told: what the maker returned beside the job.
      peak_memory_gb: the most memory the process has held; known after `end`.
    """

    def __init__(self, maker: str, *arguments: Any, environment: dict[str, str]):
        command = [sys.executable, "-m", "benchmarks.apart", maker, json.dumps(arguments)]
        self._process = subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.told = json.loads(self._answer())
        self.peak_memory_gb: float | None = None

    def __call__(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._answer()

    def end(self) -> None:
        """Ends the process."""
        last, _ = self._process.communicate()
        self.peak_memory_gb = json.loads(last) if last else None

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._process.args[1:])} ended with status {self._process.wait()}")
        return line


def in_turn(jobs: Mapping[str, Apart], rounds: int, **others: Callable[[], object]) -> dict[str, list[float]]:
    """`timing.in_turn` of jobs apart, and of others in this process; the jobs' processes end.

    Each is run once before it is timed: in a loop, which they stand for, a step finds the memory that the one before it
    gave back. Here another process had its turn between them, and a virtual machine may meanwhile have handed that
    memory to its host, from where it comes back slowly.
    """
    try:
        return timing.in_turn({**jobs, **others}, rounds, warm_ups=1)
    finally:
        for job in jobs.values():
            job.end()


def serve(maker: str, arguments: str) -> None:
    """The process: makes the job, tells, and runs it once for every line it is sent."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print; answers have a way of their own
    xla_flags.set_cpu_flags()
    module, _, function = maker.partition(":")
    job, told = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    print(json.dumps(told), file=answers, flush=True)
    for _ in sys.stdin:
        job()
        print(file=answers, flush=True)
    print(json.dumps(timing.peak_memory_gb()), file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
