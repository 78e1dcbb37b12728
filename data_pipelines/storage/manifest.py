"""Manifest of a prepared data set: the fields of each kind of face, and their validation.

A folder holds `manifest.json` and either one `<field>.npy` per field (format "arrays", memory-mapped, NumPy only) or
`data-XXXXX-of-YYYYY.array_record` shards (format "array_record"). The manifest lists the size and SHA-256 of each file
(`storage.checksums`) and its own SHA-256. One row is one face:

  image            uint8   [S, S, 3]  BGR; S = 120 + 2 * margin, the 120-pixel crop is its centre
  name             string  []         the image's name in its source
  yaw_deg          float32 []         NaN where unknown
  kind "annotated":
    alpha            float32 [62]     raw coefficients, frame of the 120-pixel crop, y up
    landmarks68      float32 [68, 3]  true landmarks, crop pixels, y down
    roi_box          float32 [4]      sx, sy, ex, ey of the 120-pixel crop in the source image
    detected         float32 [18, 2]  a detector's landmarks, crop pixels, y down; 0 where invisible
    detected_visible float32 [18]     1 or 0
    landmarks68_2d   float32 [68, 2]  as landmarks68, the jaw on the visible outline of the face (`geometry.contour`);
                                      only of the source profile
  kind "wild":
    landmarks        float32 [18, 2]  crop pixels, y down; 0 where invisible
    visible          float32 [18]     1 or 0
    jaw              float32 [3, 2]   the points of `heatmap.JAW_NAMES`, as landmarks; only of sources with 21 points
    jaw_visible      float32 [3]      1 or 0; as jaw
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.storage import checksums
from twodal_jax.io.text import write_text

Face = dict[str, Any]  # one row: field name -> NumPy array or string
VERSION = 1
CROP_SIZE = 120
MANIFEST = "manifest.json"
FORMATS = ("arrays", "array_record")
PREPARE_COMMAND = "python -m scripts.prepare_data SOURCE --input=... --output={folder}"

_COMMON = {"image": ((None, None, 3), "uint8"), "yaw_deg": ((), "float32"), "name": ((), "string")}
FIELDS: dict[str, dict[str, tuple[tuple, str]]] = {
    "annotated": {
        **_COMMON,
        "alpha": ((62,), "float32"),
        "landmarks68": ((68, 3), "float32"),
        "roi_box": ((4,), "float32"),
        "detected": ((18, 2), "float32"),
        "detected_visible": ((18,), "float32"),
    },
    "wild": {**_COMMON, "landmarks": ((18, 2), "float32"), "visible": ((18,), "float32")},
}
OPTIONAL_FIELDS: dict[str, dict[str, tuple[tuple, str]]] = {
    "annotated": {"landmarks68_2d": ((68, 2), "float32")},
    "wild": {"jaw": ((3, 2), "float32"), "jaw_visible": ((3,), "float32")},
}


class PreparedError(ValueError):
    """A prepared folder is missing, incomplete or of another kind."""


def field_specs(kind: str, rows: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The manifest's "fields" entry of stacked rows ([count, ...] each). More fields than required are allowed.

    Raises PreparedError that names every field that is missing or has a wrong shape or dtype.
    """
    if kind not in FIELDS:
        raise PreparedError(f"kind must be one of {sorted(FIELDS)}, got {kind!r}")
    fields = {name: {"shape": list(array.shape[1:]), "dtype": dtype_name(array)} for name, array in rows.items()}
    check_fields(kind, fields, where=f"rows of kind {kind!r}")
    return fields


def build_manifest(
    *,
    kind: str,
    format: str,
    count: int,
    fields: Mapping[str, Any],
    source: str,
    skipped: Mapping[str, int] | None = None,
    **extras: Any,
) -> dict[str, Any]:
    """Content of manifest.json. `extras`, such as alpha_mean, are added to it; they may be arrays."""
    if format not in FORMATS:
        raise PreparedError(f"format must be one of {FORMATS}, got {format!r}")
    return {
        "version": VERSION,
        "kind": kind,
        "format": format,
        "count": int(count),
        "image_size": int(fields["image"]["shape"][0]),
        "fields": dict(fields),
        "source": source,
        "skipped": dict(skipped or {}),
        **{key: _jsonable(value) for key, value in extras.items()},
    }


def write_manifest(folder: os.PathLike | str, manifest: Mapping[str, Any]) -> None:
    """Writes manifest.json, with the sizes and hashes of all files of the finished folder and its own hash."""
    manifest = {**manifest, checksums.FILES: checksums.describe_files(folder)}
    manifest[checksums.DIGEST] = checksums.manifest_digest(manifest)
    write_text(pathlib.Path(folder) / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and validates manifest.json. Raises PreparedError with the command that prepares the folder."""
    again = f"prepare it with: {PREPARE_COMMAND.format(folder=folder)}"
    if not folder.is_dir():
        raise PreparedError(f"{folder}: no such folder; {again}")
    path = folder / MANIFEST
    if not path.is_file():
        raise PreparedError(f"{folder}: no {MANIFEST}, so it is not a prepared data set; {again}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        problem = _manifest_problem(manifest)
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are not UTF-8
        raise PreparedError(f"{path}: not valid JSON ({error}); {again}") from None
    if problem:
        raise PreparedError(f"{path}: {problem}; {again}")
    return manifest


def _manifest_problem(manifest: Any) -> str:
    """What is wrong with the content of a manifest.json; "" if nothing."""
    if not isinstance(manifest, dict):
        return "not a JSON object"
    types = {"version": int, "kind": str, "format": str, "count": int, "image_size": int, "fields": dict}
    types |= {"source": str, checksums.FILES: dict, checksums.DIGEST: str}
    wrong = [key for key, kind in types.items() if not isinstance(manifest.get(key), kind)]
    if wrong:
        return f"lacks {', '.join(wrong)} (or of a wrong type)"
    if manifest["version"] != VERSION:
        return f"version {manifest['version']}, this program reads version {VERSION}"
    if manifest["kind"] not in FIELDS or manifest["format"] not in FORMATS:
        return f"unknown kind {manifest['kind']!r} or format {manifest['format']!r}"
    if manifest["count"] < 1:
        return "holds no faces"
    broken = [name for name, spec in manifest["fields"].items() if not _has(spec, shape=list, dtype=str)]
    if broken:
        return f"fields {broken} lack shape or dtype"
    files = manifest[checksums.FILES]
    valid = all("/" not in name and _has(entry, bytes=int, sha256=str) for name, entry in files.items())
    return "" if valid else "files lack bytes or sha256"


def _has(entry: Any, **types: type) -> bool:
    """Whether a JSON value is an object with entries of the given types."""
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in types.items())


def check_fields(kind: str, fields: Mapping[str, Any], where: str) -> None:
    """Raises PreparedError that names, after `where`, every field that does not fit the kind."""
    problems = []
    for name, (shape, dtype) in (FIELDS[kind] | OPTIONAL_FIELDS[kind]).items():
        if name not in fields:
            if name in FIELDS[kind]:
                problems.append(f"{name} is missing")
            continue
        got = tuple(fields[name]["shape"])
        fits = len(got) == len(shape) and all(w in (None, g) for w, g in zip(shape, got))
        if not fits or fields[name]["dtype"] != dtype:
            expected = f"{dtype} {['S' if side is None else side for side in shape]}"
            problems.append(f"{name} is {fields[name]['dtype']} {list(got)}, expected {expected}")
    if "image" in fields and not problems:
        height, width = fields["image"]["shape"][:2]
        if height != width or height < CROP_SIZE or (height - CROP_SIZE) % 2:
            problems.append(f"image is {height}x{width}, expected square, 120 + 2 * margin")
    if problems:
        raise PreparedError(f"{where}: " + "; ".join(problems))


def dtype_name(array: np.ndarray) -> str:
    """The manifest's name of an array's dtype."""
    return "string" if array.dtype.kind == "U" else array.dtype.name


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
