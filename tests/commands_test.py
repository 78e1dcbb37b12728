"""Every command of the documentation exists and has valid flags; every config trains for two steps."""

import argparse
import ast
import csv
import importlib
import importlib.util
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import sys
import textwrap

import cv2
import helpers_model  # adds the network resnet10
import numpy as np
import pytest
from absl import flags
from helpers_run import ROOT
from ml_collections import config_flags

from configs import paper
from data_pipelines.sources.joined import split_folders
from twodal_jax import cli, main
from twodal_jax.distributed import cluster
from twodal_jax.training import builder

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Beginnings of commands that cannot be checked here. Of a launcher, the command of ours after it is checked.
UNCHECKED = {
    "srun": "needs a SLURM cluster",
    "mpirun": "needs Open MPI",
    "gcloud": "needs a Google Cloud account",
    "ruff": "not installed with the tests",
    "pip install ruff": "any version will do",
}
# Beginnings of commands that run here, in this order, in a folder with the files of `workspace`.
RUN = (
    "python -m scripts.prepare_data wild_csv --input=my_faces",
    "python -m scripts.prepare_data verify",
    "python -m scripts.prepare_data synthetic_annotated --output=data/faces",
    "python -m scripts.prepare_data profile --input=data/faces",
    "python -m scripts.show_batch",
    "python -m scripts.run_ablation --config=configs/aflw.py --workdir=runs/ablation --tune --seeds=0,1,2 --dry_run",
)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(VENV)", ".venv")


def code_blocks(page, language):
    """The texts of a page's fenced blocks of a language, without their indentation."""
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [textwrap.dedent(block) for block in blocks]


def commands_of(page):
    """The commands of a page's sh blocks; continued lines are joined, comments and a final & removed."""
    lines = "\n".join(code_blocks(page, "sh")).replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines)
    return [shlex.join(found[:-1] if found[-1] == "&" else found) for found in words if found]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))


def own_command(command):
    """(module, arguments) of `python -m MODULE ...` in a command, also after a launcher, or of `twodal NAME ...`;
    None where there is none.
    """
    if command.startswith("twodal "):
        name, *arguments = shlex.split(command)[1:]
        return cli.COMMANDS[name][0], arguments
    found = re.search(r"python -m ([\w.]+)(.*)", command.replace("'", "") if command.startswith("gcloud") else command)
    return found and (found[1], shlex.split(found[2]))


class Parsed(BaseException):
    """Raised after argparse has accepted a command line, before the command does anything."""


def run_module(module, arguments, monkeypatch):
    """Runs `python -m MODULE ARGUMENTS` in this process -> its exit status."""
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))  # commands add to it
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code or 0
    return 0


def check_argparse(module, arguments, monkeypatch):
    """Parses with the command's own parser; --help runs to its end."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_only(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    try:
        status = run_module(module, arguments, monkeypatch)
    except Parsed:
        return
    assert status == 0 and "--help" in arguments


def check_training(arguments):
    """Builds the config with all overrides: each field must exist and accept its value."""
    names = {flag.name for flag in flags.FLAGS.get_flags_for_module("twodal_jax.main")}
    assert names == {"config", "workdir"}
    values = flags.FlagValues()
    argv = ["main", *map(main.with_config_path, arguments)]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    assert values(argv) == ["main"] and values.workdir
    assert builder.build_stages(holder.value)
    cluster.group_of(holder.value.distributed, {})


def check_absl(module, arguments):
    """Each flag is one of the module's and accepts its value."""
    importlib.import_module(module)
    known = {flag.name: flag for flag in flags.FLAGS.get_flags_for_module(module)}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        known[name].parser.parse(value)


def check_pytest(arguments):
    paths = [ROOT / argument for argument in arguments if argument.endswith(".py")]
    assert paths and all(path.is_file() for path in paths)
    if "-k" in arguments:
        chosen = arguments[arguments.index("-k") + 1]
        assert any(re.search(rf"def test_\w*{chosen}", path.read_text(encoding="utf-8")) for path in paths)


def check_module(module, arguments, monkeypatch):
    if module == "pytest":
        return check_pytest(arguments)
    source = importlib.util.find_spec(module).origin
    for argument in arguments:
        for path in re.findall(r"configs/\w+\.py", argument):
            assert (ROOT / path).is_file()
    if module == "twodal_jax.main":
        check_training(arguments)
    elif "flags.DEFINE" in pathlib.Path(source).read_text(encoding="utf-8"):
        check_absl(module, arguments)
    else:
        check_argparse(module, arguments, monkeypatch)


def check_make(arguments):
    variables = [argument.partition("=")[0] for argument in arguments if "=" in argument]
    targets = [argument for argument in arguments if "=" not in argument]
    assert all(re.search(rf"^{name} \?=", MAKEFILE, re.M) for name in variables)
    assert targets and all(re.search(rf"^{re.escape(name)}:", MAKEFILE, re.M) for name in targets)


def check_pip(arguments):
    """A requirements file exists; requirements.txt has a package, in its pinned version; extras are the package's."""
    if arguments[0] == "-r":
        assert (ROOT / arguments[1]).is_file()
    elif arguments[0].startswith("."):
        assert arguments[0] == "." or arguments[0][2:-1] in cli.EXTRAS.values()
    else:
        pin = re.sub(r"\[\w+\]", "", arguments[0])
        assert re.search(rf"^{re.escape(pin)}(==|;|\s)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_exists_and_has_valid_flags(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    if found := own_command(command):
        check_module(*found, monkeypatch)
        return
    if any(command.startswith(beginning) for beginning in UNCHECKED):
        return
    program, *arguments = shlex.split(command)
    if program == "make":
        check_make(arguments)
    elif program == "pip":
        assert arguments[0] == "install"
        check_pip(arguments[1:])
    else:
        assert command in (". .venv/bin/activate", "python3 -m venv .venv"), "add a check, or a reason to UNCHECKED"


@pytest.mark.parametrize("beginning", [*UNCHECKED, *RUN])
def test_each_listed_command_is_on_a_page(beginning):
    assert any(command.startswith(beginning) for command in COMMANDS)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with configs/ and my_faces/, two crops with a table of 21 points."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "my_faces" / "images").mkdir(parents=True)
    points = np.random.default_rng(0).uniform(20, 100, (2, 42)).round(1)
    with open(folder / "my_faces" / "landmarks.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", *(f"{axis}{k}" for k in range(21) for axis in "xy")])
        for number, row in enumerate(points):
            image = helpers_model.smooth_images(np.random.default_rng(number), 1)[0]
            cv2.imwrite(str(folder / "my_faces" / "images" / f"{number}.png"), image)
            table.writerow([f"{number}.png", *row])
    return folder


def test_the_documented_preparation_of_own_faces_and_the_dry_run_succeed(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    for beginning in RUN:
        command = next(command for command in COMMANDS if command.startswith(beginning))
        module, arguments = own_command(command)
        prepared = "my_faces" in command or "prepare_data profile" in command
        quick = ["--workers=1", "--format=arrays"] if prepared else []  # without Beam and TensorFlow
        assert run_module(module, [*arguments, *quick], monkeypatch) == 0, capsys.readouterr().err
    assert (workspace / "batch.png").stat().st_size > 0
    assert "final runs: " in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_import_only_what_exists(page):
    for block in code_blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_config_fields_named_in_the_text_exist(page):
    config = paper.get_config()
    for path in re.findall(r"\bconfig\.([a-z][\w.]*\w)", page.read_text(encoding="utf-8")):
        node = config
        for name in [] if path.endswith(("json", "loss_new")) else path.split("."):
            assert name in node, path
            node = node[name]


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_between_pages_lead_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M) if heading else []
        assert not heading or heading in map(anchor, headings), link


CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if "def get_config" in path.read_text())
TINY = {
    "regressor.name": "resnet10",
    "regressor.width": 0.125,
    "critic.width": 0.125,
    "batch_annotated": 2,
    "batch_wild": 2,
    "stage1.steps": 1,
    "stage2.steps": 1,
    "run.log_every": 1,
    "run.evaluation_batch": 2,
    "run.stop_after": 2,  # before the report
}


def copy_few_images(source, folder, table):
    """A few images of a data set with its table: 8 rows of a landmark CSV, or 4 + 2 faces of AFLW2000-3D's splits."""
    (folder / "images").mkdir(parents=True)
    if table == "landmarks21.csv":
        lines = (source / table).read_text(encoding="utf-8").splitlines()[:9]
        (folder / table).write_text("\n".join(lines) + "\n", encoding="utf-8")
        files = [line.split(",")[0] for line in lines[1:]]
    else:
        with np.load(source / table) as content:
            arrays = dict(content)
        rows = np.concatenate([np.flatnonzero(arrays["split"] == s)[:n] for s, n in (("train", 4), ("val", 2))])
        np.savez(folder / table, **{name: values[rows] for name, values in arrays.items()})
        shutil.copy(source / "fan_landmarks.csv", folder)
        files = [f"{name}{suffix}" for name in arrays["name"][rows] for suffix in (".jpg", ".mat")]
    for file in files:
        target = folder / "images" / pathlib.PurePath(file).name
        shutil.copy(next(path for path in (source / file, source / "images" / file) if path.is_file()), target)


def use_few_faces(config, folder):
    """Replaces the data of a config by a few faces: of the data it makes its sets from, else of the built-in model."""
    for number, spec in enumerate(config.data.values()):
        sources = [pathlib.Path(part) for part in split_folders(spec.input)]
        if spec.make and not all(source.exists() for source in sources):
            pytest.skip(f"{spec.input} does not exist; set TWODAL_DATA_DIR")
        if spec.make:
            table = "annotations.npz" if spec.source in ("mat", "profile") else "landmarks21.csv"
            for source in sources:
                if not (folder / source.name).is_dir():
                    copy_few_images(source, folder / source.name, table)
            spec.input = ",".join(str(folder / source.name) for source in sources)
        else:
            config.morphable_model = "builtin"
            spec.update(paper.data_set("", source="synthetic", count=4, seed=number))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_trains_for_two_steps(name, tmp_path):
    from data_pipelines import training_data
    from twodal_jax import train
    from twodal_jax.face_models.load import load_morphable_model

    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(TINY)
    use_few_faces(config, tmp_path)
    model = load_morphable_model(config.morphable_model)
    data, model = training_data.open_training_data(config, tmp_path / "run", model)
    with pytest.raises(train.Stopped):
        train.train_and_evaluate(config, tmp_path / "run", data, model)
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2]
    assert all(np.isfinite(row["loss"]) and not row["skipped"] for row in rows if row["kind"] == "train")
