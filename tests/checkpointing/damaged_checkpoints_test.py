"""Checkpoints with damaged files: reported, skipped, never restored."""

import json
import pathlib
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers_checkpoint import DESCRIPTION, state
from helpers_model import assert_identical

from twodal_jax.checkpointing import format as checkpoint_format
from twodal_jax.checkpointing.manager import CheckpointError, Checkpoints


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A folder with the checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("intact") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(state(step, seed=step), DESCRIPTION, wait=True)
    return folder


@pytest.fixture
def folder(intact, tmp_path):
    return pathlib.Path(shutil.copytree(intact, tmp_path / "checkpoints"))


def restored(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(state(), DESCRIPTION)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def damages(content: bytes, rng: np.random.Generator) -> dict[str, bytes | None]:
    """{damage: the file's content with it, None for a deleted file}."""
    found = {
        "deleted": None,
        "empty": b"",
        "one byte short": content[:-1],
        "half": content[: len(content) // 2],
        "one byte longer": content + b"\0",
        "zeros": bytes(len(content)),
    }
    for bit in {0, 8 * len(content) - 1, *rng.integers(0, 8 * len(content), 2).tolist()}:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        found[f"bit {bit} flipped"] = bytes(changed)
    return {name: new for name, new in found.items() if new != content}


def test_any_damage_to_any_file_is_reported_and_the_previous_checkpoint_restored(folder, capsys):
    rng = np.random.default_rng(0)
    paths = sorted(path for path in (folder / "4").rglob("*") if path.is_file())
    assert len(paths) >= 5 and any("manifest" in path.name for path in paths)
    for path in paths:
        content = path.read_bytes()
        for name, new in damages(content, rng).items():
            path.unlink() if new is None else path.write_bytes(new)
            what = f"{path.relative_to(folder)}: {name}"
            assert_identical(restored(folder), state(2, seed=2))
            report = capsys.readouterr().err
            assert f"{folder / '4'}: this checkpoint is damaged: " in report, what
            assert path.relative_to(folder / "4").as_posix() in report, f"{what}: {report}"
            assert f"resuming from the previous checkpoint: {folder / '2'}" in report, what
            assert names(folder) == ["2", "4.damaged"], what
            (folder / "4.damaged").rename(folder / "4")
            path.write_bytes(content)
    assert_identical(restored(folder), state(4, seed=4))  # every damage was undone


@pytest.mark.parametrize("lost", [".", "state", "state/d"])
def test_a_lost_folder_is_damage(folder, lost, capsys):
    shutil.rmtree(folder / "4" / lost)
    (folder / "4").mkdir(exist_ok=True)
    assert restored(folder).step == 2
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize("restore_first", [True, False])
def test_a_damaged_checkpoint_is_kept_aside_when_its_step_is_saved_again(folder, restore_first):
    (folder / "4" / "manifest.jsonl").unlink()
    with Checkpoints(folder) as checkpoints:
        if restore_first:
            checkpoints.restore(state(), DESCRIPTION)
        checkpoints.save(state(4, seed=4), DESCRIPTION)
    assert_identical(restored(folder), state(4, seed=4))
    assert names(folder) == ["2", "4", "4.damaged"]


def test_damaged_checkpoints_only_are_an_error_and_stay(folder):
    (folder / "4" / "manifest.jsonl").unlink()
    shutil.rmtree(folder / "2" / "state")
    for _ in range(2):
        with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError) as error:
            checkpoints.resume(state(0), DESCRIPTION)
        message = str(error.value)
        assert "damaged checkpoints only" in message
        assert "4: manifest.jsonl is missing" in message and "2: state/" in message
        assert names(folder) == ["2", "4"]


def test_a_folder_with_only_damaged_checkpoints_moved_aside_is_not_a_new_run(folder):
    shutil.rmtree(folder / "2")
    (folder / "4").rename(folder / "4.damaged")
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match="4.damaged"):
        checkpoints.resume(state(0), DESCRIPTION)


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(folder, capsys):
    (folder / "4").rename(folder / "5")
    assert restored(folder).step == 2
    assert "its state is of step 4" in capsys.readouterr().err


def test_arrays_are_verified_and_not_only_files(folder, capsys):
    """The files of another state, and a manifest with a correct hash and no hashes of files."""
    step = folder / "4"
    shutil.rmtree(step / "state")
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(step / "state", args=ocp.args.StandardSave(state(4, seed=5)))
    content = json.loads((step / "manifest.jsonl").read_text().splitlines()[1])
    body = json.dumps(content | {"files": {}}) + "\n"
    (step / "manifest.jsonl").write_text(checkpoint_format._hash_line(body) + body)
    assert restored(folder).step == 2
    assert "the array " in capsys.readouterr().err


def test_a_changed_description_is_damage(folder, capsys):
    path = folder / "4" / "manifest.jsonl"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert restored(folder).step == 2
    assert "manifest.jsonl is not as it was written" in capsys.readouterr().err
