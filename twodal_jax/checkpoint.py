"""Checkpoints of the whole training state with Orbax: saved whole or not at all, restored exactly.

A run's folder holds `checkpoints/` (the latest ones) and `best/` (the best on the held-out set). Each
checkpoint is the state, the step and what must agree when it is read again (`description`).
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from twodal_jax.train_state import TrainState

STATE, DESCRIPTION = "state", "description"


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or belongs to another run."""


class Checkpoints:
    """The checkpoints of one folder.

    Args:
      folder: made if missing; may be relative.
      keep: how many of the newest are kept.
    """

    def __init__(self, folder: os.PathLike | str, *, keep: int = 2):
        self._folder = pathlib.Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=True,
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self._folder.name),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, state: TrainState, description: Mapping[str, Any], *, wait: bool = False) -> None:
        """Saves `state` under its step, in the background; `wait` returns when it is on disk.

        An error of an earlier save in the background is raised here or in `wait`.
        """
        # A copy on the host: the step that follows donates the device's buffers.
        host = jax.tree.map(np.asarray, state)
        arguments = ocp.args.Composite(
            **{STATE: ocp.args.StandardSave(host), DESCRIPTION: ocp.args.JsonSave(dict(description))}
        )
        self._manager.save(int(host.step), args=arguments)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def restore(
        self, like: TrainState, description: Mapping[str, Any], *, step: int | None = None
    ) -> TrainState:
        """The latest state, or that of `step`, as host arrays.

        Args:
          like: a state of the same structure and shapes.
          description: must equal the one saved.

        Raises:
          CheckpointError: there is none, or its description differs (the differing fields are named).
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self._folder}: holds no checkpoint; train first.")
        self._check_description(step, description)
        shapes = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(shapes)})
        )
        return restored[STATE]

    def description(self, step: int | None = None) -> dict[str, Any]:
        """What was saved as the description of the latest checkpoint, or of that of `step`."""
        step = self.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"{self._folder}: holds no checkpoint; train first.")
        arguments = ocp.args.Composite(**{DESCRIPTION: ocp.args.JsonRestore()})
        return self._manager.restore(step, args=arguments)[DESCRIPTION]

    def _check_description(self, step: int, description: Mapping[str, Any]) -> None:
        saved = self.description(step)
        differing = sorted(
            name
            for name in set(saved) | set(description)
            if saved.get(name) != description.get(name)
        )
        if differing:
            lines = [
                f"  {name}: {saved.get(name)!r} there, {description.get(name)!r} here"
                for name in differing
            ]
            raise CheckpointError(
                f"{self._folder}: the checkpoint of step {step} belongs to another run:\n"
                + "\n".join(lines)
                + "\nUse another --workdir, or the config it was made with."
            )

    def close(self) -> None:
        self._manager.close()
