"""Work units of a preparation: any number of processes make them, in any order; a killed run keeps the finished ones.

A unit is a slice of a source's listing. A process writes it in a folder of its own and renames that folder when it is
complete, so a unit is either complete or absent. Making a unit twice gives the same bytes. The processes, possibly on
several machines, communicate through one staging folder:

  plan.json        the request; remains of another request are deleted
  unit-XXXXX/      a finished unit: columns as .npy, the shard, done.json
  working-XXXXX-*/ an unfinished unit; its file `seen` has one byte per face
  stop             while it exists, workers end after the next few faces
  failed.txt       why a unit could not be made at all (disk full, listing changed)
"""

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
LAYOUT = 2  # version of the staging folder; remains of another version are deleted
_STOP_EVERY = 16  # faces between two checks for `stop`


class Stopped(Exception):
    """The unit was left unfinished because `stop` exists."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to make units; picklable.

    Attributes:
      staging: the staging folder.
      plan: the JSON text of plan.json.
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
        """Folder of a finished unit."""
        return pathlib.Path(self.staging) / f"unit-{unit:05d}"

    def done(self, unit: int) -> dict[str, Any] | None:
        """`done.json` of a unit: count, and skips as [row, name, reason, detail]; None while unfinished."""
        try:
            return json.loads((self.folder(unit) / "done.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def stop_requested(self) -> bool:
        """Whether `stop` exists."""
        return os.path.exists(os.path.join(self.staging, STOP))

    def request_stop(self) -> None:
        """Creates `stop`."""
        pathlib.Path(self.staging, STOP).touch()

    def faces_seen(self) -> int:
        """Number of faces processed so far in unfinished units."""
        total = 0
        for path in pathlib.Path(self.staging).glob("working-*/seen"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # its unit was finished meanwhile
                continue
        return total


@functools.lru_cache(maxsize=1)
def source_of(job: Job) -> FaceSource:
    """The job's source, opened once per process. Raises PreparedError if its listing changed since the plan."""
    source = job.open_source()
    if source.fingerprint() != job.request["fingerprint"]:
        raise PreparedError(f"{source.description}: its listing changed while it was prepared; run it again")
    return source


def make_unit(job: Job, source: FaceSource, unit: int, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Makes a unit and returns its `done`; `progress` is called with the number of faces done. Raises Stopped."""
    start, stop = job.bounds(unit)
    working = pathlib.Path(tempfile.mkdtemp(prefix=f"working-{unit:05d}-", dir=job.staging))
    working.chmod(0o755)
    try:
        done = _fill(job, working, unit, _counted(job, source.faces(start, stop), working, progress))
        (working / "seen").unlink()
        write_text(working / "done.json", json.dumps(done))
        _move_into_place(working, job.folder(unit))
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise
    return done


def can_be_read_now(job: Job, source: FaceSource, unit: int, done: dict[str, Any], permanent: Collection[str]) -> bool:
    """Whether a face that a finished unit skipped can be read now, because its file was replaced.

    Faces skipped for a reason in `permanent` are not read again.
    """
    start, _ = job.bounds(unit)
    rows = [start + row for row, _, reason, _ in done["skips"] if reason not in permanent]
    return any(not isinstance(face, Skip) for row in rows for face in source.faces(row, row + 1))


def _move_into_place(working: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        os.rename(working, folder)
    except OSError:
        if not (folder / "done.json").is_file():
            raise
        shutil.rmtree(working)  # another process was faster and wrote the same bytes


def _counted(job, faces, working, progress) -> Iterator[Face | Skip]:
    """The faces, counted in `seen`; raises Stopped."""
    with open(working / "seen", "wb", buffering=0) as seen:
        for count, face in enumerate(faces, start=1):
            if count % _STOP_EVERY == 1 and job.stop_requested():
                raise Stopped
            yield face
            seen.write(b".")
            if progress:
                progress(count)


def _fill(job: Job, working: pathlib.Path, unit: int, faces: Iterator[Face | Skip]) -> dict[str, Any]:
    skips: list[tuple[int, Skip]] = []
    rows = _without_skips(faces, skips)
    if job.request["format"] == "arrays":
        count = _write_columns(working, rows, with_images=True)
    else:
        shard = working / array_record.shard_name(unit, job.request["units"])
        count = _write_columns(working, _written_to_shard(shard, rows), with_images=False)
    return {"count": count, "skips": [[row, *dataclasses.astuple(skip)] for row, skip in skips]}


def _without_skips(faces: Iterator[Face | Skip], skips: list[tuple[int, Skip]]) -> Iterator[Face]:
    for row, face in enumerate(faces):
        if isinstance(face, Skip):
            skips.append((row, face))
        else:
            yield face


def _written_to_shard(path: pathlib.Path, rows: Iterator[Face]) -> Iterator[Face]:
    with array_record.shard_writer(path) as write:
        for row in rows:
            write(array_record.encode_face(row))
            yield row


def _write_columns(working: pathlib.Path, rows: Iterator[Face], *, with_images: bool) -> int:
    """Streams images to a file and keeps the small fields of a unit in memory; returns the number of rows."""
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
