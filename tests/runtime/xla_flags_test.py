"""Settings made before JAX starts."""

import sys

import pytest
from helpers_run import run_python

from twodal_jax.runtime import xla_flags

PROGRAM = """
import os, sys
print("start", os.getpid(), flush=True)
from twodal_jax.runtime import xla_flags
xla_flags.use_huge_pages()
print("run", os.getpid(), repr(os.environ["GLIBC_TUNABLES"]), sys.argv[1:], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's huge pages")
def test_a_program_restarts_once_with_huge_pages_in_the_same_process(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    process = run_python("-c", PROGRAM, "--a=b c", "")
    first, restarted, last = process.stdout.splitlines()
    assert restarted == first
    pid = first.removeprefix("start ")
    assert last == f"run {pid} {xla_flags.HUGE_PAGES['GLIBC_TUNABLES']!r} ['--a=b c', '']"


@pytest.mark.parametrize("setting", ["", "glibc.malloc.arena_max=2"])
def test_a_setting_of_the_user_is_kept(setting):
    process = run_python("-c", PROGRAM, env={"GLIBC_TUNABLES": setting})
    first, last = process.stdout.splitlines()
    assert last == f"run {first.removeprefix('start ')} {setting!r} []"
