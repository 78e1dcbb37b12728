"""The order of the packages, read from their import statements; and what importing them must not do."""

import ast
import graphlib
import json

from helpers_run import ROOT, run_python

# From low to high: packages, and the modules at the top of `twodal_jax`. Each may import itself and what precedes it.
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
    "twodal_jax.cli",
)
# The modules of training, which only `data_pipelines.training_data` may import in data_pipelines.
TRAINING = {"twodal_jax.training.state", "twodal_jax.training.step", "twodal_jax.train"}
TRAINING |= {"twodal_jax.checkpointing.manager"}
FRAMEWORKS = {"tensorflow", "tensorflow_datasets", "torch", "array_record"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = [path for package in ("twodal_jax", "data_pipelines") for path in sorted((ROOT / package).rglob("*.py"))]
TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in PATHS}


def imported(name: str, statements) -> set[str]:
    """Absolute names of everything that statements of a module import."""
    found = set()
    for node in statements:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {whole if whole in TREES else node.module for whole in names}
    return found


IMPORTS = {name: imported(name, ast.walk(tree)) for name, tree in TREES.items()}


def layer(name: str) -> int | None:
    """Index in LAYERS of a module's package; None for `twodal_jax` and `data_pipelines` themselves."""
    return next((i for i, known in enumerate(LAYERS) if name == known or name.startswith(known + ".")), None)


def test_every_module_has_a_layer():
    assert not [name for name in TREES if layer(name) is None and "." in name]


def test_imports_go_downward_only():
    upward = [
        f"{name} imports {other}"
        for name in TREES
        for other in sorted(IMPORTS[name] & TREES.keys())
        if None not in (layer(name), layer(other)) and layer(other) > layer(name)
    ]
    assert not upward


def test_modules_have_no_circular_imports():
    graphlib.TopologicalSorter({name: IMPORTS[name] & TREES.keys() for name in TREES}).prepare()  # raises CycleError


def test_the_package_never_imports_tensorflow_or_pytorch():
    roots = {name: {other.split(".")[0] for other in IMPORTS[name]} for name in TREES if name.startswith("twodal_jax")}
    assert not [name for name in roots if roots[name] & FRAMEWORKS]


def test_data_pipelines_import_tensorflow_inside_functions_only():
    top_level = {name: imported(name, tree.body) for name, tree in TREES.items()}
    assert not [name for name in TREES if any(other.split(".")[0] == "tensorflow" for other in top_level[name])]


def test_data_pipelines_do_not_import_training_but_in_one_module():
    others = [name for name in TREES if name.startswith("data_pipelines") and name != "data_pipelines.training_data"]
    assert not [name for name in others if IMPORTS[name] & TRAINING]


def test_importing_every_module_starts_no_backend_and_prints_nothing(tmp_path):
    code = (
        "import importlib, json, sys\n"
        f"for name in {list(TREES)!r}: importlib.import_module(name)\n"
        "from jax._src import xla_bridge\n"
        "print(json.dumps([xla_bridge.backends_are_initialized(), 'tensorflow' in sys.modules]))\n"
    )
    process = run_python("-c", code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-2000:]
    assert json.loads(process.stdout) == [False, False] and process.stderr == ""
    assert not list(tmp_path.iterdir())


def test_importing_the_top_package_imports_neither_jax_nor_what_it_offers():
    code = "import sys, twodal_jax; print('jax' in sys.modules, twodal_jax.Reconstructor.__name__, twodal_jax.__all__)"
    process = run_python("-c", code)
    assert process.stdout.strip() == "False Reconstructor ['Reconstructor', '__version__', 'load']", process.stderr
