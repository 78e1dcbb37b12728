"""The network of a run, read back from its folder alone."""

import json
import shutil

import helpers_model
import numpy as np
import pytest
from helpers_run import save_untrained_run, tiny_config

from twodal_jax.checkpointing import format as checkpoint_format, trained_model
from twodal_jax.checkpointing.manager import CheckpointError, Checkpoints
from twodal_jax.face_models.load import AssetError, save_morphable_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, state, model) of a run whose morphable model came without whitening."""
    tmp_path = tmp_path_factory.mktemp("run")
    whole = helpers_model.tiny_model()
    save_morphable_model(tmp_path / "model.npz", whole.replace(has_whitening=False))
    config = tiny_config(**{"morphable_model": str(tmp_path / "model.npz")})
    state = save_untrained_run(tmp_path, whole, config)
    return tmp_path, state, whole


@pytest.fixture
def run(saved, tmp_path):
    """A copy of it, to be spoilt; its model lies where it was."""
    shutil.copytree(saved[0], tmp_path / "run")
    return tmp_path / "run", *saved[1:]


def test_network_whitening_and_method_come_back(run):
    folder, state, whole = run
    found = trained_model.load(folder)
    helpers_model.assert_identical(found.regressor, state.regressor)
    np.testing.assert_array_equal(found.model.alpha_std, whole.alpha_std)
    assert found.step == 0 and found.spec.regressor.arch == "resnet10"


def test_a_moved_morphable_model_can_be_named(run):
    folder, *_ = run
    (folder / "model.npz").rename(folder / "moved.npz")
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"]["morphable_model"] = str(folder / "model.npz")
    path.write_text(json.dumps(content))
    with pytest.raises(AssetError, match="no such morphable model"):
        trained_model.load(folder)
    assert trained_model.load(folder, morphable_model=folder / "moved.npz").step == 0


def test_another_morphable_model_is_refused(run):
    folder, *_ = run
    save_morphable_model(folder / "other.npz", helpers_model.tiny_model(seed=1))
    with pytest.raises(CheckpointError, match="trained with another morphable model"):
        trained_model.load(folder, morphable_model=folder / "other.npz")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "no run of twodal_jax.main"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable"),
        (lambda folder: (folder / "checkpoints").rename(folder / "elsewhere"), "holds no checkpoint"),
    ],
)
def test_a_folder_without_a_run_is_one_message(run, spoil, message):
    spoil(run[0])
    with pytest.raises(CheckpointError, match=message):
        trained_model.load(run[0])


def test_a_config_of_another_version_is_one_message(run):
    path = run[0] / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["regressor"]["width"]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="another version.*width"):
        trained_model.load(run[0])


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(run, capsys):
    folder, state, _ = run
    later = folder / "checkpoints" / "7"
    description = checkpoint_format.read_manifest(folder / "checkpoints" / "0")["description"]
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state.replace(step=np.int32(7)), description)
    assert trained_model.load(folder).step == 7
    path = later / "state" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    assert trained_model.load(folder).step == 0
    said = capsys.readouterr().err
    assert f"{later}: this checkpoint is damaged: state/_METADATA" in said
    assert later.is_dir()  # reading moves nothing
    with pytest.raises(CheckpointError, match="state/_METADATA"):
        trained_model.load(folder, step=7)
    with pytest.raises(CheckpointError, match="holds no checkpoint of step 5"):
        trained_model.load(folder, step=5)


def test_the_best_state_of_a_run_without_a_validation_part_is_an_error_that_says_why(run):
    folder, *_ = run
    with pytest.raises(CheckpointError, match="best: holds no checkpoint"):
        trained_model.load(folder, which="best")
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"]["validation_faces"] = 0
    path.write_text(json.dumps(content))
    reason = "no validation part .config.validation_faces = 0.*last state is the result"
    with pytest.raises(CheckpointError, match=reason):
        trained_model.load(folder, which="best")
    assert trained_model.load(folder).step == 0
