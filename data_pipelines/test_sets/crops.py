"""Inputs of a network for a test set: crops by given boxes, and detected landmarks."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.sources import detections
from data_pipelines.sources.base import SkipFace, SourceError, to_18_landmarks
from twodal_jax.evaluation.predictions import listed
from twodal_jax.io.images import crop_face, read_image


@dataclasses.dataclass(frozen=True)
class CroppedFaces:
    """Inputs of a network.

    Attributes:
      rows: [n] int, indices of the images in the ground truth.
      image: [n, 120, 120, 3] uint8 BGR, the crops.
      detected: [n, 18, 2], crop pixels.
      detected_visible: [n, 18], 0 where a landmark was not detected.
    """

    rows: np.ndarray
    image: np.ndarray
    detected: np.ndarray
    detected_visible: np.ndarray


def cut_faces(
    keys: Sequence[str],
    roi_box: np.ndarray,
    image_of: Callable[[str], pathlib.Path],
    source: str,
    detected: os.PathLike | str | None = None,
    *,
    authors_mouth: bool = False,
) -> tuple[CroppedFaces, list[str]]:
    """Crops of all readable images, with their detected landmarks.

    Args:
      keys: names of the images.
      roi_box: [n, 4], image pixels.
      image_of: key -> path; may raise SkipFace.
      source: named in messages.
      detected: a detections file in pixels of the 120-pixel crops; None: no landmarks.
      authors_mouth: see `sources.base.to_18_landmarks`.

    Returns:
      The faces, and messages about images that are unreadable or have no landmarks.

    Raises:
      SourceError: no image is readable.
    """
    rows, crops, broken = [], [], {}
    for row, key in enumerate(keys):
        try:
            crops.append(crop_face(read_image(image_of(key)), roi_box[row], margin=0))
        except SkipFace as skip:
            broken.setdefault(skip.reason, []).append(key)
            continue
        rows.append(row)
    if not rows:
        raise SourceError(f"{source}: no image could be read")
    problems = [f"{listed(names)}: {reason}" for reason, names in broken.items()]
    points = detections.landmarks_by_name(detected, [keys[row] for row in rows])
    without = [keys[row] for row, face in zip(rows, points) if np.isnan(face).all()]
    if detected and without:
        problems.append(f"{listed(without)}: no detected landmarks, the network gets an empty heatmap")
    landmarks, visible = to_18_landmarks(points, np.isfinite(points).all(axis=-1), authors_mouth=authors_mouth)
    return CroppedFaces(np.array(rows), np.stack(crops), landmarks, visible), problems
