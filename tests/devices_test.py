"""One device, eight, and two processes: the same global batch, the same networks. On virtual CPU devices."""

import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_group import free_port, place, together
from helpers_run import run_python

from twodal_jax import devices, hosts

STEPS = {"steps": 10, "learning_rate": 1e-3}
# Compiling takes most of the time; what LLVM makes of a program is not what is looked at here.
QUICK_COMPILER = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"
CHECK = textwrap.dedent(
    """
    from twodal_jax import devices
    devices.check_divisible("config.batch_annotated", 16)
    try:
        devices.check_divisible("config.batch_annotated", 12)
    except ValueError as error:
        print(error)
    """
)


def virtual(count):
    return {"XLA_FLAGS": f"{QUICK_COMPILER} --xla_force_host_platform_device_count={count}"}


def after_ten_steps(out, devices, places=(hosts.ALONE,), timeout=600):
    """What helpers_steps saves, run by one process for each of `places` (its `config.distributed`)."""
    commands = [
        ["tests/helpers_steps.py", out, json.dumps(STEPS | {"devices": devices, "distributed": place})]
        for place in places
    ]
    for process in together(commands, virtual(devices // len(places)), timeout):
        assert process.returncode == 0, process.stderr[-3000:]
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return after_ten_steps(tmp_path_factory.mktemp("one") / "out.npz", 1)


def assert_close_and_moved(found, one):
    """Parameters, statistics and optimisers' states of both networks agree to 1e-5, after larger steps."""
    assert found.keys() == one.keys() and len(one) > 300
    after = [path for path in one if path.startswith("after")]
    for part in ("regressor.params", "regressor.batch_stats", "regressor.opt_state", "critic.params",
                 "critic.opt_state"):  # fmt: skip
        paths = [path for path in after if path.startswith(f"after.{part}")]
        moved = [np.abs(one[path] - one["before" + path[5:]]).max() for path in paths]
        assert len(paths) > 10 and max(moved) > 5e-4, part
    worst = {path: float(np.abs(found[path].astype(np.float64) - one[path]).max()) for path in after}
    over = {path: error for path, error in worst.items() if not error <= 1e-5}
    assert not over, json.dumps(over, indent=1)


@pytest.mark.slow
def test_one_and_eight_devices_agree_after_ten_steps(one_device, tmp_path):
    assert_close_and_moved(after_ten_steps(tmp_path / "out.npz", 8), one_device)


@pytest.mark.slow
def test_two_processes_agree_with_one_after_ten_steps(one_device, tmp_path):
    port = free_port()
    places = [place(index, port) for index in range(2)]
    assert_close_and_moved(after_ten_steps(tmp_path / "out.npz", 2, places), one_device)


def test_a_batch_that_does_not_divide_is_an_error_with_both_numbers():
    process = run_python("-c", CHECK, env=virtual(8))
    assert process.stdout.strip() == (
        "config.batch_annotated (12) must be positive and divisible by the number of devices (8)."
    )


def test_shard_splits_the_leading_axis_in_order():
    count = jax.local_device_count()
    sharded = devices.shard({"a": {"x": np.arange(4 * count * 3).reshape(4 * count, 3)}})
    assert sharded["a"]["x"].shape == (count, 4, 3)
    np.testing.assert_array_equal(sharded["a"]["x"].reshape(-1, 3)[:, 0], np.arange(4 * count) * 3)


def test_paired_streams_end_with_the_annotated_one_and_wild_is_optional():
    annotated = [{"x": 1}, {"x": 2}]
    both = list(devices.paired(iter(annotated), iter([{"y": 3}, {"y": 4}, {"y": 5}])))
    assert both == [{"annotated": {"x": 1}, "wild": {"y": 3}}, {"annotated": {"x": 2}, "wild": {"y": 4}}]
    assert list(devices.paired(iter(annotated), None)) == [{"annotated": a} for a in annotated]


def test_host_copy_copies():
    original = {"a": np.ones(3), "b": jnp.zeros(2)}
    copy = devices.host_copy(original)
    original["a"][0] = 7
    assert copy["a"][0] == 1 and isinstance(copy["b"], np.ndarray)
