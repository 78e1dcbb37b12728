"""Prepared data set: a folder of crops that training reads with random access.

Format "arrays" has one memory-mapped `<field>.npy` per field and needs NumPy alone. Format "array_record" has shards
`data-XXXXX-of-YYYYY.array_record`. `storage.manifest` describes the fields.
"""

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


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """An opened prepared folder.

    Attributes:
      folder: its path.
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

    def first(self, limit: int) -> "PreparedSet":
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
    """Writes a prepared folder of format "arrays" atomically.

    Args:
      folder: the folder to make; a prepared folder of the same kind and source there is replaced.
      kind: "annotated" or "wild".
      arrays: field -> [count, ...], every field of the kind (`storage.manifest`) and possibly more. Memory-mapped
        arrays are copied in slices, so that memory use stays constant.
      source: description of the faces' origin, for the manifest.
      skipped: reason -> number of faces that could not be used.
      **extras: added to the manifest, such as alpha_mean, alpha_std or a seed.

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
    """Raises PreparedError unless `folder` is missing, empty, or a prepared folder without other files.

    With `kind` and `source`, a set of another kind or source is refused too: making it may have taken a day.
    """
    if folder.exists() and not folder.is_dir():
        raise PreparedError(f"{folder}: is a file; give the name of a folder to make")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not names:
        return
    if not (folder / MANIFEST).is_file():
        raise PreparedError(f"{folder}: exists and holds other files; choose another folder")
    try:
        manifest = manifests.read_manifest(folder)
    except PreparedError:
        raise PreparedError(
            f"{folder / MANIFEST}: not the manifest of a prepared data set, so the folder is not replaced;"
            " choose another folder, or remove this one"
        ) from None
    others = [name for name in names if name != MANIFEST and name not in manifest[checksums.FILES]]
    if others:
        raise PreparedError(
            f"{folder}: holds files that do not belong to its prepared data set ({', '.join(others[:5])});"
            " choose another folder"
        )
    if source is not None and (manifest["kind"], manifest["source"]) != (kind, source):
        raise PreparedError(
            f"{folder}: holds another prepared set ({manifest['kind']} faces, {manifest['source']},"
            f" {manifest['count']} faces); remove it or choose another folder"
        )


def move_into_place(staging: pathlib.Path, folder: pathlib.Path) -> None:
    """Renames a finished staging folder to its final name, replacing a prepared folder there."""
    if not folder.exists():
        os.rename(staging, folder)
        return
    check_replaceable(folder)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.rename(folder, aside / "old")
    os.rename(staging, folder)
    shutil.rmtree(aside, ignore_errors=True)


def open_prepared(folder: os.PathLike | str, *, kind: str | None = None) -> PreparedSet:
    """Opens a prepared folder and checks that it is complete.

    Args:
      folder: a folder written by `scripts.prepare_data` or `write_arrays`.
      kind: the kind the caller needs; default: any.

    Raises:
      PreparedError: the folder or its manifest is missing or broken, the kind differs, or a file is missing or does
        not fit the manifest. The message names the folder and the command that prepares it.
    """
    folder = pathlib.Path(folder)
    manifest = manifests.read_manifest(folder)
    if kind is not None and manifest["kind"] != kind:
        raise PreparedError(
            f"{folder}: holds {manifest['kind']!r} faces, {kind!r} ones are needed here; give"
            f" another folder or prepare one: {PREPARE_COMMAND.format(folder='NEW_FOLDER')}"
        )
    manifests.check_fields(manifest["kind"], manifest["fields"], where=str(folder / MANIFEST))
    again = f"prepare it again: {PREPARE_COMMAND.format(folder=folder)}"
    arrays, shards = {}, ()
    if manifest["format"] == "arrays":
        arrays = {name: _open_field(folder, manifest, name, again) for name in manifest["fields"]}
    else:
        shards = tuple(folder / str(name) for name in manifest.get("shards", ()))
        missing = [path.name for path in shards if not path.is_file()]
        if missing or not shards:
            listed = ", ".join(missing) or "none is listed in the manifest"
            raise PreparedError(f"{folder}: shards missing: {listed}; {again}")
    if problems := checksums.wrong_sizes(folder, manifest):
        raise PreparedError(f"{_listed(folder, problems)}; {again}")
    same = {name: manifest[name] for name in ("kind", "format", "count", "image_size", "fields")}
    return PreparedSet(folder=folder, manifest=manifest, arrays=arrays, shards=shards, **same)


def verify(folder: os.PathLike | str, progress: Callable[[int, int], None] | None = None) -> PreparedSet:
    """Opens a prepared folder and compares every byte with the hashes of its manifest.

    `progress` is called with (bytes read, total bytes). Raises PreparedError as `open_prepared`, or with the names of
    all files that changed.
    """
    opened = open_prepared(folder)
    total, seen = sum(entry["bytes"] for entry in opened.manifest[checksums.FILES].values()), 0

    def show(count: int) -> None:
        nonlocal seen
        seen += count
        if progress:
            progress(seen, total)

    if problems := checksums.wrong_content(opened.folder, opened.manifest, show):
        raise PreparedError(
            f"{_listed(opened.folder, problems)}; prepare it again: {PREPARE_COMMAND.format(folder=folder)}"
        )
    return opened


def _listed(folder: pathlib.Path, problems: Mapping[str, str]) -> str:
    return "; ".join(f"{folder / name}: {text}" for name, text in problems.items())


def _open_field(folder: pathlib.Path, manifest: Mapping[str, Any], name: str, again: str) -> np.ndarray:
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise PreparedError(f"{path}: missing; {again}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PreparedError(f"{path}: not a readable .npy file ({error}); {again}") from None
    spec = manifest["fields"][name]
    expected = (manifest["count"], *spec["shape"])
    if array.shape != expected or manifests.dtype_name(array) != spec["dtype"]:
        raise PreparedError(
            f"{path}: {manifests.dtype_name(array)} {list(array.shape)}, the manifest lists"
            f" {spec['dtype']} {list(expected)}; {again}"
        )
    return array
