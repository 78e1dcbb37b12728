"""Prepares a source of faces as a folder, in units, so that a killed run loses little.

The work is done in `.<output>.partial/` beside the output (`work_units` describes its content). Finished units are not
made again, unless a face that they skipped can be read now. Nothing that is written depends on time, on where a run
was interrupted, or on which process made which unit, so a continued run ends with the same bytes.
"""

import contextlib
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from data_pipelines.preparation import work_units as unit_files
from data_pipelines.preparation.assemble import assemble, read_skipped, SKIPPED, Summary
from data_pipelines.preparation.work_units import Job, make_unit
from data_pipelines.sources.base import FaceSource, Skip, SourceError
from data_pipelines.sources.safe_paths import MAC_FILE
from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError
from twodal_jax.io.text import escape_hidden, write_text, WriteError
from twodal_jax.runtime.run_lock import only_run

MAX_SKIPPED = 0.05
# Reasons that do not indicate a damaged copy of a data set; they do not count against `max_skipped`.
EXPECTED_SKIPS = ("no landmarks", "too few landmarks", "no detection", "beyond profile", MAC_FILE)
UNIT_FACES = {"arrays": 512, "array_record": 4096}
_SMALL_UNIT, _FEW_UNITS = 256, 16  # smaller units of small sets, so that several processes can share the work
_SHOWN = 10
Progress = Callable[[int, int], None]
# Makes the listed units of a job and reports to the `ProgressMonitor`.
Engine = Callable[[Job, list[int], "ProgressMonitor"], None]


class TooManySkips(SourceError):
    """More faces than `max_skipped` allows could not be read; the message names the first."""


def prepare(
    source: FaceSource,
    output: os.PathLike | str,
    *,
    format: str = "array_record",
    shards: int | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    max_skipped: float = MAX_SKIPPED,
    engine: Engine | None = None,
    open_source: Callable[[], FaceSource] | None = None,
) -> Summary:
    """Makes a prepared folder of a source; continues an interrupted preparation of the same request.

    Args:
      source: see `sources.base.FaceSource`.
      output: the folder to make. Nothing is done if it exists and was made by the same request.
      format: "array_record" or "arrays".
      shards: number of units, and of shard files; default: one for 4096 faces (arrays: 512), more for small sets.
      limit: use only the first so many listed faces.
      progress: called with (listed faces done, all listed faces) after each face, or a few times a second.
      max_skipped: fraction of the listed faces that may be unreadable. Skips for EXPECTED_SKIPS do not count.
      engine: makes the units; default: this process, one unit after the other.
      open_source: opens the source again in another process; default: the source itself is pickled.

    Raises:
      SourceError: no face of the source could be read; the message lists the reasons.
      TooManySkips: more than `max_skipped` were unreadable. Finished units are kept, and the same call continues.
      PreparedError: the output is something else, or was made by another request.
    """
    output = pathlib.Path(output)
    total = min(len(source), limit if limit is not None else len(source))
    if total < 1:
        raise SourceError(f"{source.description}: lists no faces")
    plan = {
        "source": source.description,
        "fingerprint": source.fingerprint(),
        "total": total,
        "kind": source.kind,
        "margin": source.margin,
        "format": format,
        "units": min(total, shards or _number_of_units(total, format)),
    }
    if (finished := _already_prepared(output, plan, any_units=shards is None)) is not None:
        return finished
    staging = output.absolute().parent / f".{output.name}.partial"
    staging.mkdir(parents=True, exist_ok=True)
    with _only_preparation(staging):
        _clear(staging, plan)
        job = Job(str(staging), json.dumps(plan, sort_keys=True), open_source or functools.partial(_same, source))
        monitor = ProgressMonitor(job, source, max_skipped, progress)
        pending = [unit for unit in range(plan["units"]) if not _is_finished(job, source, unit)]
        for unit in sorted(set(range(plan["units"])) - set(pending)):
            monitor.finished(unit, job.done(unit))
        (engine or in_process)(job, pending, monitor)
        return assemble(output, staging, source, plan)


def _same(source: FaceSource) -> FaceSource:
    return source  # a function of the module, so that a partial of it can be pickled


def _number_of_units(total: int, format: str) -> int:
    few = min(_FEW_UNITS, -(-total // _SMALL_UNIT)) if format == "array_record" else 1
    return max(few, -(-total // UNIT_FACES[format]))


class ProgressMonitor:
    """Counts finished faces, shows the progress, and stops a preparation with too many skips.

    Args:
      job: the job.
      source: named in messages.
      max_skipped: see `prepare`.
      progress: see `prepare`.
    """

    def __init__(self, job: Job, source: FaceSource, max_skipped: float, progress: Progress | None):
        self.job, self.source, self._max_skipped, self._progress = job, source, max_skipped, progress
        self.done: dict[int, dict[str, Any]] = {}
        self._faces = 0
        self._shown = 0

    def seen(self, count: int) -> None:
        """Reports faces done in unfinished units. The progress shown never decreases, though a count may lag."""
        total = self.job.request["total"]
        self._shown = max(self._shown, min(self._faces + count, total))
        if self._progress:
            self._progress(self._shown, total)

    def finished(self, unit: int, done: dict[str, Any]) -> None:
        """Reports a finished unit. Raises TooManySkips."""
        self.done[unit] = done
        start, stop = self.job.bounds(unit)
        self._faces += stop - start
        self.seen(0)
        self._check()

    def _check(self) -> None:
        total = self.job.request["total"]
        skips = [Skip(*skip[1:]) for unit in sorted(self.done) for skip in self.done[unit]["skips"]]
        broken = [skip for skip in skips if skip.reason not in EXPECTED_SKIPS]
        nothing_kept = self._faces == total and not any(done["count"] for done in self.done.values())
        if len(broken) <= self._max_skipped * total or nothing_kept:
            return
        named = [escape_hidden(f"  {skip.name}: {skip.reason}: {skip.detail}") for skip in broken[:_SHOWN]]
        lines = [
            f"{self.source.description}: {len(broken)} of {self._faces} faces could not be read, more"
            f" than {self._max_skipped:.1%} of all {total} (--max_skipped={self._max_skipped:g}); the first:",
            *named,
            "Replace the broken files, or allow more: the same command then goes on, finished parts are kept.",
        ]
        raise TooManySkips("\n".join(lines))


def in_process(job: Job, pending: list[int], monitor: ProgressMonitor) -> None:
    """Makes units one after the other in this process (an `Engine`)."""
    for unit in pending:
        monitor.finished(unit, make_unit(job, monitor.source, unit, progress=monitor.seen))


def _is_finished(job: Job, source: FaceSource, unit: int) -> bool:
    done = job.done(unit)
    if done is not None and unit_files.can_be_read_now(job, source, unit, done, EXPECTED_SKIPS):
        shutil.rmtree(job.folder(unit))
        return False
    return done is not None


def _already_prepared(output: pathlib.Path, plan: dict, any_units: bool) -> Summary | None:
    prepared_dataset.check_replaceable(output)
    if not (output / prepared_dataset.MANIFEST).is_file():
        return None
    manifest = prepared_dataset.open_prepared(output).manifest
    previous = manifest.get("plan")
    ignored = {"units": plan["units"]} if any_units else {}
    if previous and previous | ignored == plan:
        return Summary(output, manifest["count"], read_skipped(output / SKIPPED), made=False)
    if previous and previous | ignored | {"fingerprint": plan["fingerprint"]} == plan:
        raise PreparedError(
            f"{output}: was prepared from this source when its listing was different (its tables, landmarks, crops or"
            " model changed); remove the folder to prepare it again, or choose another --output"
        )
    raise PreparedError(
        f"{output}: holds another prepared set ({manifest['source']}, {manifest['count']} faces);"
        " remove it or choose another --output"
    )


@contextlib.contextmanager
def _only_preparation(staging: pathlib.Path) -> Iterator[None]:
    """Locks out other preparations of the same output, which would delete each other's units."""
    try:
        with only_run(staging, "another --output"):
            yield
    except WriteError as error:
        raise PreparedError(str(error)) from None


def _clear(staging: pathlib.Path, plan: dict) -> None:
    """Deletes what remains of another request and of unfinished units."""
    plan_file = staging / "plan.json"
    text = json.dumps({**plan, "layout": unit_files.LAYOUT}, sort_keys=True)
    same = plan_file.is_file() and plan_file.read_text() == text
    for path in staging.glob("working-*" if same else "[!.]*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=same)
        else:
            path.unlink()
    for name in (unit_files.STOP, unit_files.FAILED):
        (staging / name).unlink(missing_ok=True)
    write_text(plan_file, text)
