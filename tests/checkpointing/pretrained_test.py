"""ImageNet weights as a start: the original network's features, from every file format; other files are refused."""

import helpers_model  # defines resnet10
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from helpers_run import tiny_config, tiny_data
from helpers_torch_files import save_legacy, save_zip
from scipy import signal

from twodal_jax import train
from twodal_jax.checkpointing import pretrained
from twodal_jax.checkpointing.manager import CheckpointError
from twodal_jax.models.resnet import Regressor
from twodal_jax.training import builder
from twodal_jax.training.builder import ConfigError
from twodal_jax.training.state import create_train_state

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # RGB, torchvision's documentation
BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def torch_state(name, width=64, seed=0):
    """A state dict with torchvision's names, weights random and of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    state = {}

    def conv(name, fan_in, fan_out, size):
        scale = np.sqrt(1.0 / (fan_in * size * size))
        state[f"{name}.weight"] = (scale * rng.standard_normal((fan_out, fan_in, size, size))).astype("f4")

    def norm(name, features):
        state[f"{name}.weight"], state[f"{name}.running_var"] = rng.uniform(0.5, 1, (2, features)).astype("f4")
        state[f"{name}.bias"], state[f"{name}.running_mean"] = 0.1 * rng.standard_normal((2, features)).astype("f4")
        state[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", 3, width, 7)
    norm("bn1", width)
    fan_in, deep = width, name == "resnet50"
    for stage, blocks in enumerate(BLOCKS[name]):
        features = width * 2**stage
        out = features * (4 if deep else 1)
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            layers = (
                [(1, fan_in, features), (3, features, features), (1, features, out)]
                if deep
                else [(3, fan_in, features), (3, features, features)]
            )
            for index, (size, a, b) in enumerate(layers):
                conv(f"{at}.conv{index + 1}", a, b, size)
                norm(f"{at}.bn{index + 1}", b)
            if fan_in != out or (block == 0 and stage > 0):
                conv(f"{at}.downsample.0", fan_in, out, 1)
                norm(f"{at}.downsample.1", out)
            fan_in = out
    state["fc.weight"] = rng.standard_normal((1000, fan_in)).astype("f4")
    state["fc.bias"] = rng.standard_normal(1000).astype("f4")
    return state


def convolve(x, kernel, stride, padding):
    """[C, H, W] and [F, C, k, k] -> [F, H', W'] in float64, zeros outside."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.tensordot(kernel.astype(np.float64), windows, ((1, 2, 3), (0, 3, 4)))


def reference_features(state, name, bgr, variant):
    """Mean features [C] float64 of the original network's last stage, of an image [120, 120, 3], BGR, 0 to 255.

    The image is normalised as for ImageNet, on a border of mid-grey.
    """

    def norm(x, at):
        fields = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, bias = (np.float64(state[f"{at}.{field}"])[:, None, None] for field in fields)
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def layer(x, conv, bn, stride=1):
        kernel = state[f"{conv}.weight"]
        return norm(convolve(x, kernel, stride, kernel.shape[2] // 2), bn)

    image = np.pad(np.float64(bgr), ((3, 3), (3, 3), (0, 0)), constant_values=127.5)
    image = ((image[..., ::-1] / 255 - MEAN) / STD).transpose(2, 0, 1)
    x = np.maximum(norm(convolve(image, state["conv1.weight"], 2, 0), "bn1"), 0)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))  # zeros never exceed a rectified map
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
    convs = 3 if name == "resnet50" else 2
    for stage, blocks in enumerate(BLOCKS[name]):
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            stride = 2 if block == 0 and (stage in (1, 2) or (stage == 3 and variant == "standard")) else 1
            y = x
            for index in range(1, convs + 1):
                strided = stride if index == (2 if convs == 3 else 1) else 1
                y = layer(y, f"{at}.conv{index}", f"{at}.bn{index}", strided)
                y = np.maximum(y, 0) if index < convs else y
            if f"{at}.downsample.0.weight" in state:
                x = layer(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = np.maximum(x + y, 0)
    return (x[:, :7, :7] if variant == "authors" else x).mean(axis=(1, 2))


def test_the_reference_convolves_as_scipy_does():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 9, 8)), rng.standard_normal((3, 2, 3, 3))
    expected = [sum(signal.correlate2d(a, b, "same") for a, b in zip(x, k)) for k in kernel]
    np.testing.assert_allclose(convolve(x, kernel, 1, 1), expected, atol=1e-12)
    np.testing.assert_allclose(convolve(x, kernel, 2, 1), np.array(expected)[:, ::2, ::2], atol=1e-12)


def nested(state):
    return {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}


SAVES = {
    ".pth": save_zip,
    ".pth.tar": lambda path, state: save_legacy(path, nested(state)),
    ".pt": lambda path, state: save_zip(path, {"model": state}),
    ".safetensors": lambda path, state: safetensors.numpy.save_file(state, path),
}


def config_with(path, name, variant, width):
    return tiny_config(
        **{
            "regressor.name": name,
            "regressor.variant": variant,
            "regressor.width": width,
            "regressor.pretrained": str(path),
        }
    )


@pytest.mark.parametrize(
    "name, variant, suffix",
    [
        ("resnet18", "standard", ".safetensors"),
        ("resnet18", "authors", ".pth"),
        ("resnet18", "authors", ".pt"),
        pytest.param("resnet50", "authors", ".pth.tar", marks=pytest.mark.slow),
        pytest.param("resnet50", "standard", ".safetensors", marks=pytest.mark.slow),
    ],
)
def test_a_new_state_has_the_original_networks_features_for_any_heatmap(tmp_path, name, variant, suffix):
    state, path = torch_state(name), tmp_path / f"weights{suffix}"
    SAVES[suffix](path, state)
    config = config_with(path, name, variant, 1.0)
    spec = builder.build_stages(config)[0].spec
    backbone = pretrained.for_new_run(config, tmp_path / "checkpoints", spec.regressor)
    net = create_train_state(spec, config.seed, backbone).regressor
    fresh = create_train_state(spec, config.seed).regressor
    helpers_model.assert_identical(net.params["head"], fresh.params["head"])
    assert jax.tree.map(jnp.shape, net) == jax.tree.map(jnp.shape, fresh)

    rng = np.random.default_rng(5)
    head = rng.standard_normal((len(net.params["head"]["kernel"]), 62)).astype("f4")  # a new head is 0
    params = net.params | {"head": {"kernel": head, "bias": np.zeros(62, "f4")}}
    images, heatmap = rng.uniform(0, 255, (1, 120, 120, 3)), rng.uniform(-1, 1, (1, 120, 120, 1))
    inputs = np.concatenate([(images - 127.5) / 128, heatmap], axis=-1).astype("f4")
    network = spec.regressor.clone(axis_name=None)
    found = jax.jit(network.apply)({"params": params, "batch_stats": net.batch_stats}, inputs)
    expected = reference_features(state, name, images[0], variant) @ head
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found[0], expected, atol=2e-5 * np.abs(expected).max())


def test_layers_that_a_resnet_lacks_are_not_converted():
    network = Regressor("resnet10", "keypoints", 0.125, heatmap_mlp_width=8)
    found = pretrained.convert(torch_state("resnet10", 8), network)
    blocks = {f"stage{stage}_block1" for stage in (1, 2, 3, 4)}
    assert set(found["params"]) == set(found["batch_stats"]) | {"conv_stem"} == blocks | {"conv_stem", "norm_stem"}


@pytest.mark.parametrize(
    "name, tensor, message",
    [
        ("layer2.0.bn1.running_mean", None, "layer2.0.bn1.running_mean is missing"),
        ("layer1.0.se.weight", np.zeros(3), "holds layer1.0.se.weight, which torchvision's resnet10 lacks"),
        ("conv1.weight", np.zeros((8, 4, 7, 7)), r"conv1.weight has shape \(8, 4, 7, 7\), expected \(8, 3, 7, 7\)"),
        ("conv1.weight", np.zeros((8, 3, 7, 7), bool), "conv1.weight is of type bool"),
    ],
    ids=["missing", "extra", "shape", "type"],
)
def test_another_network_is_a_config_error_that_names_the_difference(tmp_path, name, tensor, message):
    state = torch_state("resnet10", 8) | {name: tensor}
    state = {name: value for name, value in state.items() if value is not None}
    safetensors.numpy.save_file(state, tmp_path / "w.safetensors")
    config = config_with(tmp_path / "w.safetensors", "resnet10", "standard", 0.125)
    network = builder.build_stages(config)[0].spec.regressor
    with pytest.raises(ConfigError, match=message) as error:
        pretrained.for_new_run(config, tmp_path / "none", network)
    assert "config.regressor.pretrained" in str(error.value) and "w.safetensors" in str(error.value)
    assert "config.regressor.name" in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"hello" * 99, "cut"], ids=["missing", "empty", "text", "cut"])
def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    if content == "cut":
        SAVES[suffix](path, torch_state("resnet10", 8))
        content = path.read_bytes()[:-100]
    if content is not None:
        path.write_bytes(content)
    config = config_with(path, "resnet10", "standard", 0.125)
    with pytest.raises(ConfigError, match=f"config.regressor.pretrained: .*w{suffix}"):
        pretrained.for_new_run(config, tmp_path / "none", builder.build_stages(config)[0].spec.regressor)


def test_a_file_without_tensors_is_a_config_error(tmp_path):
    save_zip(tmp_path / "w.pth", {"epoch": 3, "state_dict": {}})
    config = config_with(tmp_path / "w.pth", "resnet10", "standard", 0.125)
    with pytest.raises(ConfigError, match="w.pth: no tensors at its top level or under state_dict"):
        pretrained.for_new_run(config, tmp_path / "none", builder.build_stages(config)[0].spec.regressor)


@pytest.mark.slow
def test_training_starts_from_the_file_and_resumes_without_it(tmp_path):
    path, state = tmp_path / "w.safetensors", torch_state("resnet10", 8)
    safetensors.numpy.save_file(state, path)
    tiny = {
        "regressor.pretrained": str(path),
        "stage1.steps": 2,
        "stage2.steps": 0,
        "run.stop_after": 1,
        "stage1.learning_rate": 1e-30,
        "stage1.final_learning_rate": 1e-30,
    }
    model = helpers_model.tiny_model()
    arguments = tmp_path / "run", tiny_data(model, {}), model
    with pytest.raises(train.Stopped):
        train.train_and_evaluate(tiny_config(**tiny), *arguments)
    path.unlink()
    final = train.train_and_evaluate(tiny_config(**tiny | {"run.stop_after": 0}), *arguments)
    assert int(final.step) == 2
    for block, layer in (("stage1_block1", "layer1.0"), ("stage4_block1", "layer4.0")):
        kernel = np.asarray(final.regressor.params[block]["conv2"]["kernel"])
        np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), state[f"{layer}.conv2.weight"])
    with pytest.raises(CheckpointError, match="regressor.pretrained"):
        train.train_and_evaluate(tiny_config(**tiny | {"regressor.pretrained": ""}), *arguments)
