"""AFLW2000-3D as a benchmark: whole-image ground truth, and the faces a network is shown.

The folder holds name.jpg and name.mat (flat, or in `images`), optionally annotations.npz (name,
roi_box, split, pts68, pts68_reannotated, yaw_deg) and fan_landmarks.csv; formats as in `mat_300w_lp`.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable

import numpy as np
import PIL.Image

from data_pipelines.sources import alpha_from_mat
from data_pipelines.sources.base import SkipFace, SourceError
from data_pipelines.sources.mat_300w_lp import ANNOTATIONS, DETECTIONS, find_image, image_root, list_stems, read_mat
from data_pipelines.sources.safe_paths import check_inside
from data_pipelines.test_sets.crops import CroppedFaces, cut_faces
from twodal_jax.evaluation.nme_evaluation import GroundTruth
from twodal_jax.evaluation.predictions import listed
from twodal_jax.geometry import projection
from twodal_jax.io import npy
from twodal_jax.io.images import crop_face, read_image
from twodal_jax.io.untrusted import BrokenFileError

_TEXT, _NUMBER = "US", "fiu"  # NumPy's kinds
# Of annotations.npz: the shape of an entry (None: any side), and its kind.
_COLUMNS: dict[str, tuple[tuple[int | None, ...], str]] = {
    "split": ((), _TEXT),
    "roi_box": ((4,), _NUMBER),
    "yaw_deg": ((), _NUMBER),
    "pts68": ((3, 68), _NUMBER),
    "pts68_reannotated": ((None, 68), _NUMBER),
}


def read_ground_truth(
    folder: os.PathLike | str,
    *,
    split: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[GroundTruth, list[str]]:
    """Reads what predictions are measured against.

    An image without a usable .mat still counts for its landmarks where annotations.npz has them.

    Returns:
      The truth, and messages about images that are left out or lack a part.

    Raises:
      SourceError: the folder or the split does not exist, or no image has ground truth.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give the one of AFLW2000-3D's .jpg and .mat files")
    annotations = _read_annotations(folder / ANNOTATIONS)
    names = list_stems(image_root(folder))
    if split is not None:
        names = [name for name in names if annotations.get(name, {}).get("split") == split]
        if not names:
            known = sorted({str(row.get("split")) for row in annotations.values()})
            raise SourceError(
                f"{folder}: no image of split {split!r} (annotations.npz has {', '.join(known) or 'none'})"
            )
    rows, gaps = [], {}
    for done, name in enumerate(names):
        row, reasons = _read_one(image_root(folder) / f"{name}.mat", annotations.get(name, {}))
        for reason in reasons:
            gaps.setdefault(reason, []).append(name)
        if row is not None:
            rows.append({"key": name} | row)
        progress(done + 1, len(names))
    problems = [f"{folder.name}: {listed(found)}: {reason}" for reason, found in gaps.items()]
    if not rows:
        raise SourceError(f"{folder}: no image with ground truth.\n" + "\n".join(problems))
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0] if key != "key"}
    if np.isnan(columns["reannotated"]).all():
        columns["reannotated"] = None
    return GroundTruth(name=folder.name, keys=[row["key"] for row in rows], **columns), problems


def _read_annotations(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """{name: row of the known columns}; empty without the file."""
    if not path.is_file():
        return {}
    try:
        content = npy.read_npz(path)
        names = [str(name) for name in np.atleast_1d(content["name"])]
        columns = {key: np.atleast_1d(content[key]) for key in _COLUMNS if key in content}
    except (BrokenFileError, KeyError) as error:
        raise SourceError(f"{path}: not readable ({error}); it needs name and any of {', '.join(_COLUMNS)}") from None
    for key, column in columns.items():
        shape, kinds = (len(names), *_COLUMNS[key][0]), _COLUMNS[key][1]
        fits = len(column.shape) == len(shape) and all(w in (None, s) for w, s in zip(shape, column.shape))
        if not fits or column.dtype.kind not in kinds:
            sides = ["2 or 3" if side is None else side for side in shape]
            raise SourceError(
                f"{path}: {key} is {column.dtype} {list(column.shape)}, expected"
                f" {'numbers' if kinds == _NUMBER else 'texts'} {sides}"
            )
    return {name: {key: column[i] for key, column in columns.items()} for i, name in enumerate(names)}


def _read_one(path: pathlib.Path, annotated: dict) -> tuple[dict | None, list[str]]:
    """(row of the truth or None, what it lacks) of one image."""
    reasons, mat, alpha = [], {}, None
    try:
        if not path.is_file():
            raise SkipFace("no .mat file")
        mat = read_mat(path)
        alpha = alpha_from_mat.image_alpha(mat, inside_out=True)
    except SkipFace as skip:
        reasons.append(f"{skip.reason}{f' ({skip.detail})' if skip.detail else ''}: nothing dense measured")
    landmarks = mat.get("pt3d_68", annotated.get("pts68"))
    if landmarks is None or landmarks.shape != (3, 68) or not np.isfinite(landmarks).all():
        return None, [*reasons[:1], "left out: no true 68 landmarks (pt3d_68 of the .mat)"][-1:]
    landmarks = alpha_from_mat.mat_points(np.asarray(landmarks, np.float32).T)
    box = annotated.get("roi_box")
    if box is None:
        box = projection.roi_box_from_landmarks(landmarks)
    box = np.asarray(box, np.float32)
    pose = np.ravel(mat["Pose_Para"]) if alpha is not None else None
    yaw = annotated.get("yaw_deg", np.nan if pose is None else np.degrees(pose[1]))
    height = _image_height(path)
    if height is None and alpha is not None:
        reasons.append("no readable image: nothing dense measured")
        alpha = None
    crop = np.full(62, np.nan, np.float32)
    if alpha is not None:
        crop = alpha_from_mat.crop_alpha(alpha, box, height)
    again = annotated.get("pts68_reannotated", np.full((2, 68), np.nan))
    return {
        "landmarks68": landmarks,
        "reannotated": alpha_from_mat.mat_points(np.asarray(again, np.float32)[:2].T),
        "yaw_deg": np.float64(yaw),
        "roi_box": box,
        "alpha": crop,
    }, reasons


def _image_height(mat_path: pathlib.Path) -> int | None:
    """From the file's header alone."""
    path = find_image(mat_path)
    if path is None:
        return None
    try:
        with PIL.Image.open(path) as image:
            return image.height
    except Exception:  # Pillow raises many types on broken files
        return None


def read_crop(folder: os.PathLike | str, name: str, roi_box: np.ndarray) -> np.ndarray | None:
    """The crop [120, 120, 3] uint8 BGR of an image, None where it cannot be read."""
    try:
        path = _image_path(pathlib.Path(folder), name)
        return crop_face(read_image(path), roi_box, margin=0)
    except SkipFace:
        return None


def _image_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    mat_path = image_root(folder) / f"{name}.mat"
    path = find_image(mat_path)
    if path is None:
        raise SkipFace("image not found", f"{mat_path}: no .jpg of this name beside it")
    check_inside(path, folder)
    return path


def read_faces(
    folder: os.PathLike | str,
    truth: GroundTruth,
    detected: os.PathLike | str | None = None,
    *,
    empty: bool = False,
    authors_mouth: bool = False,
) -> tuple[CroppedFaces, list[str]]:
    """The crops of all images of the truth, with detected landmarks; see `crops.cut_faces`.

    detected: default: fan_landmarks.csv where the folder has one. empty: no landmarks at all.
    """
    folder = pathlib.Path(folder)
    default = folder / DETECTIONS
    path = None if empty else detected or (default if default.is_file() else None)
    return cut_faces(
        truth.keys,
        truth.roi_box,
        functools.partial(_image_path, folder),
        str(folder),
        path,
        authors_mouth=authors_mouth,
    )
