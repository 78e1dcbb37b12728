"""What a program sets before JAX starts."""

import sys

import pytest
from helpers_run import run_python

from twodal_jax.runtime import xla_flags

PROGRAM = """
import os, sys
print("start", os.getpid(), flush=True)
from twodal_jax.runtime import xla_flags as startup
startup.use_huge_pages()
print("go", os.getpid(), repr(os.environ["GLIBC_TUNABLES"]), sys.argv[1:], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's huge pages")
def test_a_program_starts_itself_anew_with_huge_pages_once_as_the_same_process(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    process = run_python("-c", PROGRAM, "--a=b c", "")
    first, again, last = process.stdout.splitlines()
    pid = first.removeprefix("start ")
    assert again == first
    assert last == f"go {pid} {xla_flags.HUGE_PAGES['GLIBC_TUNABLES']!r} ['--a=b c', '']"


@pytest.mark.parametrize("setting", ["", "glibc.malloc.arena_max=2"])
def test_a_setting_of_the_users_own_stays(setting):
    process = run_python("-c", PROGRAM, env={"GLIBC_TUNABLES": setting})
    first, last = process.stdout.splitlines()
    assert last == f"go {first.removeprefix('start ')} {setting!r} []"
