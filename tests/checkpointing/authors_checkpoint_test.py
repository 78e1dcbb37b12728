"""The authors' checkpoint: read without PyTorch, converted exactly, refused if hostile or of another network."""

import json
import os
import pathlib
import zipfile

import jax
import numpy as np
import pytest
from helpers_model import tiny_model
from helpers_run import run_python
from helpers_torch_files import save_global, save_legacy, save_zip

from scripts import import_authors_checkpoint
from twodal_jax.checkpointing import authors_checkpoint, trained_model
from twodal_jax.checkpointing.authors_checkpoint import CheckpointFormatError
from twodal_jax.face_models.load import save_morphable_model
from twodal_jax.geometry import projection
from twodal_jax.io import torch_checkpoint
from twodal_jax.io.pickle_arrays import PickleError
from twodal_jax.models.resnet import Regressor

SAVES = pytest.mark.parametrize("save", [save_zip, save_legacy])


def layer_shapes():
    """{torchvision's name: shape} of the authors' ResNet-50."""
    shapes = {"conv1.weight": (64, 4, 7, 7)}

    def norm(name, features):
        shapes.update({f"{name}.{k}": (features,) for k in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    fan_in = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            for i, (size, a, b) in enumerate([(1, fan_in, width), (3, width, width), (1, width, 4 * width)]):
                shapes[f"{name}.conv{i + 1}.weight"] = (b, a, size, size)
                norm(f"{name}.bn{i + 1}", b)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, fan_in, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            fan_in = 4 * width
    return shapes | {"fc.weight": (62, 2048), "fc.bias": (62,)}


def random_state(seed=0):
    """Random weights that keep activations near 1."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in layer_shapes().items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            state[name] = rng.uniform(0.5, 1.0, shape).astype(np.float32)
        else:
            scale = np.sqrt(1.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
            state[name] = (scale * rng.standard_normal(shape, np.float32)).astype(np.float32)
    return state


def prefixed(state):
    return {f"module.{name}": value for name, value in state.items()}


def ours(variables, images):
    return np.asarray(Regressor("resnet50", "authors").apply(variables, images))


@SAVES
def test_tensors_of_any_layout_are_read(tmp_path, save):
    rng = np.random.default_rng(0)
    content = {
        "a": rng.standard_normal((3, 4, 5)).astype(np.float32),
        "turned": rng.standard_normal((4, 6)).T,
        "scalar": np.array(5),
        "half": rng.standard_normal(7).astype(np.float16),
        "nested": {"list": [np.arange(3), "text", 1.5, None], "epoch": 12},
    }
    save(tmp_path / "f.pth", content)
    found = torch_checkpoint.load(tmp_path / "f.pth")
    for name in ("a", "turned", "scalar", "half"):
        assert found[name].dtype == content[name].dtype
        np.testing.assert_array_equal(found[name], content[name])
    np.testing.assert_array_equal(found["nested"]["list"][0], np.arange(3))
    assert found["nested"]["list"][1:] == ["text", 1.5, None] and found["nested"]["epoch"] == 12


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("module, name", [("os", "system"), ("torch", "load"), ("builtins", "eval")])
def test_globals_in_a_pickle_are_refused_and_not_called(tmp_path, legacy, module, name):
    save_global(tmp_path / "f.pth", module, name, legacy)
    with pytest.raises(PickleError, match=f"{module}.{name}"):
        torch_checkpoint.load(tmp_path / "f.pth")


@SAVES
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, save):
    save(tmp_path / "whole.pth", {"a": np.arange(100.0), "b": np.ones((3, 3))})
    data = (tmp_path / "whole.pth").read_bytes()
    for end in range(0, len(data) - 1, 37):
        (tmp_path / "cut.pth").write_bytes(data[:end])
        with pytest.raises(PickleError, match="cut.pth"):
            torch_checkpoint.load(tmp_path / "cut.pth")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    save_zip(tmp_path / "f.pth", {"a": np.arange(4.0)})
    with zipfile.ZipFile(tmp_path / "f.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["archive/data.pkl"] = parts["archive/data.pkl"].replace(b"K\x04\x85", b"K\x05\x85")
    with zipfile.ZipFile(tmp_path / "g.pth", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(PickleError, match="beyond its storage|larger than its storage"):
        torch_checkpoint.load(tmp_path / "g.pth")


@pytest.mark.slow
@SAVES
def test_a_converted_checkpoint_has_the_networks_tree_and_its_tensors(tmp_path, save):
    state = random_state()
    save(tmp_path / "f.pth.tar", {"epoch": 3, "res_state_dict": prefixed(state)})
    variables = authors_checkpoint.read(tmp_path / "f.pth.tar")
    network = Regressor("resnet50", "authors")
    like = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 120, 120, 4), np.float32))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, dict(like))
    kernel = variables["params"]["stage3_block2"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 2], state["layer3.1.conv2.weight"][:, :, 0, 2].T)
    np.testing.assert_array_equal(
        variables["batch_stats"]["stage1_block1"]["norm_shortcut"]["var"], state["layer1.0.downsample.1.running_var"]
    )


@pytest.mark.slow
def test_agrees_with_the_same_network_in_pytorch():
    """The network written with PyTorch's functions has the same output to 1e-4, with random weights."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    state = random_state(1)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    images = np.random.default_rng(2).uniform(-1, 1, (2, 120, 120, 4)).astype(np.float32)

    def norm(x, name):
        parts = (weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, training=False)

    def conv(x, name, stride=1, padding=0):
        return functional.conv2d(x, weights[f"{name}.weight"], stride=stride, padding=padding)

    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = functional.relu(norm(conv(x, "conv1", 2, 3), "bn1"))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if block == 0 and stage in (1, 2) else 1
            y = functional.relu(norm(conv(x, f"{name}.conv1"), f"{name}.bn1"))
            y = functional.relu(norm(conv(y, f"{name}.conv2", stride, 1), f"{name}.bn2"))
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = functional.relu(x + y)
    x = functional.avg_pool2d(x, 7, stride=2).flatten(1)
    expected = functional.linear(x, weights["fc.weight"], weights["fc.bias"]).numpy()
    found = ours(authors_checkpoint.convert(state), images)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("layer3.5.conv2.weight"), "layer3.5.conv2.weight is missing"),
        (lambda s: s.update({"fc.bias": np.zeros(10)}), r"fc.bias has shape \(10,\), expected \(62,\)"),
        (lambda s: s.update({"extra.weight": np.zeros(2)}), "extra.weight, which the authors"),
    ],
)
def test_another_network_is_refused_and_the_difference_named(change, message):
    state = {name: np.zeros(shape, np.float32) for name, shape in layer_shapes().items()}
    change(state)
    with pytest.raises(CheckpointFormatError, match=message):
        authors_checkpoint.convert(state)


def test_a_file_without_the_network_is_an_error_that_lists_its_content(tmp_path):
    save_zip(tmp_path / "f.pth", {"epoch": 1, "state_dict": {}})
    with pytest.raises(CheckpointFormatError, match="res_state_dict.*epoch, state_dict"):
        authors_checkpoint.read(tmp_path / "f.pth")


@pytest.mark.slow
def test_the_command_writes_the_folder_of_a_run(tmp_path):
    save_legacy(tmp_path / "theirs.pth.tar", {"res_state_dict": prefixed(random_state())})
    model = tiny_model()
    save_morphable_model(tmp_path / "model.npz", model)
    process = run_python(
        "-m",
        "scripts.import_authors_checkpoint",
        tmp_path / "theirs.pth.tar",
        f"--output_dir={tmp_path / 'run'}",
        f"--morphable_model={tmp_path / 'model.npz'}",
    )
    assert process.returncode == 0, process.stderr[-2000:]
    trained = trained_model.load(tmp_path / "run")
    assert trained.spec.heatmap.kind == "points" and trained.config.regressor.variant == "authors"
    images = np.random.default_rng(0).uniform(-1, 1, (1, 120, 120, 4)).astype(np.float32)
    regressor = {"params": trained.regressor.params, "batch_stats": trained.regressor.batch_stats}
    expected = ours(authors_checkpoint.convert(random_state()), images)
    np.testing.assert_array_equal(ours(regressor, images), expected)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["name"] == "authors"
    # The run's frame lies 0.72 crop pixels further left and up than 3DDFA's.
    whitened = np.random.default_rng(1).standard_normal((3, 62)).astype(np.float32)
    theirs, run = (
        np.asarray(projection.landmarks_crop(of, whitened * of.alpha_std + of.alpha_mean))
        for of in (model, trained.model)
    )
    np.testing.assert_allclose(theirs - run, np.tile([0.72, 0.72, 0.0], (3, 68, 1)), atol=1e-4)


@pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
def test_the_offset_of_an_imported_run_is_the_mean_over_the_boxes_of_aflw2000():
    path = pathlib.Path(os.environ["TWODAL_DATA_DIR"]) / "aflw2000" / "annotations.npz"
    with np.load(path) as content:
        low, high = np.split(content["roi_box"].astype(np.float64), 2, axis=1)
    offset = 0.5 + 0.5 / ((high - low) / 120)
    np.testing.assert_allclose(offset.mean(axis=0), import_authors_checkpoint.MEAN_OFFSET_OF_3DDFA, atol=0.005)
