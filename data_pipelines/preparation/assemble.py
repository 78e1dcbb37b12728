"""Assembles finished units into one prepared folder: columns joined, shards linked, skips listed, files hashed."""

import collections
import csv
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_pipelines.sources.base import FaceSource, Skip, SourceError
from data_pipelines.storage import npy_stream, prepared_dataset
from twodal_jax.io.text import as_csv_cell

SKIPPED = "skipped.csv"


@dataclasses.dataclass(frozen=True)
class Summary:
    """Result of a preparation.

    Attributes:
      folder: the prepared folder.
      count: number of faces.
      skips: skipped faces, in order.
      made: False where the folder existed already.
    """

    folder: pathlib.Path
    count: int
    skips: tuple[Skip, ...]
    made: bool = True

    @property
    def reasons(self) -> dict[str, int]:
        """Numbers of skipped faces by reason, most frequent first."""
        return dict(collections.Counter(skip.reason for skip in self.skips).most_common())


def assemble(output: pathlib.Path, staging: pathlib.Path, source: FaceSource, plan: dict[str, Any]) -> Summary:
    """Makes the prepared folder of a staging folder with all units finished, and deletes the staging folder.

    Raises SourceError if no unit has a face.
    """
    folders = [staging / f"unit-{unit:05d}" for unit in range(plan["units"])]
    done = [json.loads((folder / "done.json").read_text()) for folder in folders]
    skips = tuple(Skip(*skip[1:]) for unit in done for skip in unit["skips"])
    count = sum(unit["count"] for unit in done)
    summary = Summary(output, count, skips)
    if not count:
        shutil.rmtree(staging)
        reasons = "; ".join(f"{reason} ({number})" for reason, number in summary.reasons.items())
        raise SourceError(
            f"{source.description}: none of {plan['total']} faces could be used:"
            f" {reasons}; the first: {skips[0].detail or skips[0].name}"
        )
    full = [folder for folder, unit in zip(folders, done) if unit["count"]]
    final = staging / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    columns = {
        path.stem: [np.load(folder / path.name, mmap_mode="r", allow_pickle=False) for folder in full]
        for path in sorted(full[0].glob("*.npy"))
    }
    extras = {"plan": plan, **_whitening(columns)}
    if plan["format"] == "arrays":
        for name, parts in columns.items():
            pieces = (rows for folder in full for rows in npy_stream.read_in_pieces(folder / f"{name}.npy"))
            npy_stream.write(final / f"{name}.npy", (count, *parts[0].shape[1:]), np.result_type(*parts), pieces)
    else:
        extras["shards"] = [next(folder.glob("*.array_record")).name for folder in full]
        for folder, name in zip(full, extras["shards"]):
            _link_or_copy(folder / name, final / name)
    manifest = prepared_dataset.build_manifest(
        kind=source.kind,
        format=plan["format"],
        count=count,
        fields=prepared_dataset.field_specs(source.kind, {name: parts[0] for name, parts in columns.items()}),
        source=source.description,
        skipped=summary.reasons,
        **extras,
    )
    _write_skipped(final / SKIPPED, skips)
    prepared_dataset.write_manifest(final, manifest)
    prepared_dataset.move_into_place(final, output)
    shutil.rmtree(staging, ignore_errors=True)
    return summary


def _link_or_copy(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _whitening(columns: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean and standard deviation of alpha over the set, for morphable models that come without a whitening."""
    if "alpha" not in columns:
        return {}
    alpha = np.concatenate(columns["alpha"]).astype(np.float64)
    mean, std = alpha.mean(axis=0), alpha.std(axis=0)
    return {"alpha_mean": mean, "alpha_std": std} if (std > 0).all() else {}


def _write_skipped(path: pathlib.Path, skips: Iterable[Skip]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "reason", "detail"])
        writer.writerows(map(as_csv_cell, dataclasses.astuple(skip)) for skip in skips)


def read_skipped(path: pathlib.Path) -> tuple[Skip, ...]:
    """Skips listed in a prepared folder's skipped.csv."""
    if not path.is_file():
        return ()
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(Skip(*row) for row in list(csv.reader(file))[1:])
