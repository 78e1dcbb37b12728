"""Jobs in processes of their own: none shares memory, threads or C library settings with another.

A process runs one job per line on its standard input, so that jobs of several processes can be timed in turn.
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

# Memory settings of a process: the system's default, or those of `twodal_jax.main`.
AS_THE_SYSTEM_HAS_IT = dict.fromkeys(xla_flags.HUGE_PAGES, "")
AS_IN_TRAINING = xla_flags.HUGE_PAGES


class Apart:
    """A job that runs in its own process at every call, until `end`.

    Args:
      maker: "module:function"; `function(*arguments)` returns the job and a JSON-serialisable value.
      arguments: JSON-serialisable values.
      environment: variables added to those of this process.

    Attributes:
      told: the second value that the maker returned.
      peak_memory_gb: peak memory of the process, GB; known after `end`.
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
    """`timing.in_turn` of jobs in other processes and in this one; ends the processes of the jobs.

    Each job runs once before it is timed. In a training loop a step gets the memory that the step before it released.
    Here another process ran in between, and a virtual machine may have returned that memory to its host, which is slow
    to give it back.
    """
    try:
        return timing.in_turn({**jobs, **others}, rounds, warm_ups=1)
    finally:
        for job in jobs.values():
            job.end()


def serve(maker: str, arguments: str) -> None:
    """Main function of the process: makes the job, reports its value, and runs it once per line on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print to stdout; answers have their own channel
    module, _, function = maker.partition(":")
    job, told = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    print(json.dumps(told), file=answers, flush=True)
    for _ in sys.stdin:
        job()
        print(file=answers, flush=True)
    print(json.dumps(timing.peak_memory_gb()), file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
