"""AFLW2000-3D as a test set: ground truth in whole images, and the inputs of a network.

The folder holds name.jpg and name.mat (flat, or in `images`), optionally annotations.npz (name, roi_box, split, pts68,
pts68_reannotated, yaw_deg) and fan_landmarks.csv; formats as in `sources.mat_300w_lp`.
"""

import functools
import os
import pathlib
from collections.abc import Callable

import numpy as np
import PIL.Image

from data_pipelines.sources import alpha_from_mat
from data_pipelines.sources.base import ignored, SkipFace, SourceError
from data_pipelines.sources.mat_300w_lp import (
    ANNOTATIONS,
    DETECTIONS,
    find_image,
    image_root,
    list_stems,
    read_annotations,
    read_mat,
)
from data_pipelines.sources.safe_paths import check_inside
from data_pipelines.test_sets.crops import CroppedFaces, cut_faces
from twodal_jax.evaluation.nme_evaluation import GroundTruth
from twodal_jax.evaluation.predictions import listed
from twodal_jax.geometry import projection
from twodal_jax.io.images import crop_face, read_image


def read_ground_truth(
    folder: os.PathLike | str,
    *,
    split: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[GroundTruth, list[str]]:
    """Reads the ground truth that predictions are compared with.

    An image without a usable .mat still counts for its landmarks if annotations.npz has them.

    Returns:
      The ground truth, and messages about images that are left out or incomplete.

    Raises:
      SourceError: the folder or the split does not exist, or no image has ground truth.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give the one of AFLW2000-3D's .jpg and .mat files")
    annotations = read_annotations(folder / ANNOTATIONS)
    names, of_mac = list_stems(image_root(folder))
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
    problems = [f"{folder.name}: {listed(images)}: {reason}" for reason, images in gaps.items()]
    problems += [f"{folder.name}: {ignored(of_mac)}"] if of_mac else []
    if not rows:
        raise SourceError(f"{folder}: no image with ground truth.\n" + "\n".join(problems))
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0] if key != "key"}
    if np.isnan(columns["reannotated"]).all():
        columns["reannotated"] = None
    return GroundTruth(name=folder.name, keys=[row["key"] for row in rows], **columns), problems


def _read_one(path: pathlib.Path, annotated: dict) -> tuple[dict | None, list[str]]:
    """(row of the ground truth or None, what is missing) of one image."""
    reasons, mat, alpha = [], {}, None
    try:
        if not path.is_file():
            raise SkipFace("no .mat file")
        mat = read_mat(path)
        alpha = alpha_from_mat.image_alpha(mat, allow_negative_scale=True)
    except SkipFace as skip:
        reasons.append(f"{skip.reason}{f' ({skip.detail})' if skip.detail else ''}: no dense errors")
    landmarks = mat.get("pt3d_68", annotated.get("pts68"))
    if landmarks is None or landmarks.shape != (3, 68) or not np.isfinite(landmarks).all():
        return None, [*reasons[:1], "left out: no true 68 landmarks (pt3d_68 of the .mat)"][-1:]
    landmarks = alpha_from_mat.mat_points(np.asarray(landmarks, np.float32).T)
    box = annotated.get("roi_box")
    if box is None:
        box = projection.roi_box_from_landmarks(landmarks)
    box = np.asarray(box, np.float32)
    yaw = annotated.get("yaw_deg", np.nan if alpha is None else np.degrees(np.ravel(mat["Pose_Para"])[1]))
    height = _image_height(path)
    if height is None and alpha is not None:
        reasons.append("no readable image: no dense errors")
        alpha = None
    reannotated = annotated.get("pts68_reannotated", np.full((2, 68), np.nan))
    return {
        "landmarks68": landmarks,
        "reannotated": alpha_from_mat.mat_points(np.asarray(reannotated, np.float32)[:2].T),
        "yaw_deg": np.float64(yaw),
        "roi_box": box,
        "alpha": np.full(62, np.nan, np.float32) if alpha is None else alpha_from_mat.crop_alpha(alpha, box, height),
    }, reasons


def _image_height(mat_path: pathlib.Path) -> int | None:
    """Height in pixels, from the image file's header alone; None if there is no readable image."""
    path = find_image(mat_path)
    if path is None:
        return None
    try:
        with PIL.Image.open(path) as image:
            return image.height
    except Exception:  # Pillow raises many types on broken files
        return None


def read_crop(folder: os.PathLike | str, name: str, roi_box: np.ndarray) -> np.ndarray | None:
    """Crop [120, 120, 3] uint8 BGR of an image, None if it cannot be read."""
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
    """Crops of all images of the ground truth, with detected landmarks; see `crops.cut_faces`.

    `detected` defaults to the folder's fan_landmarks.csv if it exists; `empty` gives no landmarks at all.
    """
    folder = pathlib.Path(folder)
    default = folder / DETECTIONS
    path = None if empty else detected or (default if default.is_file() else None)
    image_of = functools.partial(_image_path, folder)
    return cut_faces(truth.keys, truth.roi_box, image_of, str(folder), path, authors_mouth=authors_mouth)
