"""Checkpoints of the whole training state: saved whole or not at all, restored exactly or not at all.

A run's folder holds `checkpoints/` (the latest ones) and, where the run has a validation part, `best/` (the
best on it). In such a folder STEP is a whole checkpoint (`checkpointing.format`), STEP.tmp one being written,
STEP.damaged one that was found not to be what was written; STEP.old is about to be deleted.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from twodal_jax.checkpointing import format as files
from twodal_jax.checkpointing.format import DamagedError, first_line
from twodal_jax.checkpointing.restore import check_same, CheckpointError, DAMAGED, find, moved_aside, steps_in
from twodal_jax.distributed import broadcast, sharding
from twodal_jax.training.state import TrainState

TEMPORARY, OLD = ".tmp", ".old"
KEEP = "keep"
_LEFTOVER = re.compile(rf"([0-9]+)(?:{re.escape(TEMPORARY)}|{re.escape(OLD)}[0-9]*)", re.ASCII)


class SaveError(CheckpointError):
    """A checkpoint could not be written; older ones are whole."""


class Checkpoints:
    """The checkpoints of one folder, for the run that writes them; in a group only the first process does.

    Args:
      folder: made if missing; may be relative. What an interrupted save left there is deleted.
      keep: how many of the newest are kept.

    Attributes:
      saved_step: the step that was last given to be saved and did not fail, or restored; else None.

    Raises:
      SaveError: the folder cannot be made.
    """

    def __init__(self, folder: os.PathLike | str, *, keep: int = 2):
        self._folder = pathlib.Path(folder).absolute()
        self._keep = keep
        self._writes = jax.process_index() == 0
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future | None = None
        self.saved_step: int | None = None
        if self._writes:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SaveError(f"{self._folder}: cannot be made ({error.strerror}).") from None
            self._tidy()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        error = self._outcome()
        self.close()
        if error is not None and kind is None:
            raise error
        if error is not None:  # the exception on its way is the reason to leave
            print(f"WARNING: {error}", file=sys.stderr)

    def close(self) -> None:
        """Waits for a save in the background."""
        self._thread.shutdown()

    def save(self, state: TrainState, description: Mapping[str, Any], *, wait: bool = False) -> None:
        """Saves `state` under its step, in the background; `wait` returns when it is on disk.

        Later steps in the folder, of a history that was given up, are deleted. An intact checkpoint of the same step
        and content stays.

        Raises:
          SaveError: this save, with `wait`, or an earlier one in the background failed; then nothing is
            saved now.
        """
        self.wait()
        # A copy: the step that follows donates the device's buffers.
        host = sharding.host_copy(state)
        self.saved_step = int(host.step)
        if self._writes:
            self._pending = self._thread.submit(self._write, host, dict(description))
        if wait:
            self.wait()

    def check(self) -> None:
        """Raises SaveError if a save in the background has failed since; waits for nothing."""
        alone = jax.process_count() == 1  # in a group all must hear of it at the same step: in `wait`
        if alone and self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when everything is on disk; raises SaveError, once, if it could not be written.

        In a group every process must call it, and `save`, at the same step; all raise.
        """
        error = self._outcome()
        message = broadcast.broadcast_text("" if error is None else str(error))
        if message:
            self.saved_step = None
            raise error or SaveError(message)

    def _outcome(self) -> SaveError | None:
        """Why the last save in the background failed, when it has ended."""
        pending, self._pending = self._pending, None
        return None if pending is None else pending.exception()

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, damaged or not."""
        return max(steps_in(self._folder), default=None)

    def restore(self, like: TrainState, description: Mapping[str, Any], *, step: int | None = None) -> TrainState:
        """The newest state that is whole, or that of `step`, as host arrays; moves damaged ones aside.

        Args:
          like: a state of the same structure and shapes.
          description: must equal the one saved.

        Raises:
          CheckpointError: there is none, all are damaged (they stay), or the description or a shape differs
            (the differing fields are named).
        """
        here = json.loads(json.dumps(dict(description)))

        def check(found: int, there: dict[str, Any]) -> None:
            check_same(self._folder / str(found), there, here)

        found = find(self._folder, like, check, step=step)
        for damaged in found.passed:
            try:
                self._move_aside(damaged, DAMAGED)
            except OSError as error:
                print(f"WARNING: {self._folder / str(damaged)}: cannot be moved ({error}).", file=sys.stderr)
        self.saved_step = found.step
        return found.state

    def resume(self, like: TrainState, description: Mapping[str, Any]) -> TrainState:
        """`restore`, or `like` where nothing was ever saved; in a group what the first process has of either.

        Raises:
          CheckpointError: see `restore`; on every process.
        """
        state, message, fresh = like, "", False
        if self._writes:
            try:
                fresh = not steps_in(self._folder) and not moved_aside(self._folder)
                state = like if fresh else self.restore(like, description)
            except CheckpointError as error:
                message = str(error)
        message = broadcast.broadcast_text(message)
        if message:
            raise CheckpointError(message)
        # A new state too: hosts of another make may have rounded theirs otherwise.
        state = broadcast.broadcast_state(state)
        self.saved_step = None if broadcast.broadcast_from_primary(np.bool_(fresh)) else int(state.step)
        return state

    def _write(self, state: TrainState, description: dict[str, Any]) -> None:
        path = self._folder / str(int(state.step))
        temporary = path.with_name(path.name + TEMPORARY)
        try:
            ending = _in_the_way(path, state, description)
            if ending != KEEP:
                shutil.rmtree(temporary, ignore_errors=True)
                files.write(temporary, state, description)
                if ending:
                    self._move_aside(int(state.step), ending)
                temporary.rename(path)
                files.sync(self._folder)
            self._prune(int(state.step))
        except Exception as error:  # TensorStore promises no class
            shutil.rmtree(temporary, ignore_errors=True)
            raise SaveError(
                f"{path}: this checkpoint could not be written: {first_line(error)}."
                f" {_space(self._folder)} Older ones are whole."
            ) from error

    def _prune(self, newest: int) -> None:
        """Deletes all but the newest up to `newest`; each is renamed first, so that none is ever half there."""
        steps = steps_in(self._folder)
        kept = [step for step in steps if step <= newest][-self._keep :]
        for step in set(steps) - set(kept):
            self._move_aside(step, OLD)
        # A save that failed may go on writing for a moment after it was cleaned up.
        self._delete_leftovers()

    def _delete_leftovers(self) -> None:
        for path in self._folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):  # and not `4.old_notes`, somebody's own
                shutil.rmtree(path, ignore_errors=True)

    def _move_aside(self, step: int, ending: str) -> None:
        target, count = self._folder / f"{step}{ending}", 1
        while target.exists():
            count += 1
            target = self._folder / f"{step}{ending}{count}"
        (self._folder / str(step)).rename(target)

    def _tidy(self) -> None:
        """Deletes what a killed process left half written or half deleted."""
        for path in sorted(self._folder.iterdir()):
            left = _LEFTOVER.fullmatch(path.name)
            if left and not path.name.endswith(TEMPORARY) and not steps_in(self._folder):
                path.rename(self._folder / left[1])  # killed while it was replaced
        self._delete_leftovers()


def _in_the_way(path: pathlib.Path, state: TrainState, description: dict[str, Any]) -> str:
    """What becomes of the checkpoint at `path`: KEEP if it is whole and holds this state, else its ending;
    "" if there is none.
    """
    if not path.exists():
        return ""
    try:
        manifest = files.read_manifest(path)
        files.check_files(path, manifest)
    except DamagedError:
        return DAMAGED
    same = manifest["description"] == json.loads(json.dumps(description))
    return KEEP if same and manifest.get("arrays") == files.array_table(state) else OLD


def _space(folder: pathlib.Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB are free there."
    except OSError:
        return ""
