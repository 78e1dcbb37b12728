"""Errors of a regressor on a held-out annotated set, by protocol."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from twodal_jax import forward
from twodal_jax.checkpointing.trained_model import TrainedModel
from twodal_jax.evaluation import metrics
from twodal_jax.evaluation.nme_evaluation import BATCH, dense_errors, vertices_image
from twodal_jax.geometry import projection
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.training.state import NetState, TrainSpec

DETECTED, EMPTY = "detected_landmarks", "empty_heatmap"


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A held-out set, in memory.

    Attributes:
      name: [n] strings.
      image: [n, S, S, 3] uint8 BGR, the crop with its margin.
      landmarks68: [n, 68, 3], true landmarks, crop pixels, y down.
      roi_box: [n, 4], image pixels.
      yaw_deg: [n], degrees.
      detected: [n, 18, 2], a detector's landmarks, crop pixels.
      detected_visible: [n, 18], 0 where not detected.
      alpha: [n, 62], true coefficients, raw, crop; None: errors of whole meshes are not measured.
    """

    name: np.ndarray
    image: np.ndarray
    landmarks68: np.ndarray
    roi_box: np.ndarray
    yaw_deg: np.ndarray
    detected: np.ndarray
    detected_visible: np.ndarray
    alpha: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.name)

    @property
    def protocols(self) -> tuple[str, ...]:
        """DETECTED, if any landmark is detected, and EMPTY."""
        return (DETECTED, EMPTY) if self.detected_visible.any() else (EMPTY,)


def _predict_in_batches(
    regressor: NetState,
    faces: tuple[np.ndarray, np.ndarray, np.ndarray],
    model: MorphableModel,
    spec: TrainSpec,
    batch_size: int,
    passes: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields alpha [b, 62] and landmarks [b, 68, 3] of all faces (images, landmarks, visible), batch by batch."""
    total = len(faces[0])
    for start in range(0, total, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), total - 1)
        result = forward.predict_batch(
            regressor.variables,
            *(array[rows] for array in faces),
            model,
            network=spec.regressor,
            settings=spec.heatmap,
            passes=passes,
            mirror=spec.mirror_prediction,
        )
        count = min(batch_size, total - start)  # the last batch repeats its last face
        yield np.asarray(result.alpha)[:count], np.asarray(result.landmarks)[:count]


def predict(
    regressor: NetState,
    held_out: HeldOut,
    model: MorphableModel,
    spec: TrainSpec,
    protocol: str,
    *,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted alpha [n, 62] (raw) and landmarks [n, 68, 3] (crop pixels, y down) of all faces."""
    visible = held_out.detected_visible * float(protocol == DETECTED)
    faces = held_out.image, held_out.detected, visible
    alphas, points = zip(*_predict_in_batches(regressor, faces, model, spec, batch_size))
    return np.concatenate(alphas), np.concatenate(points)


def predict_alpha(
    trained: TrainedModel,
    images: np.ndarray,
    landmarks: np.ndarray,
    visible: np.ndarray,
    passes: int = 1,
    progress: Callable[[int], None] = lambda count: None,
    batch_size: int = 64,
) -> np.ndarray:
    """Alpha [n, 62] (raw, crop) that a trained network predicts for faces; arguments as in `forward.predict_batch`.

    `progress` is called with the number of faces just done.
    """
    # The folded copy would compute the mirror map anew.
    alphas, model, trained = [], trained.landmark_model, trained.folded(batch_size)
    faces = images, landmarks, visible
    for alpha, _ in _predict_in_batches(trained.regressor, faces, model, trained.spec, batch_size, passes):
        alphas.append(alpha)
        progress(len(alpha))
    return np.concatenate(alphas)


def nme_2d_68(landmarks_crop: np.ndarray, held_out: HeldOut) -> np.ndarray:
    """NME [n], per cent, of predicted landmarks [n, 68, >=2] in crop pixels, measured in the whole image."""
    predicted, true = (
        np.asarray(projection.crop_to_image(points[..., :2], held_out.roi_box))
        for points in (landmarks_crop, held_out.landmarks68)
    )
    return np.asarray(metrics.nme(predicted, true, true))


def nme_3d_dense(alphas: np.ndarray, held_out: HeldOut, model: MorphableModel) -> np.ndarray:
    """NME [n], per cent, of all vertices in 3D, measured in the whole image; the model needs its mesh."""
    errors = []
    for start in range(0, len(held_out), BATCH):
        rows = slice(start, start + BATCH)
        predicted, true = (
            vertices_image(model, alpha[rows], held_out.roi_box[rows]) for alpha in (alphas, held_out.alpha)
        )
        landmarks = projection.crop_to_image(held_out.landmarks68[rows], held_out.roi_box[rows])
        errors.append(np.asarray(dense_errors(predicted, true, landmarks))[1])
    return np.concatenate(errors)


def evaluate(
    regressor: NetState,
    held_out: HeldOut,
    model: MorphableModel,
    spec: TrainSpec,
    batch_size: int,
    protocols: tuple[str, ...] | None = None,
) -> dict[str, dict]:
    """{protocol: summary of the 2D NME of 68 landmarks by yaw}; see `metrics.summarize`. Default: all protocols."""
    results = {}
    for protocol in protocols or held_out.protocols:
        _, points = predict(regressor, held_out, model, spec, protocol, batch_size=batch_size)
        results[protocol] = metrics.summarize(nme_2d_68(points, held_out), held_out.yaw_deg)
    return results
