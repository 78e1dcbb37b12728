"""The same global batch gives the same networks on one device, eight virtual devices and two processes."""

import dataclasses
import json
import re

import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_run import free_port, place, QUICK_COMPILER, run_together

from twodal_jax.distributed import cluster, sharding
from twodal_jax.distributed.sharding import AXIS_NAME
from twodal_jax.training import step as train_step
from twodal_jax.training.state import create_train_state

STEPS = {"steps": 10, "learning_rate": 1e-3}


def virtual(count):
    return {"XLA_FLAGS": f"{QUICK_COMPILER} --xla_force_host_platform_device_count={count}"}


@dataclasses.dataclass
class Steps:
    """The output of helpers_steps: states, the compiled program, and each process's results for broken batches."""

    states: dict[str, np.ndarray]
    program: str
    broken: list[list[dict]]


def ten_steps(folder, devices, places=(cluster.ALONE,)) -> Steps:
    """Runs helpers_steps on `devices` devices, in one process for each of `places` (its `config.distributed`)."""
    out = folder / "out.npz"
    commands = [
        ["tests/helpers_steps.py", out, json.dumps(STEPS | {"devices": devices, "distributed": place})]
        for place in places
    ]
    processes = run_together(commands, virtual(devices // len(places)), timeout=600)
    for process in processes:
        assert process.returncode == 0, process.stderr[-3000:]
    broken = [json.loads(process.stdout.splitlines()[-1]) for process in processes]
    with np.load(out) as arrays:
        return Steps(dict(arrays), out.with_suffix(".hlo").read_text(), broken)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return ten_steps(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    return ten_steps(tmp_path_factory.mktemp("eight"), 8)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    port = free_port()
    return ten_steps(tmp_path_factory.mktemp("two"), 2, [place(index, port) for index in range(2)])


def assert_close_and_moved(found, one):
    """Parameters, statistics and optimisers' states of both networks agree to 1e-5, after larger steps."""
    assert found.keys() == one.keys() and len(one) > 300
    after = [path for path in one if path.startswith("after")]
    for part in (
        "regressor.params",
        "regressor.batch_stats",
        "regressor.opt_state",
        "critic.params",
        "critic.opt_state",
    ):
        paths = [path for path in after if path.startswith(f"after.{part}")]
        moved = [np.abs(one[path] - one["before" + path[5:]]).max() for path in paths]
        assert len(paths) > 10 and max(moved) > 5e-4, part
    worst = {path: float(np.abs(found[path].astype(np.float64) - one[path]).max()) for path in after}
    over = {path: error for path, error in worst.items() if not error <= 1e-5}
    assert not over, json.dumps(over, indent=1)


@pytest.mark.slow
def test_one_and_eight_devices_agree_after_ten_steps(one_device, eight_devices):
    assert_close_and_moved(eight_devices.states, one_device.states)


@pytest.mark.slow
def test_two_processes_agree_with_one_after_ten_steps(one_device, two_processes):
    assert_close_and_moved(two_processes.states, one_device.states)


@pytest.mark.slow
@pytest.mark.parametrize("on, replicas", [("eight_devices", 8), ("two_processes", 1), ("one_device", 1)])
def test_a_batch_that_is_not_finite_on_one_or_all_replicas_changes_no_replica_and_counts_once(on, replicas, request):
    for on_one, on_all in request.getfixturevalue(on).broken:
        assert on_one == on_all == {"unchanged_on": replicas, "counted": [1, 1, 1.0]}


def all_reduced(program):
    """[(name in the source, [shape of an operand, ...])] of the all-reduces of a compiled program."""
    found = []
    for line in program.splitlines():
        match = re.search(r"= (.*?) all-reduce(?:-start)?\(.*op_name=\"([^\"]*)\"", line)
        if match:
            shapes = [tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]*)\]", match[1])]
            found.append((match[2], shapes))
    return found


@pytest.mark.slow
def test_each_network_has_one_all_reduce_a_step_and_each_batch_norm_one_a_pass(eight_devices):
    steps = eight_devices
    assert steps.program.count(" all-reduce(") == len(all_reduced(steps.program))

    def size(part):
        return sum(v.size for path, v in steps.states.items() if path.startswith(f"after.{part}.params"))

    operands = [(name, shape) for name, shapes in all_reduced(steps.program) for shape in shapes]
    rows = [shape for _, shape in operands if len(shape) == 1]
    # Gradients and losses: of the regressor the eight terms and their sum, of the critic its one.
    assert sorted(rows) == sorted([(size("regressor") + 9,), (size("critic") + 1,)])
    moments = [(name, shape) for name, shape in operands if len(shape) == 2]
    assert len(rows) + len(moments) == len(operands)
    layers = sum(path.endswith("['mean']") for path in steps.states if path.startswith("after"))
    # Two passes (the second for the losses of cycle consistency), each forward and backward; two sums in each.
    assert layers == 12 and len(moments) == 2 * 2 * layers
    assert all("norm" in name and shape[0] == 2 for name, shape in moments)


@pytest.mark.slow
def test_one_device_alone_has_no_all_reduce(one_device):
    assert "all-reduce" not in one_device.program


def test_a_batch_that_does_not_divide_is_an_error_with_both_numbers(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    sharding.check_divisible("config.batch_annotated", 16)
    with pytest.raises(ValueError, match=r"config.batch_annotated \(12\) must be .* number of devices \(8\)"):
        sharding.check_divisible("config.batch_annotated", 12)


def test_shard_splits_the_leading_axis_in_order():
    count = jax.local_device_count()
    sharded = sharding.shard({"a": {"x": np.arange(4 * count * 3).reshape(4 * count, 3)}})
    assert sharded["a"]["x"].shape == (count, 4, 3)
    np.testing.assert_array_equal(sharded["a"]["x"].reshape(-1, 3)[:, 0], np.arange(4 * count) * 3)


def test_paired_streams_end_with_the_shorter_one_and_wild_is_optional():
    annotated = [{"x": 1}, {"x": 2}]
    both = list(sharding.paired(iter(annotated), iter([{"y": 3}, {"y": 4}, {"y": 5}])))
    assert both == [{"annotated": {"x": 1}, "wild": {"y": 3}}, {"annotated": {"x": 2}, "wild": {"y": 4}}]
    assert list(sharding.paired(iter(annotated), None)) == [{"annotated": a} for a in annotated]
    some = list(sharding.paired(iter(annotated), iter([None, {"y": 4}])))
    assert some == [{"annotated": {"x": 1}}, {"annotated": {"x": 2}, "wild": {"y": 4}}]


def test_a_host_copy_shares_no_memory_with_the_original():
    original = {"a": np.ones(3), "b": jnp.zeros(2)}
    copy = sharding.host_copy(original)
    original["a"][0] = 7
    assert copy["a"][0] == 1 and isinstance(copy["b"], np.ndarray)


def test_the_program_of_the_first_step_serves_the_second():
    spec = helpers_model.tiny_spec(losses=helpers_model.STAGE2_LOSSES, axis_name=AXIS_NAME)
    model = helpers_model.tiny_model()
    batch = next(sharding.prefetched(iter([helpers_model.tiny_batch(model)] * 2)))
    state, model = sharding.replicated((create_train_state(spec, seed=0), model))
    step, compilations = train_step.mapped_train_step(spec), []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compilations.append(name))
    try:
        state, _ = step(state, batch, model)
        assert any("compile" in name for name in compilations)
        compilations.clear()
        step(state, batch, model)
        assert not compilations
    finally:
        jax.monitoring.clear_event_listeners()
