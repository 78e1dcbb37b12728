"""Weights files: one file with a network, and the names of the package's networks."""

import json

import numpy as np
import pytest
from helpers_run import save_untrained_run, tiny_config
from safetensors import numpy as safetensors

import twodal_jax
from scripts import export_network
from twodal_jax.checkpointing import trained_model, weights
from twodal_jax.checkpointing.restore import CheckpointError
from twodal_jax.detection.types import FaceBox


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of an untrained run of the built-in model, its weights file)."""
    folder = tmp_path_factory.mktemp("run")
    model = trained_model.load_morphable_model("builtin")
    config = tiny_config(**{"morphable_model": "builtin", "learn_landmark_offsets": True, "regressor.zero_head": False})
    config.data.annotated.folder = "/somewhere/private"
    save_untrained_run(folder, model, config)
    export_network.main([f"--checkpoint={folder}", f"--output_dir={folder}/out", "--format=weights"])
    return folder, folder / "out" / "network.safetensors"


def test_a_weights_file_predicts_what_its_run_predicts(run):
    folder, path = run
    picture = np.random.default_rng(0).integers(0, 256, (200, 220, 3), dtype=np.uint8)
    boxes = [FaceBox(np.float32([40, 40, 160, 160]))]
    (one,), (other,) = (twodal_jax.load(source).reconstruct(picture, boxes) for source in (folder, path))
    np.testing.assert_allclose(one.landmarks68, other.landmarks68, atol=0.05 * 160 / 120)
    assert twodal_jax.load(path).trained.step == 0


def test_the_same_network_gives_the_same_bytes_without_places_of_the_machine(run):
    folder, path = run
    content = path.read_bytes()
    assert trained_model.to_weights(trained_model.load(folder)) == content
    assert trained_model.to_weights(trained_model.load(path)) == content
    assert b"private" not in content and str(folder).encode() not in content
    assert {array.dtype.name for array in safetensors.load(content).values()} == {"float16", "float32"}


@pytest.mark.parametrize("name", weights.NAMES)
def test_a_network_of_the_package_has_the_arrays_of_its_config(name):
    trained, path = trained_model.load(name), weights.file_of(name)
    weights.check_fits(trained.spec.regressor.clone(axis_name=None), weights.read(path)[1], path)


def test_a_weights_file_holds_values_whatever_their_order_in_memory():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    variables = {"params": {"a": {"kernel": np.asfortranarray(kernel)}}, "batch_stats": {}}
    (stored,) = safetensors.load(weights.pack(tiny_config(), {}, variables, 0)).values()
    np.testing.assert_array_equal(stored, kernel)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content[: len(content) // 2], "damaged"),
        (lambda content: b"", "damaged"),
        (lambda content: content.replace(b"weights 1", b"weights 9"), "write it again"),
        (lambda content: safetensors.save({"a": np.zeros(3, np.float32)}), "not a weights file"),
        (lambda content: safetensors.save({"a": np.zeros(3, np.float32)}, metadata(content)), "do not fit its config"),
    ],
    ids=["truncated", "empty", "of another version", "foreign", "of other arrays"],
)
def test_a_wrong_file_is_one_message(run, tmp_path, change, message):
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(change(run[1].read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        twodal_jax.load(path)


def metadata(content):
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]


def test_an_unknown_name_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="photos and free"):
        twodal_jax.load("phots")
    with pytest.raises(CheckpointError, match="no such weights file"):
        twodal_jax.load("missing.safetensors")


def test_a_folder_of_that_name_goes_before_a_network_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weights.file_of("photos") == weights.FOLDER / "photos.safetensors"
    (tmp_path / "photos").mkdir()
    assert weights.file_of("photos") is None
