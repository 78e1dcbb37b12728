"""Choice of the checkpoint to resume from: the newest intact one, if it belongs to this run. Reads only."""

import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from twodal_jax.checkpointing import format as files
from twodal_jax.checkpointing.format import DamagedError
from twodal_jax.training.state import TrainState

_STEP = re.compile(r"0|[1-9][0-9]*", re.ASCII)
DAMAGED = ".damaged"  # suffix of a damaged checkpoint that was moved aside


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or belongs to another run."""


class Restored(NamedTuple):
    """A checkpoint that was read, and the steps of newer ones that are damaged, newest first."""

    step: int
    state: TrainState
    damaged: list[int]


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps of a folder's checkpoints, damaged or not, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if _STEP.fullmatch(path.name) and path.is_dir())


def moved_aside(folder: pathlib.Path) -> list[str]:
    """The names of a folder's damaged checkpoints that were moved aside."""
    return sorted(path.name for path in folder.glob(f"*{DAMAGED}*"))


def read_newest(
    folder: pathlib.Path, like: TrainState, check: Callable[[int, dict[str, Any]], None], *, step: int | None = None
) -> Restored:
    """Reads the newest intact checkpoint, and reports newer damaged ones on stderr.

    Args:
      folder: of the checkpoints; is not changed.
      like: a state of the same structure and shapes, or its shapes.
      check: (step, description) -> None; raises CheckpointError where the checkpoint belongs to another run.
      step: the only step to try; default: all.

    Raises:
      CheckpointError: there is none, all are damaged, or the newest intact one belongs to another run.
    """
    if step is not None and not (folder / str(step)).is_dir():
        raise CheckpointError(f"{folder}: holds no checkpoint of step {step}, but of {steps_in(folder)}.")
    damaged: dict[int, str] = {}
    for candidate in reversed(steps_in(folder) if step is None else [step]):
        path = folder / str(candidate)
        try:
            manifest = files.read_manifest(path)
            check(candidate, manifest["description"])
            shapes = {name: f"{entry['dtype']}{entry['shape']}" for name, entry in manifest["arrays"].items()}
            check_same(path, shapes, files.shapes_of(like))
            state = files.read(path, manifest, like)
            if int(state.step) != candidate:
                raise DamagedError(f"the folder is named {candidate}, its state is of step {int(state.step)}")
        except DamagedError as error:
            damaged[candidate] = str(error)
            print(f"WARNING: {path}: this checkpoint is damaged: {error}.", file=sys.stderr)
            continue
        if damaged:
            print(f"WARNING: resuming from the previous checkpoint: {path}.", file=sys.stderr)
        return Restored(candidate, state, list(damaged))
    aside = moved_aside(folder)
    if not damaged and not aside:
        raise CheckpointError(f"{folder}: holds no checkpoint; train first.")
    lines = [*(f"  {step}: {reason}" for step, reason in damaged.items()), *(f"  {name}" for name in aside)]
    raise CheckpointError(
        f"{folder}: holds damaged checkpoints only:\n"
        + "\n".join(lines)
        + "\nRestore one of them from a copy, or move the folder away to train from the start."
    )


def check_same(path: pathlib.Path, saved: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises CheckpointError, with the differing fields, where a checkpoint does not belong to this run."""
    lines = [
        f"  {name}: {saved.get(name)!r} in the checkpoint, {expected.get(name)!r} in this run"
        for name in sorted({*saved, *expected})
        if saved.get(name) != expected.get(name)
    ]
    if lines:
        raise CheckpointError(
            f"{path.parent}: the checkpoint of step {path.name} belongs to another run:\n"
            + "\n".join(lines)
            + "\nUse another --workdir, or the config it was made with."
        )
