"""Processes that start with the program imported: forked from a server that has done so once."""

import contextlib
import functools
import multiprocessing
import os
import pathlib
import sys
from multiprocessing import forkserver
from unittest import mock

from helpers_run import ROOT

PRELOADED = (
    "pytest",
    "helpers_checkpoint",
    "helpers_fork",
    "data_pipelines.training_data",
    "twodal_jax.train",
    "twodal_jax.main",
)


@functools.cache
def context():
    """The multiprocessing context of such processes; its server runs on the CPU."""
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with mock.patch.dict(os.environ, PYTHONPATH=path, JAX_PLATFORMS="cpu"):
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def started(function, *arguments):
    """A process that runs a function of an importable module; killed at the block's end."""
    process = context().Process(target=function, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run_main(arguments: list[str], environment: dict[str, str], folder: pathlib.Path) -> tuple[int, str, str]:
    """Runs the command `twodal_jax.main`; returns (exit status, standard output, standard error)."""
    paths = folder / "stdout", folder / "stderr"
    with started(_main, arguments, environment, paths) as process:
        process.join(300)
        return process.exitcode, *(path.read_text() for path in paths)


def _main(arguments, environment, paths) -> None:
    for path, stream in zip(paths, (sys.stdout, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.chdir(ROOT)
    os.environ |= environment
    from absl import app

    from twodal_jax import main

    sys.argv = ["twodal_jax/main.py", *arguments]  # where ml_collections finds the overrides
    app.run(main.main, flags_parser=main.parse_flags)
