"""A source of faces -> a prepared folder, in units that survive a kill.

Work goes on in `.<output>.partial/` beside the output: every finished unit (a slice of the source's
listing) is renamed into place there with a `done.json`, and units found done are not made again.
A plan file tells whether the leftovers belong to the same request. Nothing that is written depends
on time or on where a run was cut, so a continued run ends with the same bytes.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from data_pipelines import prepared, records
from data_pipelines.faces import Face, FaceSource, Skip, SourceError
from data_pipelines.prepared import PreparedError

SKIPPED = "skipped.csv"
UNIT_FACES = {"arrays": 1024, "array_record": 4096}
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a preparation did: folder, number of faces, and what was skipped, in order."""

    folder: pathlib.Path
    count: int
    skips: tuple[Skip, ...]

    @property
    def reasons(self) -> dict[str, int]:
        """reason -> number of faces, most frequent first."""
        return dict(collections.Counter(skip.reason for skip in self.skips).most_common())


def prepare(
    source: FaceSource, output: os.PathLike | str, *, format: str = "array_record",
    shards: int | None = None, limit: int | None = None, progress: Progress | None = None,
) -> Summary:
    """Makes a prepared folder of a source, continuing an interrupted preparation of the same one.

    Args:
      source: see `faces.FaceSource`.
      output: the folder to make. If it is there already, made by the same request, nothing is done.
      format: "array_record" or "arrays".
      shards: number of units (and of shard files); by default one for 4096 faces (arrays: 1024).
      limit: only the first so many listed faces.
      progress: called with (listed faces done, all of them) after each face.

    Raises:
      SourceError: no face of the source could be read (with the reasons).
      PreparedError: the output is something else, or another request's.
    """
    output = pathlib.Path(output)
    total = min(len(source), limit if limit is not None else len(source))
    if total < 1:
        raise SourceError(f"{source.description}: lists no faces")
    units = min(total, shards or -(-total // UNIT_FACES[format]))
    plan = {"source": source.description, "fingerprint": source.fingerprint(), "total": total,
            "kind": source.kind, "margin": source.margin, "format": format, "units": units}
    if (finished := _already_prepared(output, plan)) is not None:
        return finished
    staging = _open_staging(output, plan)
    bounds = np.linspace(0, total, units + 1).astype(int)
    for unit, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:])):
        if not (staging / f"unit-{unit:05d}" / "done.json").is_file():
            _make_unit(staging, unit, units, source.faces(start, stop), format,
                       lambda count, start=start: progress and progress(start + count, total))
        if progress:
            progress(int(stop), total)
    return _assemble(output, staging, source, plan)


def _already_prepared(output: pathlib.Path, plan: dict) -> Summary | None:
    prepared.check_replaceable(output)
    if not (output / prepared.MANIFEST).is_file():
        return None
    manifest = prepared.open_prepared(output).manifest
    if manifest.get("plan") != plan:
        raise PreparedError(f"{output}: holds another prepared set ({manifest['source']},"
                            f" {manifest['count']} faces); remove it or choose another --output")
    return Summary(output, manifest["count"], _read_skipped(output / SKIPPED))


def _open_staging(output: pathlib.Path, plan: dict) -> pathlib.Path:
    staging = output.parent / f".{output.name}.partial"
    plan_file = staging / "plan.json"
    text = json.dumps(plan, sort_keys=True)
    if staging.is_dir() and not (plan_file.is_file() and plan_file.read_text() == text):
        shutil.rmtree(staging)
    staging.mkdir(parents=True, exist_ok=True)
    _write_text(plan_file, text)
    return staging


def _make_unit(staging: pathlib.Path, unit: int, units: int, faces: Iterable[Face | Skip],
               format: str, progress: Callable[[int], None]) -> None:
    working = staging / f"working-{unit:05d}"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    skips: list[Skip] = []
    rows = _count_and_sieve(faces, skips, progress)
    if format == "arrays":
        columns = _columns(list(rows))
    else:
        columns = _write_records(working / records.shard_name(unit, units), rows)
    for name, column in columns.items():
        np.save(working / f"{name}.npy", column, allow_pickle=False)
    done = {"count": len(columns.get("name", ())),
            "skips": [dataclasses.astuple(skip) for skip in skips]}
    _write_text(working / "done.json", json.dumps(done))
    os.rename(working, staging / f"unit-{unit:05d}")


def _count_and_sieve(faces, skips: list[Skip], progress) -> Iterator[Face]:
    for count, face in enumerate(faces, start=1):
        if isinstance(face, Skip):
            skips.append(face)
        else:
            yield face
        progress(count)


def _columns(rows: list[Face]) -> dict[str, np.ndarray]:
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]} \
        if rows else {}


def _write_records(path: pathlib.Path, rows: Iterator[Face]) -> dict[str, np.ndarray]:
    """Writes the shard; returns the small columns and an empty image column (for its shape)."""
    kept: list[Face] = []
    shape: list[int] = []

    def encoded():
        for row in rows:
            kept.append({name: value for name, value in row.items() if name != "image"})
            shape[:] = row["image"].shape
            yield records.encode_face(row)

    records.write_shard(path, encoded())
    return _columns(kept) | {"image": np.zeros((0, *shape), np.uint8)} if kept else {}


def _assemble(output, staging, source, plan) -> Summary:
    folders = [staging / f"unit-{unit:05d}" for unit in range(plan["units"])]
    done = [json.loads((folder / "done.json").read_text()) for folder in folders]
    skips = tuple(Skip(*skip) for unit in done for skip in unit["skips"])
    count = sum(unit["count"] for unit in done)
    summary = Summary(output, count, skips)
    if not count:
        shutil.rmtree(staging)
        reasons = "; ".join(f"{reason} ({number})" for reason, number in summary.reasons.items())
        raise SourceError(f"{source.description}: none of {plan['total']} faces could be used:"
                          f" {reasons}; the first: {skips[0].detail or skips[0].name}")
    full = [folder for folder, unit in zip(folders, done) if unit["count"]]
    final = staging / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    columns = {path.stem: [np.load(folder / path.name, mmap_mode="r", allow_pickle=False)
                           for folder in full] for path in sorted(full[0].glob("*.npy"))}
    extras = {"plan": plan, **_whitening(columns)}
    if plan["format"] == "arrays":
        for name, parts in columns.items():
            prepared.write_npy(final / f"{name}.npy", (count, *parts[0].shape[1:]),
                               np.result_type(*parts), parts)
    else:
        extras["shards"] = [next(folder.glob("*.array_record")).name for folder in full]
        for folder, name in zip(full, extras["shards"]):
            _link_or_copy(folder / name, final / name)
    fields = prepared.field_specs(source.kind, {k: v[0] for k, v in columns.items()})
    _write_skipped(final / SKIPPED, skips)
    prepared.write_manifest(final, prepared.build_manifest(
        kind=source.kind, format=plan["format"], count=count, fields=fields,
        source=source.description, skipped=summary.reasons, **extras))
    prepared.move_into_place(final, output)
    shutil.rmtree(staging, ignore_errors=True)
    return summary


def _link_or_copy(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _whitening(columns: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean and standard deviation of alpha over the set, for models that bring no whitening."""
    if "alpha" not in columns:
        return {}
    alpha = np.concatenate(columns["alpha"]).astype(np.float64)
    mean, std = alpha.mean(axis=0), alpha.std(axis=0)
    return {"alpha_mean": mean, "alpha_std": std} if (std > 0).all() else {}


def _write_skipped(path: pathlib.Path, skips: Iterable[Skip]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "reason", "detail"])
        writer.writerows(dataclasses.astuple(skip) for skip in skips)


def _read_skipped(path: pathlib.Path) -> tuple[Skip, ...]:
    if not path.is_file():
        return ()
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(Skip(*row) for row in list(csv.reader(file))[1:])


def _write_text(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
