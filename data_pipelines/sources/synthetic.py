"""Synthetic faces: the built-in morphable model, rendered with known coefficients.

Points are in crop pixels, y down; alpha is raw in the frame of the 120-pixel crop, y up. A face is a pure function of
(seed, kind, index): its bytes do not depend on the number of workers.
"""

import concurrent.futures
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from rich.progress import track

from data_pipelines.sources import synthetic_drawing as drawing
from data_pipelines.sources.base import landmark_fields
from data_pipelines.storage import prepared_dataset
from twodal_jax.face_models import cc0_head, sampling
from twodal_jax.face_models.cc0_head import Cc0Head
from twodal_jax.geometry import heatmap
from twodal_jax.rendering import rasterizer

CROP_SIZE = 120
# A detector's error for one landmark of a frontal face, relative to the landmarks' box (about 85 crop pixels); in
# profile it grows by `_PROFILE_NOISE`. Chosen so that the mean error is 2.7, 3.1 and 4.3 per cent of the box in the
# three yaw bins, as a common detector has on real faces.
_DETECTOR_NOISE = 0.0152
_PROFILE_NOISE = 0.9
_WILD_OUTLIERS = 0.015
# Landmarks this far behind the rendered surface (pixels) are hidden.
_HIDDEN_DEPTH = 3.0


class SyntheticFace(NamedTuple):
    """One rendered face.

    Attributes:
      image: uint8 [S, S, 3] BGR, S = 120 + 2 margin.
      alpha: float32 [62], raw coefficients, frame of the 120-pixel crop.
      landmarks68: float32 [68, 3], crop pixels, y down; larger z is nearer.
      visible68: bool [68], False where the head itself occludes a landmark.
      yaw_deg: yaw in degrees, -90 to 90.
    """

    image: np.ndarray
    alpha: np.ndarray
    landmarks68: np.ndarray
    visible68: np.ndarray
    yaw_deg: float


def project(points_model: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`projection.vertices_crop` for one alpha in NumPy: [N, 3] model frame -> [N, 3] crop pixels, y down."""
    pose = alpha[:12].reshape(3, 4)
    points = points_model @ pose[:, :3].T + pose[:, 3]
    points[:, 1] = CROP_SIZE + 1 - points[:, 1]
    return points


def draw_plain(alpha: np.ndarray, size: int = CROP_SIZE) -> np.ndarray:
    """Renders alpha [62] with average colours and plain light on grey -> uint8 [size, size, 3] BGR.

    For images in documents and reports: the 120-pixel crop is scaled to `size`.
    """
    head, scale = cc0_head.load(), size / CROP_SIZE

    def to_pixels(points: np.ndarray) -> np.ndarray:
        # Pixel centres are at integers, so the crop's edge is half a pixel beyond the outermost.
        return project(points, alpha) * scale + np.array([(scale - 1) / 2] * 2 + [0])

    return drawing.draw_plain(head, _vertices(head, alpha), to_pixels, size)


def _vertices(head: Cc0Head, alpha: np.ndarray) -> np.ndarray:
    """`morphable_model.vertices_model` in NumPy: alpha [62] -> [N, 3], model frame."""
    # Not by BLAS, whose threads wait for a busy core.
    return (head.model.mean + np.einsum("k,kin->in", alpha[12:], head.model.basis)).T


def render_face(
    rng: np.random.Generator,
    *,
    max_yaw: float = sampling.MAX_YAW,
    jitter: float = 1.0,
    margin: int = 0,
    occluders: bool = True,
) -> SyntheticFace:
    """Renders a face with random identity, expression, pose, colours, light and background.

    Args:
      rng: source of all randomness.
      max_yaw: yaw is uniform in [-max_yaw, max_yaw], degrees.
      jitter: of the crop box, see `sampling.sample_pose`; 0 gives the exact box of the landmarks.
      margin: pixels rendered around the 120-pixel crop on each side.
      occluders: see `synthetic_drawing.draw`.
    """
    head = cc0_head.load()
    model = head.model
    alpha = sampling.sample_alpha(rng, head, max_yaw, jitter)
    vertices = _vertices(head, alpha)
    crop = project(vertices, alpha)
    landmarks = crop[model.landmark_indices]
    # The crop's border occludes nothing, so visibility is computed on a canvas that holds the whole surface.
    low = np.floor(crop[:, :2].min(axis=0))
    width, height = (np.ceil(crop[:, :2].max(axis=0)) - low + 1).astype(int)
    canvas = crop - np.array([*low, 0], np.float32)
    visible = rasterizer.visible_vertices(canvas, model.triangles, height, width, _HIDDEN_DEPTH)

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return project(points, alpha) + np.array([margin, margin, 0])

    image = drawing.draw(rng, head, vertices, to_pixels, CROP_SIZE + 2 * margin, occluders)
    # R[0, 2] = -sin(yaw) in the convention of `coefficients.rotation_from_euler`.
    row = alpha[:3] / np.linalg.norm(alpha[:3])
    yaw = float(np.degrees(np.arcsin(np.clip(-row[2], -1, 1))))
    return SyntheticFace(image, alpha, landmarks.astype(np.float32), visible[model.landmark_indices], yaw)


def landmarks_18(face: SyntheticFace) -> tuple[np.ndarray, np.ndarray]:
    """True 18 landmarks [18, 2], crop pixels, and their visibility, bool [18].

    The mean of two points is visible if either is, as annotators mark it.
    """
    first, second = heatmap.LANDMARK_PAIRS_68[:, 0], heatmap.LANDMARK_PAIRS_68[:, 1]
    points = face.landmarks68[:, :2]
    return (points[first] + points[second]) / 2, face.visible68[first] | face.visible68[second]


def detect(rng: np.random.Generator, face: SyntheticFace) -> np.ndarray:
    """Simulates a detector's 18 landmarks: float32 [18, 2], crop pixels.

    The error is a common shift plus an independent error of each landmark, both Student-distributed (heavy tails), and
    it grows with |yaw|.
    """
    points, _ = landmarks_18(face)
    return _with_noise(rng, face, points)


def _with_noise(rng: np.random.Generator, face: SyntheticFace, points: np.ndarray) -> np.ndarray:
    box = np.ptp(face.landmarks68[:, :2], axis=0)
    turned = (abs(face.yaw_deg) / 90) ** 2
    sigma = _DETECTOR_NOISE * np.sqrt(np.prod(box)) * (1 + _PROFILE_NOISE * turned)
    noise = rng.standard_t(4, points.shape) + 0.4 * rng.standard_t(6, (1, 2))
    return (points + sigma * noise * rng.uniform(0.6, 1.4)).astype(np.float32)


def annotated_row(rng: np.random.Generator, face: SyntheticFace, name: str) -> dict[str, np.ndarray]:
    """The fields of kind "annotated" (`storage.manifest`)."""
    return {
        "image": face.image,
        "alpha": face.alpha,
        "landmarks68": face.landmarks68,
        "roi_box": np.array([0, 0, CROP_SIZE, CROP_SIZE], np.float32),
        "yaw_deg": np.float32(face.yaw_deg),
        "detected": detect(rng, face),
        "detected_visible": np.ones(18, np.float32),
        "name": name,
    }


def wild_row(rng: np.random.Generator, face: SyntheticFace, name: str) -> dict[str, np.ndarray]:
    """The fields of kind "wild": landmarks only, without the hidden ones; a few are outliers."""
    points = detect(rng, face)
    _, visible = landmarks_18(face)
    wrong = rng.random(18) < _WILD_OUTLIERS
    points = np.where(wrong[:, None], points + rng.normal(0, 12, points.shape), points)
    jaw = _with_noise(rng, face, face.landmarks68[heatmap.JAW_OF_68, :2])
    points, visible = np.concatenate([points, jaw]), np.concatenate([visible, face.visible68[heatmap.JAW_OF_68]])
    return {"image": face.image, "yaw_deg": np.float32(face.yaw_deg), "name": name, **landmark_fields(points, visible)}


_ROWS = {"annotated": (1, annotated_row), "wild": (2, wild_row)}


def make_row(
    kind: str, seed: int, index: int, margin: int = 0, max_yaw: float = sampling.MAX_YAW
) -> dict[str, np.ndarray]:
    """Fields of the face `index` of the set (kind, seed)."""
    if kind not in _ROWS:
        raise ValueError(f"kind: expected one of {sorted(_ROWS)}, got {kind!r}")
    code, to_row = _ROWS[kind]
    rng = np.random.default_rng([seed, code, index])
    face = render_face(rng, margin=margin, max_yaw=max_yaw)
    return to_row(rng, face, f"synthetic_{seed}_face{index:07d}")


def _stack(rows: Iterable[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """Stacks rows one by one into arrays [count, ...], so that every face is in memory once."""
    arrays: dict[str, np.ndarray] = {}
    for i, row in enumerate(rows):
        for field, value in row.items():
            value = np.asarray(value)
            if field not in arrays:
                arrays[field] = np.empty((count, *value.shape), value.dtype)
            arrays[field][i] = value
    return arrays


def generate(
    output_dir: os.PathLike | str,
    kind: str,
    count: int,
    seed: int = 0,
    *,
    margin: int = 0,
    max_yaw: float = sampling.MAX_YAW,
    workers: int | None = None,
    progress: bool = True,
) -> pathlib.Path:
    """Renders a set of faces and writes it as a prepared folder of format "arrays"; returns its path.

    Args:
      output_dir: folder to make.
      kind: "annotated" or "wild".
      count: number of faces, at least 1.
      seed: sets with different seeds or kinds share no face.
      margin: see `render_face`.
      max_yaw: see `render_face`.
      workers: threads; default: the number of cores.
      progress: whether to show a progress bar.

    Raises:
      ValueError: unknown kind or a count below 1; PreparedError as in `prepared_dataset.write_arrays`.
    """
    if count < 1 or kind not in _ROWS:
        raise ValueError(f"expected count >= 1 and kind in {sorted(_ROWS)}, got {count}, {kind!r}")
    source = f"built-in face model, seed {seed}"
    prepared_dataset.check_replaceable(pathlib.Path(output_dir), kind, source)  # before rendering, which takes time
    model = cc0_head.load().model  # before the threads
    pool = concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count())
    try:
        rows = pool.map(lambda i: make_row(kind, seed, i, margin, max_yaw), range(count))
        rows = track(rows, f"Rendering {count} {kind} faces", total=count, disable=not progress)
        arrays = _stack(rows, count)
    finally:
        # After Ctrl-C, pending faces are not rendered.
        pool.shutdown(cancel_futures=True)
    return prepared_dataset.write_arrays(
        output_dir,
        kind=kind,
        arrays=arrays,
        source=source,
        alpha_mean=model.alpha_mean,
        alpha_std=model.alpha_std,
        seed=seed,
    )
