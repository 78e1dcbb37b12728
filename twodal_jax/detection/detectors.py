"""Face detectors. Each has one method, `detect`, from an image to `FaceBox`es.

`CascadeDetector` needs no download and detects frontal faces. `FaceAlignmentDetector` also detects profiles and gives
landmarks. Image pixels, y down, pixel centres at integers; `roll_degrees` is clockwise as seen.
"""

from __future__ import annotations

import functools
from typing import Protocol

import cv2
import numpy as np

from twodal_jax.detection import boxes
from twodal_jax.detection.types import FaceBox

UPRIGHT, TILTED, ANY_WAY_UP = (0.0,), (0.0, -30.0, 30.0, -60.0, 60.0), tuple(np.arange(-150.0, 181.0, 30.0))
# From the cascade's window to the crop box, in sides of the window, in the face's own upright frame. Medians of
# 81 detections in AFLW2000-3D with |yaw| < 30: 1.20 (5-95 %: 1.06-1.34) and 0.14 (0.08-0.20); of 26 rendered faces
# with |yaw| < 30: 1.21 and 0.15.
CROP_SIDE, CROP_DOWN = 1.20, 0.14
# Subtracted from the stages' thresholds: more windows pass, many more on faces than elsewhere.
_SLACK = np.float32(0.25)
# Windows of the same face share this much of their union.
_SAME_FACE = 0.35
# Largest difference of two rotations of the image, degrees, that may both show one face.
_NEAR_ROTATION = 45.0
# The sum of the windows' scores at which a detection's score is 0.63.
_SCORE_SCALE = 300.0
# Mean difference of a face's 24 rows of pixels. Smooth walls and cheeks also pass the patterns, which ignore contrast.
_MIN_TEXTURE = 4.0
# Without any detection, a copy larger by this factor is searched for small upright faces.
_SECOND_PASS_SCALE = 2.5


class FaceDetector(Protocol):
    """Anything that detects faces."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> detections without duplicates, the most certain first."""


class CascadeDetector:
    """scikit-image's LBP cascade of frontal faces, on rotated copies of the image. Needs no download.

    Measured on 199 images of AFLW2000-3D (450 pixels, one large face each, with the defaults): it detects 92 % of the
    faces with |yaw| < 30, 61 % of 30 to 60, 20 % beyond; 0.3 detections an image are not faces (score 0.63: 0.4).
    About one second of one core for an image of `max_side`.

    Args:
      angles: expected rolls of faces, degrees: `UPRIGHT`, `TILTED` or `ANY_WAY_UP`.
      max_side: a larger image is reduced to it, which bounds the time; faces below 24 of its pixels are missed (below
        10 without a larger face).
      min_score: 0 to 1, the least score of a detection.
      weak_score: without any such detection, the best one is returned if it reaches this score.
    """

    def __init__(self, angles=TILTED, max_side: int = 640, min_score: float = 0.7, weak_score: float = 0.4):
        self.angles, self.max_side = tuple(float(angle) for angle in angles), max_side
        self.min_score, self.weak_score = min_score, weak_score

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> detections, the most certain first."""
        found = boxes.suppress_overlaps(_search(image, self.angles, self.max_side))
        certain = [box for box in found if box.score >= self.min_score]
        if not certain and max(image.shape[:2]) > self.max_side:
            found = boxes.suppress_overlaps(found + _search(image, UPRIGHT, round(_SECOND_PASS_SCALE * self.max_side)))
            certain = [box for box in found if box.score >= self.min_score]
        return certain or [box for box in found[:1] if box.score >= self.weak_score]


def _search(image: np.ndarray, angles: tuple[float, ...], max_side: int) -> list[FaceBox]:
    """Detections on a copy of at most `max_side`, in the image's own pixels."""
    scale = min(1.0, max_side / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    hits = np.concatenate([_hits(grey, angle) for angle in angles])
    merged = [_mean_hit(group) for group in _groups(hits)]
    ratio = np.array(image.shape[1::-1]) / size
    return [_detection(hit, ratio) for hit in merged if _texture(grey, hit) >= _MIN_TEXTURE]


@functools.cache
def _cascade():
    try:
        import skimage.data
    except ImportError:
        raise ModuleNotFoundError(
            "Detecting faces needs scikit-image: pip install -r requirements.txt, or give boxes or landmarks."
        ) from None
    from twodal_jax.detection import lbp_cascade

    trained = lbp_cascade.load(skimage.data.lbp_frontal_face_cascade_filename())
    return trained._replace(stage_threshold=trained.stage_threshold - _SLACK)


def _hits(grey: np.ndarray, angle: float) -> np.ndarray:
    """Windows [K, 5], x, y (centre), side, score, angle, on the image rotated back by `angle`."""
    from twodal_jax.detection import lbp_cascade

    height, width = grey.shape
    # The image is extended by its border pixels, for faces cut by the border; the rest is uniform grey.
    margin = min(height, width) // 6
    padded = cv2.copyMakeBorder(grey, *[margin] * 4, cv2.BORDER_REPLICATE)
    # A positive angle rotates the image counter-clockwise, which makes a face with a clockwise roll upright.
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2 + margin, (height - 1) / 2 + margin), angle, 1.0)
    size = np.ceil(np.abs(matrix[:, :2]) @ padded.shape[::-1] - 1e-6).astype(int)
    matrix[:, 2] += (size - padded.shape[::-1]) / 2
    turned = padded
    if angle:
        turned = cv2.warpAffine(padded, matrix, size.tolist(), flags=cv2.INTER_LINEAR, borderValue=128)
    hits = lbp_cascade.detect(_cascade(), turned)
    back = cv2.invertAffineTransform(matrix)
    centres = hits[:, :2] @ back[:, :2].T + back[:, 2] - margin
    inside = ((centres >= 0) & (centres < [width, height])).all(axis=1)
    return np.column_stack([centres, hits[:, 2:], np.full(len(hits), angle)])[inside]


def _groups(hits: np.ndarray) -> list[np.ndarray]:
    """Groups of hits [K, 5] of one face each, around the best hit left."""
    groups = []
    while len(hits):
        share, _ = boxes.overlap(hits[np.argmax(hits[:, 3]), :3], hits[:, :3])
        groups.append(hits[share > _SAME_FACE])
        hits = hits[share <= _SAME_FACE]
    return groups


def _mean_hit(group: np.ndarray) -> np.ndarray:
    """Mean of the hits [K, 5] of one face, along the rotation most agree on: x, y, side, sum of scores, roll."""
    score, angle = group[:, 3], group[:, 4]
    away = (angle[:, None] - angle + 180) % 360 - 180
    near = np.abs(away) < _NEAR_ROTATION
    best = np.argmax(near.T @ score)
    weight = score * near[:, best]
    roll = angle[best] + weight @ away[:, best] / weight.sum()
    return np.array([*(weight @ group[:, :3] / weight.sum()), weight.sum(), (roll + 180) % 360 - 180])


def _texture(grey: np.ndarray, hit: np.ndarray) -> float:
    """Mean difference between the rows of a detection, upright and 24 pixels large."""
    x, y, side, _, roll = (float(value) for value in hit)
    matrix = cv2.getRotationMatrix2D((x, y), roll, 48 / side)
    matrix[:, 2] += 23.5 - np.array([x, y])
    window = cv2.warpAffine(grey, matrix, (48, 48), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    small = cv2.resize(window, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32)
    return float(np.abs(np.diff(small, axis=0)).mean())


def _detection(hit: np.ndarray, ratio: np.ndarray) -> FaceBox:
    """The crop box of a merged hit; ratio [2]: the image's pixels per pixel of the searched copy."""
    x, y, side, total, roll = hit
    turn = np.radians(roll)
    centre = np.array([x, y]) + CROP_DOWN * side * np.array([-np.sin(turn), np.cos(turn)])
    centre, half = (centre + 0.5) * ratio - 0.5, CROP_SIDE * side * ratio.mean() / 2
    box = np.concatenate([centre - half, centre + half]).astype(np.float32)
    return FaceBox(box, float(roll), float(1 - np.exp(-total / _SCORE_SCALE)))


class FaceAlignmentDetector:
    """The optional package face-alignment: its face detector and its 68 FAN landmarks.

    The package takes RGB and downloads its weights on first use. The landmarks are those of the 3D face, projected
    (`TWO_HALF_D`), as in training: hidden ones lie behind.

    Args:
      device: PyTorch's name, "cpu" or "cuda".
      min_score: of its detector, 0 to 1.

    Raises:
      ModuleNotFoundError: the package is not installed.
    """

    def __init__(self, device: str = "cpu", min_score: float = 0.5):
        try:
            import face_alignment
        except ImportError as error:
            raise ModuleNotFoundError(
                "The detector face-alignment needs an optional package:"
                f" pip install -r requirements-landmarks.txt ({error})"
            ) from None
        self.min_score = min_score
        self._network = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_HALF_D, device=device, flip_input=False, compile=False
        )

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> detections with their 18 landmarks, the most certain first."""
        import warnings

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No faces were detected", UserWarning)
            points, _, detected = self._network.get_landmarks_from_image(
                np.ascontiguousarray(image[..., ::-1]), return_bboxes=True
            )
        found = [
            boxes.from_landmarks68(np.asarray(of_face)[:, :2], score=float(box[4]))
            for of_face, box in zip(points or [], detected if points else [])
            if box[4] >= self.min_score
        ]
        return boxes.suppress_overlaps(found, share=0.8)


class WholePicture:
    """Treats every image as the crop of one face."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> the square of the longer side around the image's centre."""
        size = np.array(image.shape[1::-1], np.float32)
        low = size / 2 - size.max() / 2
        return [FaceBox(np.concatenate([low, low + size.max()]).astype(np.float32))]
