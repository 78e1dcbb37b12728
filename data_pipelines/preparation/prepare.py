"""A source of faces -> a prepared folder, in units that survive a kill.

Work goes on in `.<output>.partial/` beside the output (`work_units.py` says what lies there): units found done are
not made again, unless a face they had to skip can be read by now. Nothing that is written depends on time, on
where a run was cut, or on who made which unit, so a continued run ends with the same bytes.
"""

from __future__ import annotations

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
from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError
from twodal_jax.io.text import escape_hidden, write_text, WriteError
from twodal_jax.runtime.run_lock import only_run

MAX_SKIPPED = 0.05
# What is missing by nature, and no sign of a broken copy: these do not count against `max_skipped`.
EXPECTED_SKIPS = ("no landmarks", "too few landmarks", "no detection")
UNIT_FACES = {"arrays": 512, "array_record": 4096}
_SMALL_UNIT, _FEW_UNITS = 256, 16  # small sets are cut finer, for several processes to share
_SHOWN = 10
Progress = Callable[[int, int], None]
# Makes the listed units of a job, telling `ProgressMonitor` about them.
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
    """Makes a prepared folder of a source, continuing an interrupted preparation of the same one.

    Args:
      source: see `sources.registry.base.FaceSource`.
      output: the folder to make. If it is there already, made by the same request, nothing is done.
      format: "array_record" or "arrays".
      shards: number of units (and of shard files); by default one for 4096 faces (arrays: 512), of small sets
        for fewer.
      limit: only the first so many listed faces.
      progress: called with (listed faces done, all of them) after each face, or a few times a second.
      max_skipped: the fraction of the listed faces that may be unreadable; faces without landmarks
        (`EXPECTED_SKIPS`) are skipped as well and do not count.
      engine: who makes the units; by default this process, one after the other.
      open_source: opens the source again in another process; by default the source itself is sent there.

    Raises:
      SourceError: no face of the source could be read (with the reasons).
      TooManySkips: more than `max_skipped`; finished units are kept, and the same call continues.
      PreparedError: the output is something else, or another request's.
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
    with _alone(staging):
        _clear(staging, plan)
        job = Job(str(staging), json.dumps(plan, sort_keys=True), open_source or functools.partial(_itself, source))
        watch = ProgressMonitor(job, source, max_skipped, progress)
        pending = [unit for unit in range(plan["units"]) if not _is_finished(job, source, unit)]
        for unit in sorted(set(range(plan["units"])) - set(pending)):
            watch.finished(unit, job.done(unit))
        (engine or in_process)(job, pending, watch)
        return assemble(output, staging, source, plan)


def _itself(source: FaceSource) -> FaceSource:
    return source


def _number_of_units(total: int, format: str) -> int:
    few = min(_FEW_UNITS, -(-total // _SMALL_UNIT)) if format == "array_record" else 1
    return max(few, -(-total // UNIT_FACES[format]))


class ProgressMonitor:
    """Counts what is done: shows progress, and stops where too much is skipped.

    Args:
      source: for messages. The others are `prepare`'s.
    """

    def __init__(self, job: Job, source: FaceSource, max_skipped: float, progress: Progress | None):
        self.job, self.source, self._max_skipped, self._progress = job, source, max_skipped, progress
        self.done: dict[int, dict[str, Any]] = {}
        self._faces = 0
        self._shown = 0

    def seen(self, count: int) -> None:
        """Faces of unfinished units that are through. Progress never goes back, though a count may lag behind."""
        total = self.job.request["total"]
        self._shown = max(self._shown, min(self._faces + count, total))
        if self._progress:
            self._progress(self._shown, total)

    def finished(self, unit: int, done: dict[str, Any]) -> None:
        """A unit is finished. Raises TooManySkips."""
        self.done[unit] = done
        start, stop = self.job.bounds(unit)
        self._faces += stop - start
        self.seen(0)
        self._check()

    def _check(self) -> None:
        total = self.job.request["total"]
        broken = [
            Skip(*skip[1:])
            for unit in sorted(self.done)
            for skip in self.done[unit]["skips"]
            if skip[2] not in EXPECTED_SKIPS
        ]
        nothing_kept = self._faces == total and not any(done["count"] for done in self.done.values())
        if len(broken) <= self._max_skipped * total or nothing_kept:
            return
        named = [escape_hidden(f"  {skip.name}: {skip.reason}: {skip.detail}") for skip in broken[:_SHOWN]]
        raise TooManySkips(
            "\n".join(
                [
                    f"{self.source.description}: {len(broken)} of {self._faces} faces looked at could not be read, more"
                    f" than {self._max_skipped:.1%} of all {total} (--max_skipped={self._max_skipped:g}); the first:",
                    *named,
                    "Replace the broken files, or allow more: the same command then goes on, finished parts are kept.",
                ]
            )
        )


def in_process(job: Job, pending: list[int], watch: ProgressMonitor) -> None:
    """Makes units one after the other, here (an `Engine`)."""
    for unit in pending:
        watch.finished(unit, make_unit(job, watch.source, unit, progress=watch.seen))


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
    found = manifest.get("plan")
    kept = {"units": plan["units"]} if any_units else {}
    if found and found | kept == plan:
        return Summary(output, manifest["count"], read_skipped(output / SKIPPED), made=False)
    if found and found | kept | {"fingerprint": plan["fingerprint"]} == plan:
        raise PreparedError(
            f"{output}: was prepared from this source when that listed something else (its tables,"
            " landmarks, crops or model changed); remove it to prepare it again, or choose another"
            " --output"
        )
    raise PreparedError(
        f"{output}: holds another prepared set ({manifest['source']}, {manifest['count']} faces);"
        " remove it or choose another --output"
    )


@contextlib.contextmanager
def _alone(staging: pathlib.Path) -> Iterator[None]:
    """Keeps other preparations of the same output out, which would clear away what this one makes."""
    try:
        with only_run(staging, "another --output"):
            yield
    except WriteError as error:
        raise PreparedError(str(error)) from None


def _clear(staging: pathlib.Path, plan: dict) -> None:
    """Throws away what is left of another request, or of units that were not finished."""
    plan_file = staging / "plan.json"
    text = json.dumps({**plan, "layout": unit_files.LAYOUT}, sort_keys=True)
    same = plan_file.is_file() and plan_file.read_text() == text
    for leftover in staging.glob("working-*" if same else "[!.]*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=same)
        else:
            leftover.unlink()
    for name in (unit_files.STOP, unit_files.FAILED):
        (staging / name).unlink(missing_ok=True)
    write_text(plan_file, text)
