"""What a run that leaves in the middle of a step does with the step, and whose signal it leaves by."""

import json
import pathlib
import signal
import time

import pytest
from helpers_run import run_python

from twodal_jax.runtime import leaving, stopping

COMPUTES = """
import json, os, pathlib, threading, time
import jax, jax.numpy as jnp
from twodal_jax.runtime import leaving
step = jax.jit(lambda a: jax.lax.fori_loop(0, 10**6, lambda _, a: a @ a / 1e3, a))
threading.Thread(target=lambda: jax.block_until_ready(step(jnp.eye(600))), daemon=True).start()
def threads():
    tasks = pathlib.Path("/proc/self/task").iterdir()
    return [int(task.name) for task in tasks if (task / "comm").read_text().startswith("tf_XLA")]
while not threads():
    time.sleep(0.05)
def leave():
    leaving._give_way()
    computing, others = threads(), [threading.get_native_id(), threading.main_thread().native_id]
    nice = [[os.getpriority(os.PRIO_PROCESS, one) for one in some] for some in (computing, others)]
    print(json.dumps(nice), flush=True)
    os._exit(0)
threading.Thread(target=leave).start()
threading.Event().wait()
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="threads have priorities on Linux")
def test_the_threads_that_compute_a_given_up_step_give_way_to_the_one_that_saves():
    process = run_python("-c", COMPUTES)
    assert process.returncode == 0, process.stderr[-2000:]
    computing, others = json.loads(process.stdout)
    assert computing and set(computing) == {leaving.NICE} and others == [0, 0]


@pytest.fixture
def heard():
    """Signals that would end this process are only noted."""
    old = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("then, code", [(None, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_what_another_process_was_asked_counts_as_sigterm_but_for_a_signal_of_its_own(heard, then, code):
    left, asked = [], []
    with stopping.in_time(left.append, grace=1.0, asked=lambda: asked.append(1) or True):
        while not asked:
            time.sleep(0.01)
        if then:
            signal.raise_signal(then)
        time.sleep(2)
    assert left == [code]


def test_each_signal_is_passed_on_when_it_comes(heard):
    left, passed = [], []
    with stopping.in_time(left.append, grace=60, at_once=passed.append, asked=lambda: False):
        signal.raise_signal(signal.SIGINT)
        while not passed:
            time.sleep(0.01)
    assert passed == [signal.SIGINT] and not left
