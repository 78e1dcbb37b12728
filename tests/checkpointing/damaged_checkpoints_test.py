"""Checkpoints whose files were cut short, changed or lost: said, passed by, never restored."""

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
def whole(tmp_path_factory):
    """A folder with the checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(state(step, seed=step), DESCRIPTION, wait=True)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole, tmp_path / "checkpoints"))


def files_of(step: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def damages(content: bytes, rng: np.random.Generator) -> dict[str, bytes | None]:
    """What may befall a file: {name: its content then, or None if it is gone}."""
    found = {
        "deleted": None,
        "empty": b"",
        "one byte short": content[:-1],
        "half": content[: len(content) // 2],
        "one byte longer": content + b"\0",
        "zeros": bytes(len(content)),
    }
    for bit in {0, 8 * len(content) - 1, *rng.integers(0, 8 * len(content), 6).tolist()}:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        found[f"bit {bit} flipped"] = bytes(changed)
    return {name: new for name, new in found.items() if new != content}


def test_any_damage_to_any_one_file_is_said_and_the_checkpoint_before_restored(whole, folder, capsys):
    rng, tried = np.random.default_rng(0), 0
    paths = files_of(folder / "4")
    assert len(paths) >= 5 and any("manifest" in path.name for path in paths)
    for path in paths:
        content = path.read_bytes()
        for name, new in damages(content, rng).items():
            path.unlink() if new is None else path.write_bytes(new)
            with Checkpoints(folder) as checkpoints:
                restored = checkpoints.restore(state(), DESCRIPTION)
            what = f"{path.relative_to(folder)}: {name}"
            assert_identical(restored, state(2, seed=2))
            said = capsys.readouterr().err
            assert f"{folder / '4'}: this checkpoint is damaged: " in said, what
            assert path.relative_to(folder / "4").as_posix() in said, f"{what}: {said}"
            assert f"resuming from the previous checkpoint: {folder / '2'}" in said, what
            assert (folder / "4.damaged").is_dir() and not (folder / "4").exists(), what
            (folder / "4.damaged").rename(folder / "4")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            tried += 1
    print(f"{tried} damages to {len(paths)} files, 0 wrong restores")
    with Checkpoints(folder) as checkpoints:  # each was mended again
        assert_identical(checkpoints.restore(state(), DESCRIPTION), state(4, seed=4))


@pytest.mark.parametrize("lost", [".", "state", "state/d"])
def test_a_lost_folder_is_as_a_lost_file(folder, lost, capsys):
    lost = folder / "4" / lost
    assert lost.is_dir()
    shutil.rmtree(lost)
    (folder / "4").mkdir(exist_ok=True)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(), DESCRIPTION).step == 2
    assert "missing" in capsys.readouterr().err


def test_the_step_of_a_damaged_checkpoint_can_be_saved_again(folder):
    (folder / "4" / "manifest.jsonl").unlink()
    with Checkpoints(folder) as checkpoints:
        checkpoints.restore(state(), DESCRIPTION)
        checkpoints.save(state(4, seed=4), DESCRIPTION)
    with Checkpoints(folder) as checkpoints:
        assert_identical(checkpoints.restore(state(), DESCRIPTION), state(4, seed=4))
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4", "4.damaged"]


def test_a_damaged_checkpoint_in_the_way_of_a_save_is_kept_aside(folder):
    (folder / "4" / "manifest.jsonl").unlink()
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state(4, seed=4), DESCRIPTION)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(), DESCRIPTION).step == 4
    assert (folder / "4.damaged").is_dir()


def test_if_all_are_damaged_it_is_an_error_and_they_stay(folder):
    (folder / "4" / "manifest.jsonl").unlink()
    shutil.rmtree(folder / "2" / "state")
    for _ in range(2):
        with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError) as error:
            checkpoints.resume(state(0), DESCRIPTION)
        message = str(error.value)
        assert "damaged checkpoints only" in message and "4: manifest.jsonl is missing" in message
        assert "2: state/" in message
        assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]


def test_a_folder_with_only_moved_aside_ones_is_no_fresh_start(folder):
    shutil.rmtree(folder / "2")
    (folder / "4").rename(folder / "4.damaged")
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match="4.damaged"):
        checkpoints.resume(state(0), DESCRIPTION)


def test_a_checkpoint_under_another_steps_name_is_damaged(folder, capsys):
    (folder / "4").rename(folder / "5")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(), DESCRIPTION).step == 2
    assert "its state is of step 4" in capsys.readouterr().err


def reseal(step: pathlib.Path, change) -> None:
    """Writes a manifest anew, with a right seal."""
    path = step / checkpoint_format.MANIFEST
    content = json.loads(path.read_text().splitlines()[1])
    change(content)
    body = json.dumps(content) + "\n"
    path.write_text(checkpoint_format._seal(body) + body)


def test_arrays_are_compared_and_not_only_files(folder, capsys):
    """Orbax's files of another state, with file hashes that fit them."""
    other = state(4, seed=5)
    shutil.rmtree(folder / "4" / "state")
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(folder / "4" / "state", args=ocp.args.StandardSave(other))
    reseal(folder / "4", lambda content: content["files"].clear())
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(), DESCRIPTION).step == 2
    assert "the array " in capsys.readouterr().err


def test_the_description_cannot_be_changed_unseen(folder, capsys):
    path = folder / "4" / checkpoint_format.MANIFEST
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state(), DESCRIPTION | {"seed": 0}).step == 2
    assert "manifest.jsonl is not as it was written" in capsys.readouterr().err
