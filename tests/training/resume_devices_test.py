"""A run resumed on fewer devices ends as if it had stayed on eight."""

import shutil

import helpers_model
import jax
import numpy as np
import pytest
from helpers_run import ALL, QUICK_COMPILER, result, tiny_config, train_tiny

from twodal_jax.checkpointing import format as checkpoint_format
from twodal_jax.training import builder
from twodal_jax.training.state import create_train_state

pytestmark = pytest.mark.slow
CONFIG = {
    "self_supervision": False,
    "stage1.steps": 20,
    "stage2.steps": 0,
    "run.evaluate_every": 1000,
    "run.report_faces": 1,
    "run.checkpoint_every": 10,
    "batch_annotated": 8,
    "batch_wild": 8,
}


def run(workdir, devices):
    """Runs to the end on `devices` virtual devices; returns {path: array} of the last checkpoint."""
    flags = f"{QUICK_COMPILER} --xla_force_host_platform_device_count={devices}"
    result(train_tiny(workdir, CONFIG, env={"XLA_FLAGS": flags}))
    return state_of(workdir, 20)


def state_of(workdir, step):
    spec = builder.build_stages(tiny_config(**CONFIG))[0].spec
    like = jax.eval_shape(lambda: create_train_state(spec, 0))
    folder = workdir / "checkpoints" / str(step)
    return helpers_model.leaves(checkpoint_format.read(folder, checkpoint_format.read_manifest(folder), like))


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("eight")
    return workdir, run(workdir, 8)


@pytest.mark.parametrize("devices", [1, 2] if ALL else [2])
def test_a_run_begun_on_eight_devices_ends_the_same_on_fewer(on_eight, tmp_path, devices):
    workdir, expected = on_eight
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
    begun, found = state_of(tmp_path / "run", 10), run(tmp_path / "run", devices)
    moved = max(np.abs(found[path] - begun[path]).max() for path in found if ".params" in path)
    assert moved > 5e-4
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], rtol=0, atol=1e-5, err_msg=path)
