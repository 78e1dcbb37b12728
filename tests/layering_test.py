"""The order of the modules, read from their import statements; and what importing them does not do."""

import ast
import json
import pathlib

import pytest
from helpers_run import ROOT, run_python

# Low to high: packages, and the modules at the top of `twodal_jax`. Each may import what comes before it, and itself.
LAYERS = (
    "twodal_jax.distributed",
    "twodal_jax.geometry",
    "twodal_jax.io",
    "twodal_jax.runtime",
    "twodal_jax.losses",
    "twodal_jax.models",
    "twodal_jax.forward",
    "twodal_jax.rendering",
    "twodal_jax.face_models",
    "twodal_jax.training",
    "twodal_jax.checkpointing",
    "twodal_jax.detection",
    "twodal_jax.evaluation",
    "twodal_jax.export",
    "twodal_jax.viewer",
    "twodal_jax.reconstruction",
    "twodal_jax.reporting",
    "twodal_jax.train",
    "data_pipelines.storage",
    "data_pipelines.sources",
    "data_pipelines.loading",
    "data_pipelines.preparation",
    "data_pipelines.test_sets",
    "data_pipelines.training_data",
    "twodal_jax.main",
)
# What a module of data_pipelines may see of training: training_data hands it what it opened.
FEEDS_TRAINING = "data_pipelines.training_data"
HIGH = ("twodal_jax.training.state", "twodal_jax.training.step", "twodal_jax.train", "twodal_jax.checkpointing.manager")


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in ("twodal_jax", "data_pipelines")
    for path in sorted((ROOT / package).rglob("*.py"))
}
OWN = {name: path for name, path in MODULES.items() if name.startswith("twodal_jax")}


def imported(name: str) -> set[str]:
    """Absolute names of everything a module imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def layer(name: str) -> int | None:
    """Place in LAYERS of a module or of the package it is in; None for the bare package."""
    for place, known in enumerate(LAYERS):
        if name == known or name.startswith(known + "."):
            return place
    return None


def test_every_module_has_a_layer():
    without = [name for name in MODULES if layer(name) is None and "." in name]
    assert not without, f"Add to LAYERS where they belong: {without}"


@pytest.mark.parametrize("name", sorted(OWN))
def test_imports_go_downward_only(name):
    place = layer(name)
    for other in imported(name):
        above = layer(other)
        if other in MODULES and above is not None and place is not None:
            assert above <= place, f"{name} imports {other}, which stands above it"


def test_packages_have_no_circles():
    graph = {name: imported(name) & MODULES.keys() for name in MODULES}
    done, walking = set(), []

    def visit(name):
        if name in walking:
            pytest.fail(f"circle: {' -> '.join([*walking[walking.index(name) :], name])}")
        if name in done:
            return
        walking.append(name)
        for other in graph[name]:
            visit(other)
        walking.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("name", sorted(OWN))
def test_the_package_never_imports_tensorflow_or_pytorch(name):
    roots = {other.split(".")[0] for other in imported(name)}
    assert not roots & {"tensorflow", "tensorflow_datasets", "torch", "array_record"}


def test_data_pipelines_know_only_the_low_layers_but_for_the_one_that_feeds_training():
    for name in MODULES:
        if name.startswith("data_pipelines") and name != FEEDS_TRAINING:
            assert not imported(name) & set(HIGH), name


def test_tensorflow_is_imported_inside_functions_only():
    for name in MODULES:
        tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
                assert not any(n.split(".")[0] == "tensorflow" for n in names), name


def test_importing_every_module_starts_no_backend_and_says_nothing(tmp_path):
    names = [name for name in MODULES if not name.endswith("__main__")]
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "from jax._src import xla_bridge\n"
        "print(json.dumps([xla_bridge.backends_are_initialized(), 'tensorflow' in sys.modules]))\n"
    )
    process = run_python("-c", code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-2000:]
    assert json.loads(process.stdout) == [False, False] and process.stderr == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(OWN))
def test_everything_public_has_a_docstring(name):
    tree = ast.parse(OWN[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name}: the module itself"
    public = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not public, f"{name}: {public}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_files_are_short_enough_to_read(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 360
