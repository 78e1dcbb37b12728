"""One and eight devices: the same global batch, the same networks. Virtual CPU devices, own process."""

import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_run import run_python

from twodal_jax import devices

STEP = textwrap.dedent(
    """
    import sys
    import jax, numpy as np
    import helpers_model
    from twodal_jax import devices
    from twodal_jax.train_state import create_train_state

    count, out = int(sys.argv[1]), sys.argv[2]
    assert jax.device_count() == count
    model = helpers_model.tiny_model()
    method = helpers_model.tiny_method(
        losses=helpers_model.ALL_LOSSES, axis_name=devices.AXIS_NAME, learning_rate=1e-3
    )
    batch = devices.shard(helpers_model.tiny_batch(model, annotated=8, wild=8))
    state, metrics = devices.mapped_train_step(method)(create_train_state(method, 0), batch, model)
    jax.block_until_ready(state)
    np.savez(out, **helpers_model.leaves(devices.host_copy(state)))
    print({name: float(value) for name, value in metrics.items()})
    """
)
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
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


@pytest.mark.slow
def test_one_and_eight_devices_agree_after_a_step(tmp_path):
    states = {}
    for count in (1, 8):
        out = tmp_path / f"{count}.npz"
        process = run_python("-c", STEP, count, out, env=virtual(count))
        assert process.returncode == 0, process.stderr[-3000:]
        with np.load(out) as arrays:
            states[count] = dict(arrays)
    assert states[1].keys() == states[8].keys() and len(states[1]) > 100
    # Optax's state has paths of its own; the same bound holds for parameters, statistics and it.
    worst = {
        path: float(np.abs(states[1][path].astype(np.float64) - states[8][path]).max())
        for path in states[1]
    }
    over = {path: error for path, error in worst.items() if error > 1e-5}
    assert not over, json.dumps(over, indent=1)


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
