"""The prepared data set: a folder of ready crops that training reads with random access.

Format "arrays" is one memory-mapped `<field>.npy` a field and needs NumPy alone; format "array_record"
is shards `data-XXXXX-of-YYYYY.array_record`. The fields are described in `manifest.py`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data_pipelines.storage import checksums, manifest as manifests, npy_stream
from data_pipelines.storage.manifest import (
    build_manifest,
    CROP_SIZE,
    field_specs,
    MANIFEST,
    PREPARE_COMMAND,
    PreparedError,
    write_manifest,
)

__all__ = [
    "CROP_SIZE",
    "MANIFEST",
    "PreparedError",
    "PreparedSet",
    "build_manifest",
    "field_specs",
    "open_prepared",
    "verify",
    "write_arrays",
    "write_manifest",
]


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """An opened prepared folder.

    Attributes:
      folder: where it lies.
      manifest: the parsed manifest.json.
      kind: "annotated" or "wild".
      format: "arrays" or "array_record".
      count: number of faces.
      image_size: S, the side of the stored images in pixels.
      fields: name -> {"shape": per-face shape, "dtype": "uint8" | "float32" | "string"}.
      arrays: name -> memory-mapped [count, ...] array; empty for format "array_record".
      shards: paths of the ArrayRecord shards in order; empty for format "arrays".
    """

    folder: pathlib.Path
    manifest: dict[str, Any]
    kind: str
    format: str
    count: int
    image_size: int
    fields: dict[str, dict[str, Any]]
    arrays: dict[str, np.ndarray]
    shards: tuple[pathlib.Path, ...]

    @property
    def margin(self) -> int:
        """Pixels stored around the 120-pixel crop on each side."""
        return (self.image_size - CROP_SIZE) // 2

    def first(self, limit: int) -> PreparedSet:
        """The set cut to its first `limit` faces; 0 means all."""
        return dataclasses.replace(self, count=min(limit or self.count, self.count))


def write_arrays(
    folder: os.PathLike | str,
    *,
    kind: str,
    arrays: Mapping[str, np.ndarray],
    source: str,
    skipped: Mapping[str, int] | None = None,
    **extras: Any,
) -> pathlib.Path:
    """Writes a prepared folder of format "arrays" in one go, atomically.

    Args:
      folder: the folder to make; an older prepared folder of the same kind and source there is replaced.
      kind: "annotated" or "wild".
      arrays: field -> [count, ...]; every field of the kind (see the module), more are allowed.
        Memory-mapped arrays are copied in slices, so memory stays flat.
      source: what the faces were made from, for the reader of the manifest.
      skipped: reason -> count of what could not be used.
      **extras: added to the manifest (alpha_mean, alpha_std, a seed ...).

    Returns:
      The folder's path.

    Raises:
      PreparedError: a field is missing or misshapen, or `folder` holds something else.
    """
    arrays = {name: np.asanyarray(array) for name, array in arrays.items()}
    fields = field_specs(kind, arrays)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise PreparedError(f"all fields need the same number of rows, got {counts}")
    manifest = build_manifest(
        kind=kind, format="arrays", count=len(arrays["image"]), fields=fields, source=source, skipped=skipped, **extras
    )
    folder = pathlib.Path(folder)
    check_replaceable(folder, kind, source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    staging.chmod(0o755)
    try:
        for name, array in arrays.items():
            npy_stream.write(staging / f"{name}.npy", array.shape, array.dtype, [array])
        write_manifest(staging, manifest)
        move_into_place(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return folder


def check_replaceable(folder: pathlib.Path, kind: str | None = None, source: str | None = None) -> None:
    """Raises PreparedError if `folder` exists and is neither empty nor a prepared folder and nothing else.

    With `kind` and `source`: nor one made from something else, which may be the work of a day.
    """
    if folder.exists() and not folder.is_dir():
        raise PreparedError(f"{folder}: is a file; give the name of a folder to make")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not names:
        return
    if not (folder / MANIFEST).is_file():
        raise PreparedError(f"{folder}: exists and holds other files; choose another folder")
    try:
        found = manifests.read_manifest(folder)
    except PreparedError:
        raise PreparedError(
            f"{folder / MANIFEST}: not that of a prepared data set, so what lies there is not touched;"
            " choose another folder, or remove this one"
        ) from None
    others = [name for name in names if name != MANIFEST and name not in found.get(checksums.FILES, names)]
    if others:
        raise PreparedError(
            f"{folder}: holds files that are none of its prepared data set's"
            f" ({', '.join(others[:5])}); choose another folder"
        )
    if source is not None and (found["kind"], found.get("source")) != (kind, source):
        raise PreparedError(
            f"{folder}: holds another prepared set ({found['kind']} faces, {found.get('source')},"
            f" {found['count']} faces); remove it or choose another folder"
        )


def move_into_place(staging: pathlib.Path, folder: pathlib.Path) -> None:
    """Renames a finished staging folder to its final name, replacing an older prepared folder."""
    if not folder.exists():
        os.rename(staging, folder)
        return
    check_replaceable(folder)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.rename(folder, aside / "old")
    os.rename(staging, folder)
    shutil.rmtree(aside, ignore_errors=True)


def open_prepared(folder: os.PathLike | str, *, kind: str | None = None) -> PreparedSet:
    """Opens a prepared folder and checks that it is whole.

    Args:
      folder: a folder written by `scripts.prepare_data` or `write_arrays`.
      kind: if given, the kind the caller needs.

    Raises:
      PreparedError: no such folder, no or broken manifest, another kind, a file missing or of
        another shape than the manifest says. The message names the folder and the command.
    """
    folder = pathlib.Path(folder)
    manifest = manifests.read_manifest(folder)
    if kind is not None and manifest["kind"] != kind:
        raise PreparedError(
            f"{folder}: holds {manifest['kind']!r} faces, {kind!r} ones are needed here; give"
            f" another folder or prepare one: {PREPARE_COMMAND.format(folder='NEW_FOLDER')}"
        )
    manifests.check_fields(manifest["kind"], manifest["fields"], where=str(folder / MANIFEST))
    arrays, shards = {}, ()
    if manifest["format"] == "arrays":
        arrays = {name: _open_field(folder, manifest, name) for name in manifest["fields"]}
    else:
        shards = _find_shards(folder, manifest)
    if problems := checksums.wrong_sizes(folder, manifest):
        raise PreparedError(f"{_told(folder, problems)}; prepare it again: {PREPARE_COMMAND.format(folder=folder)}")
    return PreparedSet(
        folder=folder,
        manifest=manifest,
        kind=manifest["kind"],
        format=manifest["format"],
        count=manifest["count"],
        image_size=manifest["image_size"],
        fields=manifest["fields"],
        arrays=arrays,
        shards=shards,
    )


def verify(folder: os.PathLike | str, progress: Callable[[int, int], None] | None = None) -> PreparedSet:
    """Opens a prepared folder and compares every byte of it with its manifest's hashes.

    Args:
      progress: called with (bytes looked at, all of them).

    Raises:
      PreparedError: as `open_prepared`; files changed (named); or it was prepared before there were hashes.
    """
    opened = open_prepared(folder)
    files = opened.manifest.get(checksums.FILES, {})
    if not files:
        raise PreparedError(
            f"{folder}: its manifest has no hashes, an older version of this program wrote it; to"
            f" have them: {PREPARE_COMMAND.format(folder='NEW_FOLDER')}"
        )
    total, seen = sum(entry["bytes"] for entry in files.values()), 0

    def show(count: int) -> None:
        nonlocal seen
        seen += count
        if progress:
            progress(seen, total)

    if problems := checksums.wrong_content(opened.folder, opened.manifest, show):
        raise PreparedError(
            f"{_told(opened.folder, problems)}; prepare it again: {PREPARE_COMMAND.format(folder=folder)}"
        )
    return opened


def _told(folder: pathlib.Path, problems: Mapping[str, str]) -> str:
    return "; ".join(f"{folder / name}: {text}" for name, text in problems.items())


def _open_field(folder: pathlib.Path, manifest: Mapping[str, Any], name: str) -> np.ndarray:
    path = folder / f"{name}.npy"
    again = f"prepare the folder again: {PREPARE_COMMAND.format(folder=folder)}"
    if not path.is_file():
        raise PreparedError(f"{path}: missing; {again}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PreparedError(f"{path}: not a readable .npy file ({error}); {again}") from None
    spec = manifest["fields"][name]
    wanted = (manifest["count"], *spec["shape"])
    if array.shape != wanted or manifests.dtype_name(array) != spec["dtype"]:
        raise PreparedError(
            f"{path}: {manifests.dtype_name(array)} {list(array.shape)}, the manifest says"
            f" {spec['dtype']} {list(wanted)}; {again}"
        )
    return array


def _find_shards(folder: pathlib.Path, manifest: Mapping[str, Any]) -> tuple[pathlib.Path, ...]:
    shards = tuple(folder / str(name) for name in manifest.get("shards", ()))
    missing = [path.name for path in shards if not path.is_file()]
    if missing or not shards:
        raise PreparedError(
            f"{folder}: shards missing: {', '.join(missing) or 'none is listed in the manifest'};"
            f" prepare it again: {PREPARE_COMMAND.format(folder=folder)}"
        )
    return shards
