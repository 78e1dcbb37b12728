"""The errors of Section IV on an annotated set: predictions of one method compared with the ground truth.

Points are compared in pixels of the whole image, y down, z towards the viewer. The normaliser is the box around the
68 landmarks of the ground truth in question (`metrics.nme`); that of the reconstruction error is the true outer 3D
interocular distance.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.evaluation import icp, metrics
from twodal_jax.evaluation.predictions import crop_alpha, listed, Predictions
from twodal_jax.geometry import projection
from twodal_jax.geometry.morphable_model import MorphableModel, OUTER_EYE_CORNERS
from twodal_jax.rendering import shading

REANNOTATED = "_reannotated"
LANDMARK_MEASURES = ("nme_2d_68", "nme_3d_68")
DENSE_MEASURES = ("nme_2d_dense", "nme_3d_dense")
RECONSTRUCTION = "nme_reconstruction"
# Titles of the measures in tables.
TITLES = {
    "nme_2d_68": "2D, 68 points",
    "nme_2d_68" + REANNOTATED: "2D, 68 points, re-annotated",
    "nme_3d_68": "3D, 68 points",
    "nme_2d_dense": "2D, all vertices",
    "nme_3d_dense": "3D, all vertices",
    RECONSTRUCTION: "reconstruction (ICP)",
}
NORMALISERS = {name: "sqrt(w h) of the box around the true 68 landmarks" for name in TITLES} | {
    "nme_2d_68" + REANNOTATED: "sqrt(w h) of the box around the re-annotated 68 landmarks",
    RECONSTRUCTION: "3D distance of the true outer eye corners (landmarks 36 and 45)",
}
BATCH = 16


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """Ground truth of an annotated set.

    Attributes:
      name: used in messages and per_image.csv.
      keys: [n], see `predictions.image_key`.
      landmarks68: [n, 68, 3] float32, image pixels, y down, z towards the viewer.
      reannotated: [n, 68, 2] float32, or None; NaN where an image has none.
      yaw_deg: [n], degrees.
      roi_box: [n, 4] float32, the crops of predictions in crop pixels.
      alpha: [n, 62] float32, raw, in the frame of the crop; NaN where an image has none.
      components: number of shape and expression components of `alpha`, for tables.
    """

    name: str
    keys: list[str]
    landmarks68: np.ndarray
    reannotated: np.ndarray | None
    yaw_deg: np.ndarray
    roi_box: np.ndarray
    alpha: np.ndarray
    components: str = "40 + 10"

    def __len__(self) -> int:
        return len(self.keys)


@jax.jit
def landmarks_image(model: MorphableModel, alpha: jax.Array, roi_box: jax.Array) -> jax.Array:
    """The 68 landmarks [B, 68, 3], image pixels, of alpha [B, 62] (raw, crop) and roi_box [B, 4]."""
    return projection.crop_to_image(projection.landmarks_crop(model, alpha), roi_box)


@jax.jit
def vertices_image(model: MorphableModel, alpha: jax.Array, roi_box: jax.Array) -> jax.Array:
    """All vertices [B, N, 3], image pixels, of alpha [B, 62] (raw, crop) and roi_box [B, 4]."""
    return projection.crop_to_image(projection.vertices_crop(model, alpha), roi_box)


@jax.jit
def dense_errors(predicted: jax.Array, true: jax.Array, box_landmarks: jax.Array) -> jax.Array:
    """NME [2, B] of all vertices in 2D and in 3D, per cent; predicted, true [B, N, 3], box_landmarks [B, 68, >=2]."""
    error_2d = metrics.nme(predicted[..., :2], true[..., :2], box_landmarks)
    return jnp.stack([error_2d, metrics.nme(predicted, true, box_landmarks)])


def with_landmarks_only(predictions: Predictions, model: MorphableModel) -> Predictions:
    """Predictions of alpha with roi_box as their 68 landmarks, by the morphable model that alpha belongs to."""
    points = np.zeros((0, 68, 3), np.float32)
    if len(predictions.alpha):
        points = np.asarray(landmarks_image(model, predictions.alpha, predictions.roi_box))
    return Predictions(predictions.label, predictions.keys, landmarks68=points)


def measures_of(predictions: Predictions, truth: GroundTruth, model: MorphableModel, *, icp: bool) -> list[str]:
    """Names of the measures that the predictions allow, in the order of `TITLES`."""
    has_mesh = predictions.alpha is not None or predictions.vertices is not None
    in_correspondence = predictions.alpha is not None or (
        has_mesh and predictions.vertices.shape[-1] == model.num_vertices
    )
    only_2d = not in_correspondence and (predictions.landmarks68 is None or predictions.landmarks68.shape[-1] == 2)
    names = []
    if in_correspondence or predictions.landmarks68 is not None:
        names += ["nme_2d_68", *(["nme_2d_68" + REANNOTATED] * (truth.reannotated is not None))]
        names += [] if only_2d else ["nme_3d_68"]
    names += list(DENSE_MEASURES) if in_correspondence else []
    names += [RECONSTRUCTION] if icp and has_mesh else []
    return names


def measure(
    predictions: Predictions,
    truth: GroundTruth,
    model: MorphableModel,
    *,
    with_icp: bool = True,
    progress: Callable[[int], None] = lambda count: None,
    problems: list[str] | None = None,
) -> dict[str, np.ndarray]:
    """All errors that the predictions allow, for every image of the ground truth.

    Args:
      predictions: if a file has several kinds, landmarks are preferred to vertices, and vertices to alpha.
      truth: the ground truth.
      model: the morphable model of alpha and of the true vertices.
      with_icp: whether to compute the reconstruction error, by far the slowest.
      progress: called with the number of images just done.
      problems: receives messages about what could not be measured, and why.

    Returns:
      {measure: [n] per cent, NaN where not measured}; keys as in `TITLES`.
    """
    problems = [] if problems is None else problems
    rows = predictions.rows_of(truth.keys, problems)
    names = measures_of(predictions, truth, model, icp=with_icp)
    errors = {name: np.full(len(truth), np.nan) for name in names}
    if predictions.vertices is not None and "nme_2d_dense" not in names:
        problems.append(
            f"{predictions.label}: vertices have {predictions.vertices.shape[-1]} points, the morphable"
            f" model {model.num_vertices}: without correspondence only reconstruction (ICP) is measured"
        )
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for images, points, vertices in _batches(predictions, truth, rows, model, names):
            _measure_landmarks(errors, images, points, truth)
            if vertices is not None:
                _measure_meshes(errors, images, vertices, truth, model, pool)
            progress(len(images))
    _report_unmeasured(predictions, truth, rows, errors, problems)
    return errors


def _batches(predictions, truth, rows, model, names) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (indices [b] in the truth, landmarks [b, 68, d] or None, vertices [b, N, 3] or None), image pixels."""
    own_landmarks = predictions.landmarks68
    dense = any(name in names for name in (*DENSE_MEASURES, RECONSTRUCTION))
    if predictions.vertices is not None:
        image_of = {row: image for image, row in enumerate(rows) if row >= 0}
        for start, block in predictions.vertices.batches(BATCH):
            kept = [place for place in range(len(block)) if start + place in image_of]
            if not kept:
                continue
            block = np.swapaxes(block[kept], 1, 2)
            chosen = np.array([start + place for place in kept])
            points = own_landmarks[chosen] if own_landmarks is not None else None
            if points is None and block.shape[1] == model.num_vertices:
                points = block[:, np.asarray(model.landmark_indices)]
            yield np.array([image_of[row] for row in chosen]), points, block
        return
    images = np.flatnonzero(rows >= 0)
    for start in range(0, len(images), BATCH):
        here = images[start : start + BATCH]
        chosen = rows[here]
        points, vertices = None if own_landmarks is None else own_landmarks[chosen], None
        if predictions.alpha is not None:
            own = predictions.roi_box
            roi_box = truth.roi_box[here] if own is None else own[chosen]
            alpha = crop_alpha(predictions, chosen, roi_box, model.alpha_mean, model.alpha_std)
            padded = (_padded(alpha), _padded(roi_box))  # of one shape, so that there is one compilation
            if points is None:
                points = np.asarray(landmarks_image(model, *padded))[: len(here)]
            if dense:
                vertices = np.asarray(vertices_image(model, *padded))[: len(here)]
        yield here, points, vertices


def _padded(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], BATCH - len(array), axis=0)])


def _measure_landmarks(errors, images, points, truth) -> None:
    if points is None or "nme_2d_68" not in errors:
        return
    true = truth.landmarks68[images]
    errors["nme_2d_68"][images] = metrics.nme(points[..., :2], true[..., :2], true)
    if truth.reannotated is not None:
        reannotated = truth.reannotated[images]
        errors["nme_2d_68" + REANNOTATED][images] = metrics.nme(points[..., :2], reannotated, reannotated)
    if "nme_3d_68" in errors and points.shape[-1] == 3:
        errors["nme_3d_68"][images] = metrics.nme(points, true, true)


def _measure_meshes(errors, images, vertices, truth, model, pool) -> None:
    count = len(images)
    true = np.asarray(vertices_image(model, _padded(truth.alpha[images]), _padded(truth.roi_box[images])))[:count]
    if "nme_2d_dense" in errors and vertices.shape[1] == true.shape[1]:
        dense = dense_errors(*(_padded(a) for a in (vertices, true, truth.landmarks68[images])))
        for name, row in zip(DENSE_MEASURES, np.asarray(dense)):
            errors[name][images] = row[:count]
    if RECONSTRUCTION in errors:
        error_of = functools.partial(_reconstruction_error, model)
        errors[RECONSTRUCTION][images] = list(pool.map(error_of, vertices, true))


def _reconstruction_error(model: MorphableModel, predicted: np.ndarray, true: np.ndarray) -> float:
    """Error of one mesh [M, 3] compared with the true one [N, 3], per cent; NaN where either is not finite."""
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        return np.nan
    normals = shading.vertex_normals(np.ascontiguousarray(true, np.float32), model.triangles)
    left, right = true[np.asarray(model.landmark_indices)[list(OUTER_EYE_CORNERS)]]
    target = icp.Target(true, np.asarray(normals, np.float64))
    # The depths have no common origin, and ICP cannot move a profile far along z: align their medians first.
    predicted = predicted + [0.0, 0.0, np.median(true[:, 2]) - np.median(predicted[:, 2])]
    return icp.reconstruction_error(predicted, target, float(np.linalg.norm(left - right)))


def _report_unmeasured(predictions, truth, rows, errors, problems) -> None:
    for name, values in errors.items():
        missing = np.flatnonzero(np.isnan(values) & (rows >= 0))
        if name == "nme_2d_68" + REANNOTATED:
            missing = [i for i in missing if np.isfinite(truth.reannotated[i]).all()]
        if len(missing):
            keys = [truth.keys[i] for i in missing]
            problems.append(
                f"{predictions.label}: {TITLES[name]}: {listed(keys)}: not measurable"
                " (a value of the prediction or of the ground truth is missing or not finite)"
            )


def summaries(errors: dict[str, np.ndarray], truth: GroundTruth) -> dict[str, dict]:
    """{measure: summary by yaw}; see `metrics.summarize`."""
    return {name: metrics.summarize(values, truth.yaw_deg) for name, values in errors.items()}
