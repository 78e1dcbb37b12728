"""Which checkpoint of a folder to go on from: the newest that is whole and belongs to this run. Reads only."""

import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from twodal_jax.checkpointing import format as files
from twodal_jax.checkpointing.format import DamagedError
from twodal_jax.training.state import TrainState

_STEP = re.compile(r"0|[1-9][0-9]*", re.ASCII)
# Ending of a checkpoint that was found not to be what was written, and was moved aside.
DAMAGED = ".damaged"


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or belongs to another run."""


class Found(NamedTuple):
    """A checkpoint that was read. `passed`: the damaged ones before it, newest first."""

    step: int
    state: TrainState
    description: dict[str, Any]
    passed: list[int]


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps of a folder's checkpoints, damaged or not, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if _STEP.fullmatch(path.name) and path.is_dir())


def moved_aside(folder: pathlib.Path) -> list[str]:
    """The names of a folder's damaged checkpoints that were moved aside."""
    return sorted(path.name for path in folder.glob(f"*{DAMAGED}*"))


def find(
    folder: pathlib.Path, like: TrainState, check: Callable[[int, dict[str, Any]], None], *, step: int | None = None
) -> Found:
    """Reads the newest checkpoint that is whole, or that of `step`; says on stderr which it passed by.

    Changes nothing in the folder.

    Args:
      like: a state of the same structure and shapes, or its shapes.
      check: (step, description) -> None; raises CheckpointError where it is of another run.

    Raises:
      CheckpointError: there is none, all are damaged, or the first whole one does not fit.
    """
    steps = steps_in(folder) if step is None else [step]
    if step is not None and not (folder / str(step)).is_dir():
        raise CheckpointError(f"{folder}: holds no checkpoint of step {step}, but of {steps_in(folder)}.")
    damaged: dict[int, str] = {}
    for candidate in reversed(steps):
        path = folder / str(candidate)
        try:
            manifest = files.read_manifest(path)
            check(candidate, manifest["description"])
            _check_shapes(path, manifest, like)
            state = files.read(path, manifest, like)
            if int(state.step) != candidate:
                raise DamagedError(f"the folder is named {candidate}, its state is of step {int(state.step)}")
        except DamagedError as error:
            damaged[candidate] = str(error)
            print(f"WARNING: {path}: this checkpoint is damaged: {error}.", file=sys.stderr)
            continue
        if damaged:
            print(f"WARNING: resuming from the previous checkpoint: {path}.", file=sys.stderr)
        return Found(candidate, state, manifest["description"], list(damaged))
    raise CheckpointError(_nothing_left(folder, damaged))


def _nothing_left(folder: pathlib.Path, damaged: Mapping[int, str]) -> str:
    aside = moved_aside(folder)
    if not damaged and not aside:
        return f"{folder}: holds no checkpoint; train first."
    lines = [f"  {step}: {reason}" for step, reason in damaged.items()] + [f"  {name}" for name in aside]
    return (
        f"{folder}: holds damaged checkpoints only:\n"
        + "\n".join(lines)
        + "\nPut back a copy of one of them, or move the folder away to train from the start."
    )


def _check_shapes(path: pathlib.Path, manifest: Mapping[str, Any], like: TrainState) -> None:
    there = {name: f"{x['dtype']}{x['shape']}" for name, x in manifest["arrays"].items()}
    check_same(path, there, files.shapes_of(like))


def check_same(path: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises CheckpointError with the fields in which a checkpoint and this run differ."""
    names = sorted(set(there) | set(here))
    lines = [
        f"  {name}: {there.get(name)!r} there, {here.get(name)!r} here"
        for name in names
        if there.get(name) != here.get(name)
    ]
    if lines:
        raise CheckpointError(
            f"{path.parent}: the checkpoint of step {path.name} belongs to another run:\n"
            + "\n".join(lines)
            + "\nUse another --workdir, or the config it was made with."
        )
