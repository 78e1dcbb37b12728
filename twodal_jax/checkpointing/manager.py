"""Checkpoints of the whole training state: written atomically, restored bit for bit.

A run's folder holds `checkpoints/` (the latest ones) and, where the run has a validation part, `best/` (the best one on
it). In such a folder STEP is a complete checkpoint (`checkpointing.format`), STEP.tmp one being written, STEP.damaged
one that differs from what was written, and STEP.old one to be deleted.
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
from twodal_jax.checkpointing.restore import check_same, CheckpointError, DAMAGED, moved_aside, read_newest, steps_in
from twodal_jax.distributed import broadcast, sharding
from twodal_jax.training.state import TrainState

TEMPORARY, OLD = ".tmp", ".old"
_LEFTOVER = re.compile(rf"([0-9]+)(?:{re.escape(TEMPORARY)}|{re.escape(OLD)}[0-9]*)", re.ASCII)


class SaveError(CheckpointError):
    """A checkpoint could not be written; older ones are intact."""


class Checkpoints:
    """The checkpoints of one folder. In a group of processes only the primary one writes them.

    Args:
      folder: created if missing. Remains of an interrupted save in it are deleted.
      keep: number of the newest checkpoints that are kept.

    Attributes:
      saved_step: step of the last state that was restored, or given to `save` without an error; else None.

    Raises:
      SaveError: the folder cannot be created.
    """

    def __init__(self, folder: os.PathLike | str, *, keep: int = 2):
        self._folder = pathlib.Path(folder).absolute()
        self._keep = keep
        self._is_primary = jax.process_index() == 0
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future | None = None
        self.saved_step: int | None = None
        if self._is_primary:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SaveError(f"{self._folder}: cannot be created ({error.strerror}).") from None
            self._clean_up()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        error = self._pending_error()
        self.close()
        if error is not None and kind is None:
            raise error
        if error is not None:  # the exception that leaves the block is the one to raise
            print(f"WARNING: {error}", file=sys.stderr)

    def close(self) -> None:
        """Waits for a background save."""
        self._thread.shutdown()

    def save(self, state: TrainState, description: Mapping[str, Any], *, wait: bool = False) -> None:
        """Saves a state under its step, in the background.

        An intact checkpoint of the same step and content stays. Later steps in the folder, left by a history that was
        abandoned, are deleted.

        Args:
          state: on the host or on devices.
          description: what must agree to resume; of JSON values.
          wait: whether to return when the state is on disk.

        Raises:
          SaveError: this save (with `wait`) or an earlier background save failed; then nothing is saved now.
        """
        self.wait()
        host = sharding.host_copy(state)  # a copy, because the next step donates the device's buffers
        self.saved_step = int(host.step)
        if self._is_primary:
            self._pending = self._thread.submit(self._write, host, dict(description))
        if wait:
            self.wait()

    def check(self) -> None:
        """Raises SaveError where a background save has failed; waits for nothing."""
        alone = jax.process_count() == 1  # a group raises on all processes at the same step, in `wait`
        if alone and self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when everything is on disk; raises SaveError, once, if it could not be written.

        In a group every process must call it, and `save`, at the same step; all raise.
        """
        error = self._pending_error()
        message = broadcast.broadcast_text("" if error is None else str(error))
        if message:
            self.saved_step = None
            raise error or SaveError(message)

    def _pending_error(self) -> SaveError | None:
        """The error of the last background save, after waiting for it."""
        pending, self._pending = self._pending, None
        return None if pending is None else pending.exception()

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, damaged or not."""
        return max(steps_in(self._folder), default=None)

    def restore(self, like: TrainState, description: Mapping[str, Any], *, step: int | None = None) -> TrainState:
        """The newest intact state, as host arrays; newer damaged ones are reported and moved aside.

        Args:
          like: a state of the same structure and shapes.
          description: must equal the one saved.
          step: the only step to try; default: all.

        Raises:
          CheckpointError: there is none, all are damaged (they stay), or the description or a shape differs
            (the differing fields are named).
        """
        expected = json.loads(json.dumps(dict(description)))

        def check(found: int, saved: dict[str, Any]) -> None:
            check_same(self._folder / str(found), saved, expected)

        restored = read_newest(self._folder, like, check, step=step)
        for damaged in restored.damaged:
            try:
                self._move_aside(damaged, DAMAGED)
            except OSError as error:
                print(f"WARNING: {self._folder / str(damaged)}: cannot be moved ({error}).", file=sys.stderr)
        self.saved_step = restored.step
        return restored.state

    def resume(self, like: TrainState, description: Mapping[str, Any]) -> TrainState:
        """`restore`, or `like` where nothing was ever saved; in a group the primary process's state on all.

        Raises:
          CheckpointError: see `restore`; on every process.
        """
        state, message, fresh = like, "", False
        if self._is_primary:
            try:
                fresh = not steps_in(self._folder) and not moved_aside(self._folder)
                state = like if fresh else self.restore(like, description)
            except CheckpointError as error:
                message = str(error)
        message = broadcast.broadcast_text(message)
        if message:
            raise CheckpointError(message)
        # A new state is broadcast too: hosts of another type may have rounded theirs differently.
        state = broadcast.broadcast_state(state)
        self.saved_step = None if broadcast.broadcast_from_primary(np.bool_(fresh)) else int(state.step)
        return state

    def _write(self, state: TrainState, description: dict[str, Any]) -> None:
        step = int(state.step)
        path = self._folder / str(step)
        temporary = path.with_name(path.name + TEMPORARY)
        try:
            if not _already_saved(path, state, description):
                shutil.rmtree(temporary, ignore_errors=True)
                files.write(temporary, state, description)
                if path.exists():
                    self._move_aside(step, DAMAGED if _is_damaged(path) else OLD)
                temporary.rename(path)
                files.sync(self._folder)
            self._prune(step)
        except Exception as error:  # TensorStore documents no class of errors
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                space = f" {shutil.disk_usage(self._folder).free / 1e6:.0f} MB are free there."
            except OSError:
                space = ""
            raise SaveError(
                f"{path}: this checkpoint could not be written: {first_line(error)}.{space} Older ones are intact."
            ) from error

    def _prune(self, newest: int) -> None:
        """Deletes all but the newest up to `newest`; renames each first, so that STEP is never incomplete."""
        steps = steps_in(self._folder)
        kept = [step for step in steps if step <= newest][-self._keep :]
        for step in set(steps) - set(kept):
            self._move_aside(step, OLD)
        self._delete_leftovers()  # .tmp too: a failed save may have gone on writing after it was cleaned up

    def _delete_leftovers(self) -> None:
        for path in self._folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):  # not `4.old_notes`, which is a user's
                shutil.rmtree(path, ignore_errors=True)

    def _move_aside(self, step: int, suffix: str) -> None:
        target, count = self._folder / f"{step}{suffix}", 1
        while target.exists():
            count += 1
            target = self._folder / f"{step}{suffix}{count}"
        (self._folder / str(step)).rename(target)

    def _clean_up(self) -> None:
        """Deletes what a killed process left incomplete."""
        for path in sorted(self._folder.iterdir()):
            leftover = _LEFTOVER.fullmatch(path.name)
            if leftover and not path.name.endswith(TEMPORARY) and not steps_in(self._folder):
                path.rename(self._folder / leftover[1])  # the process was killed while it replaced the only one
        self._delete_leftovers()


def _is_damaged(path: pathlib.Path) -> bool:
    try:
        files.check_files(path, files.read_manifest(path))
    except DamagedError:
        return True
    return False


def _already_saved(path: pathlib.Path, state: TrainState, description: dict[str, Any]) -> bool:
    """Whether the checkpoint at `path` exists, is intact and has this content."""
    if not path.exists() or _is_damaged(path):
        return False
    manifest = files.read_manifest(path)
    same = manifest["description"] == json.loads(json.dumps(description))
    return same and manifest["arrays"] == files.array_table(state)
