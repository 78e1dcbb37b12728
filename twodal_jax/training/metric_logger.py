"""Log of a training run: progress line, TensorBoard and `history.jsonl`.

history.jsonl has one JSON object per line: {"kind": "train" | "evaluation", "step": n, ...}. A resumed run drops the
lines after the step that it resumes from, so that a history has no step twice.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.progress
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from twodal_jax.io.text import write_text, WriteError, writing

HISTORY = "history.jsonl"


def read_history(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Entries of history.jsonl, without a last line that a crash cut short; empty if there is no file."""
    path = workdir / HISTORY
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class _Console(rich.console.Console):
    """Console on stderr that goes silent when its reader exits: Ctrl-C also ends the `tee` of `2>&1 | tee log`."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stderr.fileno())
        os.close(devnull)


class RunLog:
    """Writes the log of a run; a context manager.

    Args:
      workdir: folder of the run. start_step, total_steps: of this process's part of the run.
      images_per_step: for the progress line. active: whether this host writes; only the first one does.
      must_write: whether a failed write is an error. Otherwise it is reported once, and the line is written later.

    Attributes:
      images_per_step: may change between two calls of `train`.

    Raises:
      WriteError: the log cannot be written, on opening or, with `must_write`, later.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        start_step: int,
        total_steps: int,
        images_per_step: int,
        active: bool,
        *,
        must_write: bool = True,
    ):
        self._active, self._must_write, self._warned = active, must_write, False
        self.images_per_step = images_per_step
        self._console = _Console(file=sys.stderr, quiet=not active)
        if active:
            with writing(workdir / HISTORY):
                self._open(workdir, start_step)
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not (active and self._console.is_terminal),
        )
        self._task = self._progress.add_task("", total=total_steps, completed=start_step, note="")
        self._total, self._start = total_steps, start_step
        self._began = self._last_time = time.monotonic()
        self._last_step = start_step

    def _open(self, workdir: pathlib.Path, start_step: int) -> None:
        # A run that starts at step 0 repeats the evaluation of step 0 too.
        entries = read_history(workdir) if start_step else []
        kept = [entry for entry in entries if entry["step"] <= start_step]
        write_text(workdir / HISTORY, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._history = (workdir / HISTORY).open("ab")
        board = workdir / "tensorboard"
        board.mkdir(exist_ok=True)
        # Not SummaryWriter: its thread dies on a full disk, and the program then waits for the thread forever.
        self._board = event_file_writer.EventsWriter(str(board / "events"))

    def __enter__(self) -> "RunLog":
        self._progress.start()
        return self

    def stop_display(self) -> None:
        """Ends the progress bar and restores the terminal."""
        self._progress.stop()

    def __exit__(self, kind, *_) -> None:
        self.stop_display()
        if not self._active:
            return
        for file in (self._history, self._board):
            try:
                file.close()
            except OSError as error:
                if kind is None:  # otherwise the exception being raised is more important
                    self._cannot_write(error)

    def say(self, message: str) -> None:
        """Prints a line above the progress bar."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def advance(self, stage: str, step: int) -> None:
        """Moves the progress bar to `step`."""
        self._progress.update(self._task, completed=step, description=stage)

    def train(self, stage: str, step: int, metrics: Mapping[str, float | None]) -> None:
        """Logs mean losses, weights and learning rate of the steps since the last call.

        A value is None if no step since then was finite.
        """
        now = time.monotonic()
        seconds = max(now - self._last_time, 1e-9)
        rate = (step - self._last_step) * self.images_per_step / seconds
        self._last_time, self._last_step = now, step
        self._write("train", step, dict(metrics) | {"images_per_second": rate})
        losses = "  ".join(f"{k[5:]} {_number(v)}" for k, v in metrics.items() if k.startswith("loss_"))
        left = (self._total - step) * (now - self._began) / max(step - self._start, 1)
        note = f"{rate:.0f} images/s"
        self._progress.update(self._task, note=note)
        self.say(
            f"{stage} step {step}/{self._total}  loss {_number(metrics['loss'])}  {losses}  {note}"
            f"  {left / 60:.0f} min left"
        )

    def evaluation(self, stage: str, step: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Logs {protocol: summary}: "validation/PROTOCOL" of the validation part, the others of the test set."""
        flat = {f"{p}/{key}": value for p, summary in results.items() for key, value in summary.items()}
        self._write("evaluation", step, flat)
        for protocol, nme in results.items():
            bins = " / ".join(_percent(nme[key]) for key in ("0-30", "30-60", "60-90"))
            self.say(
                f"{stage} step {step}  NME {protocol.replace('_', ' ').replace('/', ', ')}: {bins},"
                f" mean of bins {_percent(nme['mean_of_bins'])} % ({nme['count']} faces)"
            )
        self._last_time = time.monotonic()  # images/s excludes the time of evaluations

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if not self._active:
            return
        line = json.dumps({"kind": kind, "step": step, **values}) + "\n"
        scalars = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, (int, float))}
        try:
            # Unwritten data stays in the buffers of the files, and the next line retries it.
            self._history.write(line.encode())
            self._history.flush()
            for name, value in scalars.items():
                event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
                self._board.write_event(event)
            self._board.flush()
        except OSError as error:
            self._cannot_write(error)

    def _cannot_write(self, error: OSError) -> None:
        message = f"{self._history.name}: the log could not be written ({error.strerror or error})."
        if self._must_write:
            raise WriteError(f"{message} Free disk space; the same command resumes the run.") from error
        if not self._warned:
            self.say(f"WARNING: {message} Training goes on.")
        self._warned = True


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
