"""The network of a run, read from its folder."""

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
    """A copy of it that a test may change; its morphable model stays where it was."""
    shutil.copytree(saved[0], tmp_path / "run")
    return tmp_path / "run", *saved[1:]


def edit_config(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content["config"])
    path.write_text(json.dumps(content))


def test_network_whitening_and_spec_are_restored(run):
    folder, state, whole = run
    found = trained_model.load(folder)
    helpers_model.assert_identical(found.regressor, state.regressor)
    np.testing.assert_array_equal(found.model.alpha_std, whole.alpha_std)
    assert found.step == 0 and found.spec.regressor.arch == "resnet10"


def test_the_path_of_a_moved_morphable_model_can_be_given(run):
    folder, *_ = run
    (folder / "model.npz").rename(folder / "moved.npz")
    edit_config(folder, lambda config: config.update(morphable_model=str(folder / "model.npz")))
    with pytest.raises(AssetError, match="no such morphable model"):
        trained_model.load(folder)
    assert trained_model.load(folder, morphable_model=folder / "moved.npz").step == 0


def test_another_morphable_model_is_refused(run):
    folder, *_ = run
    save_morphable_model(folder / "other.npz", helpers_model.tiny_model(seed=1))
    with pytest.raises(CheckpointError, match="trained with another morphable model"):
        trained_model.load(folder, morphable_model=folder / "other.npz")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "is not the --workdir of a run of twodal_jax.main"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable"),
        (lambda folder: (folder / "checkpoints").rename(folder / "elsewhere"), "holds no checkpoint"),
        (lambda folder: edit_config(folder, lambda config: config["regressor"].pop("width")), "another version.*width"),
    ],
)
def test_a_folder_without_a_run_of_this_version_is_an_error(run, change, message):
    change(run[0])
    with pytest.raises(CheckpointError, match=message):
        trained_model.load(run[0])


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_loaded(run, capsys):
    folder, state, _ = run
    later = folder / "checkpoints" / "7"
    description = checkpoint_format.read_manifest(folder / "checkpoints" / "0")["description"]
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state.replace(step=np.int32(7)), description)
    assert trained_model.load(folder).step == 7
    path = later / "state" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    assert trained_model.load(folder).step == 0
    assert f"{later}: this checkpoint is damaged: state/_METADATA" in capsys.readouterr().err
    assert later.is_dir()  # loading moves nothing
    with pytest.raises(CheckpointError, match="state/_METADATA"):
        trained_model.load(folder, step=7)
    with pytest.raises(CheckpointError, match="holds no checkpoint of step 5"):
        trained_model.load(folder, step=5)


def test_the_best_state_of_a_run_without_a_validation_part_is_an_error_with_the_reason(run):
    folder, *_ = run
    with pytest.raises(CheckpointError, match="best: holds no checkpoint"):
        trained_model.load(folder, which="best")
    edit_config(folder, lambda config: config.update(validation_faces=0))
    reason = "no validation part .config.validation_faces = 0.*last state is the result"
    with pytest.raises(CheckpointError, match=reason):
        trained_model.load(folder, which="best")
    assert trained_model.load(folder).step == 0
