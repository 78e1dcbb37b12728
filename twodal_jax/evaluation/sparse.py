"""Test sets with their own few 2D landmarks: AFLW's 21 points, AFLW-LFPA's 34.

A landmark map gives the place of each landmark on a reconstruction: the mean of some of the 68 landmarks, or a vertex
of the mesh. It is a CSV with the columns `landmark` (0-based) and `from68` ("17", or "37 40" for their mean) or
`vertex`. A landmark with neither is not measured.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.evaluation.nme_evaluation import BATCH, landmarks_image
from twodal_jax.evaluation.predictions import crop_alpha, listed, Predictions
from twodal_jax.geometry import projection
from twodal_jax.geometry.morphable_model import MorphableModel

MAPS = pathlib.Path(__file__).with_name("landmark_maps")
NME = "nme"


class LandmarkMapError(ValueError):
    """A landmark map cannot be used; the message names file and row."""


@dataclasses.dataclass(frozen=True)
class LandmarkMap:
    """Places of P landmarks on a reconstruction.

    Attributes:
      weights: [P, 68] float32, rows that sum to 1 for landmarks from the 68, else 0.
      vertices: [P] int, the vertex for landmarks from the mesh, else -1.
    """

    weights: np.ndarray
    vertices: np.ndarray

    @property
    def mapped(self) -> np.ndarray:
        """Whether each landmark has a place: bool [P]."""
        return (self.weights.sum(axis=1) > 0) | (self.vertices >= 0)

    @property
    def needs_mesh(self) -> bool:
        """Whether any landmark is a vertex of the mesh."""
        return bool((self.vertices >= 0).any())


@dataclasses.dataclass(frozen=True)
class SparseTruth:
    """Ground truth with P landmarks per image.

    Attributes:
      name: title in tables.
      keys: [n], see `predictions.image_key`.
      points: [n, P, 2] float32, image pixels, y down.
      visible: [n, P] bool; only visible landmarks are measured.
      size: [n] pixels, the normaliser.
      normaliser: its description.
      yaw_deg: [n], NaN where unknown.
      roi_box: [n, 4], the crops of predictions in crop pixels.
    """

    name: str
    keys: list[str]
    points: np.ndarray
    visible: np.ndarray
    size: np.ndarray
    normaliser: str
    yaw_deg: np.ndarray
    roi_box: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def read_landmark_map(path: os.PathLike | str, count: int, num_vertices: int | None = None) -> LandmarkMap:
    """Reads a map of `count` landmarks from a CSV, or a map of this package by its name ("aflw21", "lfpa34").

    Vertices must be below `num_vertices`, if given. Raises LandmarkMapError if the file is missing or unreadable, or a
    number is out of range.
    """
    path = pathlib.Path(path)
    path = path if path.suffix else MAPS / f"{path}.csv"
    weights, vertices = np.zeros((count, 68), np.float32), np.full(count, -1, np.int64)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise LandmarkMapError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for line, row in enumerate(rows, start=2):
        try:
            landmark = int(row["landmark"])
            sources = [int(word) for word in (row.get("from68") or "").split()]
            vertex = int(row.get("vertex") or -1)
        except (KeyError, TypeError, ValueError):
            raise LandmarkMapError(
                f"{path} row {line}: expected the columns landmark, from68 and vertex with whole numbers."
            ) from None
        limit = num_vertices if num_vertices is not None else vertex + 1
        if not (0 <= landmark < count and all(0 <= s < 68 for s in sources) and -1 <= vertex < limit):
            raise LandmarkMapError(
                f"{path} row {line}: landmark must be in [0, {count}), from68 in [0, 68), vertex in [0, {limit})."
            )
        for source in sources:
            weights[landmark, source] += 1.0 / len(sources)
        vertices[landmark] = -1 if sources else vertex
    if not rows:
        raise LandmarkMapError(f"{path}: no landmark in it.")
    return LandmarkMap(weights, vertices)


def with_landmarks(predictions: Predictions, model: MorphableModel) -> Predictions:
    """Adds the 68 landmarks of the meshes to predictions of meshes alone; returns other predictions unchanged."""
    vertices = predictions.vertices
    if vertices is None or predictions.alpha is not None or predictions.landmarks68 is not None:
        return predictions
    if vertices.shape[-1] != model.num_vertices:
        return predictions
    index = np.asarray(model.landmark_indices)
    points = [np.swapaxes(block[:, :, index], 1, 2) for _, block in vertices.batches(BATCH)]
    return dataclasses.replace(predictions, landmarks68=np.concatenate(points))


@jax.jit
def _mapped_points(landmarks68: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.einsum("pk,nkd->npd", weights, landmarks68[..., :2], precision=jax.lax.Precision.HIGHEST)


def predicted_points(
    predictions: Predictions, truth: SparseTruth, rows: np.ndarray, landmark_map: LandmarkMap, model: MorphableModel
) -> np.ndarray:
    """Predicted landmarks [n, P, 2] of the ground truth's images, image pixels; NaN where not predicted or not mapped.

    `rows` [n] are the rows of the predictions, -1 for none. Predicted landmarks are preferred to alpha, except for the
    map's vertices.
    """
    result = np.full((len(truth), len(landmark_map.vertices), 2), np.nan, np.float32)
    images = np.flatnonzero(rows >= 0)
    at_vertex = landmark_map.vertices >= 0
    from_68 = landmark_map.weights.sum(axis=1) > 0
    small = model.replace(
        mean=model.mean[:, landmark_map.vertices[at_vertex]], basis=model.basis[:, :, landmark_map.vertices[at_vertex]]
    )
    for start in range(0, len(images), BATCH):
        here = images[start : start + BATCH]
        chosen = rows[here]
        own = predictions.roi_box
        roi_box = truth.roi_box[here] if own is None else own[chosen]
        alpha = None
        if predictions.alpha is not None:
            alpha = crop_alpha(predictions, chosen, roi_box, model.alpha_mean, model.alpha_std)
        if predictions.landmarks68 is not None:
            points = predictions.landmarks68[chosen]
        elif alpha is not None:
            points = landmarks_image(model, alpha, roi_box)
        else:
            continue
        mapped = np.asarray(_mapped_points(points, landmark_map.weights))
        result[np.ix_(here, np.flatnonzero(from_68))] = mapped[:, from_68]
        if at_vertex.any() and alpha is not None:
            vertices = projection.crop_to_image(projection.vertices_crop(small, alpha), roi_box)
            result[np.ix_(here, np.flatnonzero(at_vertex))] = np.asarray(vertices)[..., :2]
    return result


def nme_visible(predicted: np.ndarray, truth: SparseTruth, counted: np.ndarray) -> np.ndarray:
    """NME [n] in per cent: mean distance of the visible landmarks divided by the image's normaliser.

    predicted [n, P, 2]; counted bool [P], the landmarks measured. NaN where none is measured, or one is not finite.
    """
    distance = np.linalg.norm(predicted.astype(np.float64) - truth.points, axis=-1)
    used = truth.visible & counted
    total = np.where(used, distance, 0.0).sum(axis=1)
    count = used.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = 100.0 * total / count / truth.size
    return np.where((count > 0) & (truth.size > 0), error, np.nan)


def measure(
    predictions: Predictions,
    truth: SparseTruth,
    landmark_map: LandmarkMap,
    model: MorphableModel,
    problems: list[str],
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, np.ndarray]:
    """Errors {"nme": [n] per cent, NaN where not measured}; adds messages about unmeasured images to `problems`."""
    rows = predictions.rows_of(truth.keys, problems)
    predicted = predicted_points(predictions, truth, rows, landmark_map, model)
    counted = landmark_map.mapped
    if landmark_map.needs_mesh and predictions.alpha is None:
        problems.append(f"{predictions.label}: no alpha, so landmarks that the map takes from the mesh do not count")
        counted = counted & (landmark_map.vertices < 0)
    errors = nme_visible(predicted, truth, counted)
    missing = np.flatnonzero(np.isnan(errors) & (rows >= 0))
    if len(missing):
        names = listed([truth.keys[i] for i in missing])
        problems.append(f"{predictions.label}: {names}: not measurable (no visible landmark, or not finite)")
    progress(len(truth))
    return {NME: errors}
