"""A preparation cut into units that any number of processes make, in any order, and that survive a kill.

A unit is a slice of a source's listing. Whoever makes it works in a folder of its own and renames that
into place with a `done.json`, so a unit is whole or not there; the same unit made twice is the same bytes.
All of it lies in one staging folder, which is how the processes (on any machines that see it) talk:

  plan.json        the request; leftovers of another one are thrown away
  unit-XXXXX/      a finished unit: columns as .npy, the shard, done.json
  working-XXXXX-*/ an unfinished one; its file `seen` grows by a byte a face
  stop             while it is there, whoever works ends after the next few faces
  failed.txt       why a unit could not be made at all (disk full, listing changed)
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from data_pipelines.sources.base import FaceSource, Skip
from data_pipelines.storage import array_record, npy_stream
from data_pipelines.storage.manifest import Face, PreparedError
from twodal_jax.io.text import write_text

STOP, FAILED = "stop", "failed.txt"
LAYOUT = 2  # of the staging folder; leftovers of another one are thrown away
_STOP_EVERY = 16  # faces between two looks at `stop`


class Stopped(Exception):
    """The unit was left unfinished because `stop` is there."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to make units; picklable.

    Attributes:
      staging: the staging folder. plan: the JSON text of plan.json.
      open_source: opens the source again, in another process.
    """

    staging: str
    plan: str
    open_source: Callable[[], FaceSource] = dataclasses.field(compare=False)

    @functools.cached_property
    def request(self) -> dict[str, Any]:
        """The parsed plan."""
        return json.loads(self.plan)

    def bounds(self, unit: int) -> tuple[int, int]:
        """First listed face of a unit, and the one after its last."""
        edges = np.linspace(0, self.request["total"], self.request["units"] + 1).astype(int)
        return int(edges[unit]), int(edges[unit + 1])

    def folder(self, unit: int) -> pathlib.Path:
        """Where a unit lies when it is finished."""
        return pathlib.Path(self.staging) / f"unit-{unit:05d}"

    def done(self, unit: int) -> dict[str, Any] | None:
        """`done.json` of a unit: count, and skips as [row, name, reason, detail]; None while unfinished."""
        try:
            return json.loads((self.folder(unit) / "done.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def stop_asked(self) -> bool:
        """Whether `stop` is there."""
        return os.path.exists(os.path.join(self.staging, STOP))

    def ask_to_stop(self) -> None:
        """Makes `stop`."""
        pathlib.Path(self.staging, STOP).touch()

    def faces_seen(self) -> int:
        """Faces of unfinished units that are through."""
        total = 0
        for path in pathlib.Path(self.staging).glob("working-*/seen"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # its unit was finished meanwhile
                continue
        return total


@functools.lru_cache(maxsize=1)
def source_of(job: Job) -> FaceSource:
    """The job's source, opened once a process.

    Raises:
      PreparedError: it lists other faces than when the preparation began.
    """
    source = job.open_source()
    if source.fingerprint() != job.request["fingerprint"]:
        raise PreparedError(f"{source.description}: its listing changed while it was prepared; run it again")
    return source


def make_unit(job: Job, source: FaceSource, unit: int, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Makes a unit, returns its `done`; `progress` is called with the faces done. Raises Stopped."""
    start, stop = job.bounds(unit)
    working = pathlib.Path(tempfile.mkdtemp(prefix=f"working-{unit:05d}-", dir=job.staging))
    working.chmod(0o755)
    try:
        done = _fill(job, working, unit, _watched(job, source.faces(start, stop), working, progress))
        (working / "seen").unlink()
        write_text(working / "done.json", json.dumps(done))
        _into_place(working, job.folder(unit))
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise
    return done


def _into_place(working: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        os.rename(working, folder)
    except OSError:
        if not (folder / "done.json").is_file():
            raise
        shutil.rmtree(working)  # someone else was faster: the same bytes


def _watched(job, faces, working, progress) -> Iterator[Face | Skip]:
    with open(working / "seen", "wb", buffering=0) as seen:
        for count, face in enumerate(faces, start=1):
            if count % _STOP_EVERY == 1 and job.stop_asked():
                raise Stopped
            yield face
            seen.write(b".")
            if progress:
                progress(count)


def _fill(job: Job, working: pathlib.Path, unit: int, faces: Iterator[Face | Skip]) -> dict[str, Any]:
    skips: list[tuple[int, Skip]] = []
    rows = _sieve(faces, skips)
    if job.request["format"] == "arrays":
        count = _write_columns(working, rows, with_images=True)
    else:
        shard = working / array_record.shard_name(unit, job.request["units"])
        count = _write_columns(working, _through_shard(shard, rows), with_images=False)
    return {"count": count, "skips": [[row, *dataclasses.astuple(skip)] for row, skip in skips]}


def _sieve(faces: Iterator[Face | Skip], skips: list[tuple[int, Skip]]) -> Iterator[Face]:
    for row, face in enumerate(faces):
        if isinstance(face, Skip):
            skips.append((row, face))
        else:
            yield face


def _through_shard(path: pathlib.Path, rows: Iterator[Face]) -> Iterator[Face]:
    """Writes rows into a shard as they pass."""
    with array_record.shard_writer(path) as write:
        for row in rows:
            write(array_record.encode_face(row))
            yield row


def _write_columns(working: pathlib.Path, rows: Iterator[Face], *, with_images: bool) -> int:
    """Streams images to a file, and keeps the small fields of a unit in memory; returns the number of rows."""
    kept: list[Face] = []
    images = None
    try:
        for row in rows:
            image = np.asarray(row["image"])
            if images is None:
                images = npy_stream.NpyAppender(working / "image.npy", image.shape, image.dtype)
            if with_images:
                images.append(image)
            kept.append({name: value for name, value in row.items() if name != "image"})
    finally:
        if images is not None:
            images.close()
    for name in kept[0] if kept else ():
        column = np.stack([np.asarray(row[name]) for row in kept])
        np.save(working / f"{name}.npy", column, allow_pickle=False)
    return len(kept)


def can_be_read_now(job: Job, source: FaceSource, unit: int, done: dict[str, Any], lasting: Collection[str]) -> bool:
    """Whether a face that a finished unit skipped is readable by now, because its file was replaced.

    lasting: reasons that are not looked at again.
    """
    start, _ = job.bounds(unit)
    rows = [start + row for row, _, reason, _ in done["skips"] if reason not in lasting]
    return any(not isinstance(face, Skip) for row in rows for face in source.faces(row, row + 1))
