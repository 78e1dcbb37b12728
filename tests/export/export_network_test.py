"""twodal_jax.export.network: exported files, read in a new process, agree with the network in evaluation."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import types

import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_run import ROOT, run_python

from scripts import export_network as command
from twodal_jax import forward
from twodal_jax.export import network as files, portable
from twodal_jax.models.resnet import Regressor
from twodal_jax.training.state import NetState


def trained(arch: str = "resnet10"):
    """The used parts of a TrainedModel, of a tiny network. No weight is 0 or 1, so that a missing one shows."""
    network = Regressor(arch, "standard", 0.125, axis_name="devices", heatmap_mlp_width=8)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 120, 120, 4)))

    def random(keys, leaf):
        name = keys[-1].key
        size = np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        size = 30 * size if keys[-2].key == "head" else size  # so that faces differ clearly
        around = 1.0 if name in ("scale", "var") else 0.0
        return (around + size * rng.uniform(-1, 1, leaf.shape)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(random, shapes)
    return types.SimpleNamespace(
        spec=helpers_model.tiny_spec().replace(regressor=network),
        model=helpers_model.tiny_model(),
        step=7,
        regressor=NetState(variables["params"], variables["batch_stats"], None),
    )


def faces(count: int, seed: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "images": helpers_model.smooth_images(rng, count),
        "landmarks": rng.uniform(5, 115, (count, 18, 2)).astype(np.float32),
        "visible": (rng.uniform(size=(count, 18)) < 0.7).astype(np.float32),
    }


def evaluated(found, batch: dict[str, np.ndarray], passes: int = 1):
    """alpha and landmarks of the network in evaluation (not through `portable`)."""
    result = forward.predict_batch(
        found.regressor.variables,
        *batch.values(),
        found.model,
        network=found.spec.regressor,
        settings=found.spec.heatmap,
        passes=passes,
    )
    return np.asarray(result.alpha), np.asarray(result.landmarks)


def check_batches(found, true) -> None:
    """Compares the results for one face and for three with the true alpha and landmarks of three."""
    for count in (1, 3):
        np.testing.assert_allclose(found[f"alpha{count}"], true[0][:count], atol=1e-4)
        np.testing.assert_allclose(found[f"landmarks{count}"], true[1][:count], atol=1e-4)
    assert np.ptp(true[0], axis=0).max() > 1, "the faces must differ for this to say anything"


@pytest.fixture(scope="module")
def one():
    return trained()


def test_saved_weights_give_the_same_result_as_evaluation(one, tmp_path):
    network = portable.from_trained(one, passes=2)
    found = portable.load_npz(portable.save_npz(tmp_path / "network.npz", network))
    batch = faces(3)
    batch["landmarks"][batch["visible"] == 0] = np.nan
    for own, true in zip(jax.jit(found.__call__)(*batch.values()), evaluated(one, batch, passes=2)):
        np.testing.assert_allclose(own, true, atol=1e-4)
    assert found.about == network.about and network.about["step"] == 7


def test_settings_are_saved(one, tmp_path):
    network = portable.from_trained(one)
    network = dataclasses.replace(
        network,
        regressor=Regressor("resnet50", "authors", 0.25, jnp.bfloat16, None, 0),
        heatmap=forward.HeatmapSettings("points", 3.5, False),
        passes=2,
    )
    found = portable.load_npz(portable.save_npz(tmp_path / "n.npz", network))
    assert (found.regressor, found.heatmap, found.passes) == (network.regressor, network.heatmap, 2)
    assert portable.in_float32(found).regressor == Regressor("resnet50", "authors", 0.25)
    helpers_model.assert_identical(found.variables, network.variables)
    helpers_model.assert_identical(found.arrays, network.arrays)


READ_IN_NEW_PROCESS = """
import sys, numpy as np
from twodal_jax.export.network import load_stablehlo
network = load_stablehlo(sys.argv[1])
content = dict(np.load(sys.argv[2]))
results = {}
for count in (1, 3):
    alpha, landmarks = network(*(content[name][:count] for name in ("images", "landmarks", "visible")))
    results |= {f"alpha{count}": alpha, f"landmarks{count}": landmarks}
np.savez(sys.argv[3], **results)
assert not [name for name in sys.modules if name.split(".")[0] in ("orbax", "optax", "cv2")]
"""


def test_stablehlo_in_a_new_process_agrees_for_every_batch_size(one, tmp_path):
    path, beside = files.export_stablehlo(portable.from_trained(one), tmp_path / "network.stablehlo")
    batch = faces(3)
    np.savez(tmp_path / "faces.npz", **batch)
    process = run_python("-c", READ_IN_NEW_PROCESS, path, tmp_path / "faces.npz", tmp_path / "out.npz")
    assert process.returncode == 0, process.stderr[-2000:]
    check_batches(np.load(tmp_path / "out.npz"), evaluated(one, batch))
    about = json.loads(beside.read_text())
    assert about["platforms"] == ["cpu", "cuda", "tpu"] and about["network"]["passes"] == 1
    assert [i["shape"] for i in about["inputs"]] == [["b", 120, 120, 3], ["b", 18, 2], ["b", 18]]
    assert [o["name"] for o in about["outputs"]] == ["alpha", "landmarks68"]
    assert sorted(path.name for path in tmp_path.glob("network*")) == [path.name, beside.name]


def operations(network, platform, batch):
    """{operation: [operand types, ...]} of the convolutions and products in the program exported for one platform."""
    shapes = network.input_shapes(batch).values()
    text = str(jax.export.export(jax.jit(lambda *x: network(*x)), platforms=[platform])(*shapes).mlir_module())
    found = {"convolution": [], "dot_general": []}
    for name, operands in re.findall(r"stablehlo\.(convolution|dot_general)\W.*? : \((.*?)\) ->", text):
        found[name].append(operands)
    return found


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_programs_for_accelerators_exported_on_a_cpu_have_plain_convolutions(platform):
    """The network is wide enough for Winograd's 3x3 convolutions on a CPU."""
    network = Regressor("resnet50", "authors", 1.0)
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32),
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 120, 120, 4))),
    )
    kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    plain = dataclasses.replace(portable.from_trained(trained()), regressor=network, variables=variables)
    found = operations(plain, platform, 4)
    written = sorted(
        tuple(map(int, re.findall(r"tensor<([\dx]+)xf32>", types)[1].split("x"))) for types in found["convolution"]
    )
    assert written == sorted(kernels)
    on_cpu = operations(plain, "cpu", 4)
    threes = sum(shape[0] == 3 for shape in kernels)
    assert len(on_cpu["convolution"]) < 1 + threes, "the stem, and 3x3 ones that are not Winograd's"
    products = len(on_cpu["dot_general"]) - len(found["dot_general"])
    assert products > sum(shape[0] == 1 for shape in kernels), "one for each 1x1 convolution, and Winograd's"


@pytest.fixture(scope="module")
def exported(one, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "network.stablehlo"
    files.export_stablehlo(portable.from_trained(one), path, platforms=["cpu"])
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": np.zeros((2, 120, 120, 3), np.float32)}, "`images` as uint8"),
        ({"images": np.zeros((2, 128, 128, 3), np.uint8)}, "`images` of shape"),
        ({"images": np.zeros((0, 120, 120, 3), np.uint8)}, "at least 1 face in `images`, got a batch of 0"),
        ({"landmarks": np.zeros((2, 68, 2))}, "`landmarks` of shape"),
        ({"visible": np.zeros((3, 18))}, "`visible` of shape"),
    ],
)
def test_invalid_arguments_are_named(exported, change, message):
    network = files.load_stablehlo(exported)
    assert network.platforms == ("cpu",)
    with pytest.raises(ValueError, match=message):
        network(**faces(2) | change)


@pytest.mark.parametrize(
    "keep_json, damage",
    [
        (True, lambda data: data[:-1]),
        (True, lambda data: data[: len(data) // 2]),
        (True, lambda data: b""),
        (False, lambda data: data[: len(data) // 2]),
        (False, lambda data: b""),
        (False, lambda data: b"hello" * 99),
    ],
)
def test_a_damaged_file_is_one_message(exported, tmp_path, keep_json, damage):
    path = tmp_path / exported.name
    path.write_bytes(damage(exported.read_bytes()))
    if keep_json:
        shutil.copy(exported.with_name(f"{exported.name}.json"), tmp_path)
    with pytest.raises(portable.NetworkFileError, match=path.name):
        files.load_stablehlo(path)


def test_missing_and_foreign_weights_are_one_message(tmp_path, one):
    with pytest.raises(portable.NetworkFileError, match="no such file"):
        portable.load_npz(tmp_path / "none.npz")
    with pytest.raises(portable.NetworkFileError, match="no such file"):
        files.load_stablehlo(tmp_path / "none")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(portable.NetworkFileError, match="not a network that this program wrote"):
        portable.load_npz(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", description=np.array([{"a": 1}], object))
    with pytest.raises(portable.NetworkFileError, match="pickled.npz: not a network"):
        portable.load_npz(tmp_path / "pickled.npz")
    whole = portable.save_npz(tmp_path / "n.npz", portable.from_trained(one)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-99])
    with pytest.raises(portable.NetworkFileError, match="cut.npz: not a network"):
        portable.load_npz(tmp_path / "cut.npz")


def test_the_command_writes_stablehlo_from_weights(one, tmp_path, capsys):
    weights = portable.save_npz(tmp_path / "network.npz", portable.from_trained(one))
    command.main([f"--weights={weights}", f"--output_dir={tmp_path / 'out'}", "--format=stablehlo"])
    assert "network.stablehlo" in capsys.readouterr().err
    assert files.load_stablehlo(tmp_path / "out/network.stablehlo").platforms == files.PLATFORMS


def test_without_jax2onnx_the_command_gives_the_install_command(one, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_network", lambda options: portable.from_trained(one))
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        command.main(["--checkpoint=runs/a", f"--output_dir={tmp_path}", "--format=onnx"])
    message = stopped.value.code
    assert "pip install -r requirements-onnx.txt" in message and (ROOT / "requirements-onnx.txt").is_file()
    assert f"--weights={tmp_path / 'network.npz'} --output_dir={tmp_path} --format=onnx" in message
    assert portable.load_npz(tmp_path / "network.npz").about["step"] == 7


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--checkpoint={0}/none", "--format=stablehlo"], "is not the --workdir of a run of twodal_jax.main"),
        (["--weights={0}/none.npz", "--format=stablehlo"], "none.npz: no such file"),
    ],
)
def test_failures_of_the_command_are_one_message(tmp_path, arguments, message):
    given = [argument.format(tmp_path) for argument in arguments]
    with pytest.raises(SystemExit, match=message):
        command.main([*given, f"--output_dir={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_help_does_not_import_jax():
    code = (
        "import sys\n"
        "from scripts import export_network\n"
        "try: export_network.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'numpy'} & set(sys.modules)\n"
    )
    process = run_python("-c", code)
    assert process.returncode == 0 and "--checkpoint" in process.stdout, process.stderr


RUN_ONNX = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
content = dict(np.load(sys.argv[2]))
results = {}
for count in (1, 3):
    batch = {name: array[:count] for name, array in content.items()}
    alpha, landmarks = session.run(["alpha", "landmarks68"], batch)
    results |= {f"alpha{count}": alpha, f"landmarks{count}": landmarks}
np.savez(sys.argv[3], **results)
"""


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2])
def test_onnx_in_onnxruntime_agrees_with_evaluation(tmp_path, passes):
    """Needs an environment with requirements-onnx.txt; TWODAL_ONNX_PYTHON is its python."""
    python = os.environ.get("TWODAL_ONNX_PYTHON")
    if not python:
        pytest.skip("set TWODAL_ONNX_PYTHON to the python of an environment with requirements-onnx.txt")
    assert pathlib.Path(python).is_file(), f"TWODAL_ONNX_PYTHON={python}: no such file"
    one = trained("resnet18")
    weights = portable.save_npz(tmp_path / "network.npz", portable.from_trained(one, passes=passes))
    batch = faces(3)
    np.savez(tmp_path / "faces.npz", **batch)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    for arguments in (
        ["-m", "scripts.export_network", f"--weights={weights}", f"--output_dir={tmp_path}", "--format=onnx"],
        ["-c", RUN_ONNX, tmp_path / "network.onnx", tmp_path / "faces.npz", tmp_path / "out.npz"],
    ):
        done = subprocess.run(
            [python, *map(str, arguments)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=800
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "nitializer" not in done.stderr, "onnxruntime warns of initialisers that no node uses"
    check_batches(np.load(tmp_path / "out.npz"), evaluated(one, batch, passes))
    assert json.loads((tmp_path / "network.onnx.json").read_text())["format"].startswith("ONNX")
