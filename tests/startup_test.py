"""What a program sets before JAX starts."""

import platform
import sys

import pytest
from helpers_run import run_python

from twodal_jax import startup

PROGRAM = """
import os, sys
print("start", os.getpid(), flush=True)
from twodal_jax import startup
startup.tune_malloc()
print("go", os.getpid(), repr(os.environ["GLIBC_TUNABLES"]), sys.argv[1:], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_a_program_starts_itself_anew_with_its_setting_once_as_the_same_process(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    process = run_python("-c", PROGRAM, "--a=b c", "")
    first, again, last = process.stdout.splitlines()
    pid = first.removeprefix("start ")
    assert again == first
    assert last == f"go {pid} {startup.MALLOC['GLIBC_TUNABLES']!r} ['--a=b c', '']"


@pytest.mark.parametrize("setting", ["", "glibc.malloc.arena_max=2"])
def test_a_setting_of_the_users_own_stays(setting):
    process = run_python("-c", PROGRAM, env={"GLIBC_TUNABLES": setting})
    first, last = process.stdout.splitlines()
    assert last == f"go {first.removeprefix('start ')} {setting!r} []"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_is_given_back_is_there_again_without_the_system():
    faults = """
import resource
from twodal_jax import startup
startup.tune_malloc()
import numpy as np
seen = []
for _ in range(4):
    np.full(10_000_000, 1.0)  # 80 MB
    seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(*(after - before for before, after in zip(seen, seen[1:])))
"""
    kept = [int(count) for count in run_python("-c", faults).stdout.split()]
    anew = [int(count) for count in run_python("-c", faults, env={"GLIBC_TUNABLES": ""}).stdout.split()]
    assert max(kept) < 10 and min(anew) > 30  # pages of 2 MB: 40, of 4 kB: 19,531
