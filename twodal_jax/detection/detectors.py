"""Finding faces: everything that turns a picture into `FaceBox`es has one method, `find`.

`CascadeDetector` needs no download and finds frontal faces; `FaceAlignmentDetector` finds the others too and
brings landmarks; `from_file.GivenFaces` holds what somebody has found already. Image pixels, y down, pixel
centres at integers; `roll_degrees` is clockwise as one sees the picture.
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
# 81 faces found in AFLW2000-3D with |yaw| < 30: 1.20 (5-95 %: 1.06-1.34) and 0.14 (0.08-0.20); of 26 drawn ones
# with |yaw| < 30: 1.21 and 0.15.
CROP_SIDE, CROP_DOWN = 1.20, 0.14
# The stages' thresholds are lowered by this: more windows pass, on faces many more than elsewhere.
_SLACK = np.float32(0.25)
# Windows belong to the same face when they share this much of their union.
_SAME_FACE = 0.35
# Two turns of the picture that may both show a face.
_NEAR_TURN = 45.0
# The sum of the windows' scores at which a find's score is 0.63.
_DOUBTFUL_SUM = 300.0
# Mean difference of a face's 24 rows of pixels: smooth walls and cheeks pass the patterns, which know no contrast.
_LEAST_TEXTURE = 4.0
# Where nothing is found, a larger copy is searched for small upright faces.
_SECOND_LOOK = 2.5


class FaceDetector(Protocol):
    """Anything that finds faces."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> where faces may be, the surest first; none twice."""


class CascadeDetector:
    """scikit-image's LBP cascade of frontal faces on turned copies of the picture. Needs no download.

    Measured on 199 pictures of AFLW2000-3D (450 pixels, one large face each, as set by default): 92 % of the
    faces with |yaw| < 30 are found, 61 % of 30 to 60, 20 % beyond; 0.3 finds a picture are no face (score
    0.63: 0.4). About one second of one core for a picture of `max_side`.

    Args:
      angles: how far faces may be turned in the picture: `UPRIGHT`, `TILTED` or `ANY_WAY_UP`, degrees.
      max_side: a larger picture is shrunk to it, which bounds the time; faces below 24 of its pixels are lost
        (below 10, if there is no larger one).
      min_score: from 0 to 1, what counts as a face.
      weak_score: where nothing counts, the one best find is returned if it reaches this.
    """

    def __init__(self, angles=TILTED, max_side: int = 640, min_score: float = 0.7, weak_score: float = 0.4):
        self.angles, self.max_side = tuple(float(angle) for angle in angles), max_side
        self.min_score, self.weak_score = min_score, weak_score

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> faces, the surest first."""
        found = self.candidates(image)
        if not self._sure(found) and max(image.shape[:2]) > self.max_side:
            found = boxes.suppress_overlaps(found + _search(image, UPRIGHT, round(_SECOND_LOOK * self.max_side)))
        return self._sure(found) or [box for box in found[:1] if box.score >= self.weak_score]

    def candidates(self, image: np.ndarray) -> list[FaceBox]:
        """Everything that looked like a face to some window, the surest first; most are none."""
        return boxes.suppress_overlaps(_search(image, self.angles, self.max_side))

    def _sure(self, found: list[FaceBox]) -> list[FaceBox]:
        return [box for box in found if box.score >= self.min_score]


def _search(image: np.ndarray, angles: tuple[float, ...], max_side: int) -> list[FaceBox]:
    """Finds on a copy of at most `max_side`, in the picture's own pixels."""
    scale = min(1.0, max_side / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    hits = np.concatenate([_hits(grey, angle) for angle in angles])
    found = [_mean_hit(group) for group in _groups(hits)]
    ratio = np.array(image.shape[1::-1]) / size
    return [_face_of(hit, ratio) for hit in found if _texture(grey, hit) >= _LEAST_TEXTURE]


@functools.cache
def _cascade():
    try:
        import skimage.data
    except ImportError:
        raise ModuleNotFoundError(
            "Finding faces needs scikit-image: pip install -r requirements.txt, or give boxes or landmarks."
        ) from None
    from twodal_jax.detection import lbp_cascade

    trained = lbp_cascade.load(skimage.data.lbp_frontal_face_cascade_filename())
    return trained._replace(stage_threshold=trained.stage_threshold - _SLACK)


def _hits(grey: np.ndarray, angle: float) -> np.ndarray:
    """[K, 5] x, y (centre), side, score, angle of windows on the picture turned back by `angle`."""
    from twodal_jax.detection import lbp_cascade

    height, width = grey.shape
    # Faces cut by the border: what is missing is made of the border's own pixels. The rest is even grey.
    margin = min(height, width) // 6
    padded = cv2.copyMakeBorder(grey, *[margin] * 4, cv2.BORDER_REPLICATE)
    # A positive angle turns the picture counterclockwise, which sets a face turned clockwise upright.
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
    """Hits [K, 5] of the same face, around the best one left each time."""
    groups = []
    while len(hits):
        share, _ = boxes.overlap(hits[np.argmax(hits[:, 3]), :3], hits[:, :3])
        groups.append(hits[share > _SAME_FACE])
        hits = hits[share <= _SAME_FACE]
    return groups


def _mean_hit(group: np.ndarray) -> np.ndarray:
    """Hits [K, 5] of one face -> x, y, side, sum of scores, roll: their mean, along the turn they agree on."""
    score, angle = group[:, 3], group[:, 4]
    away = (angle[:, None] - angle + 180) % 360 - 180
    near = np.abs(away) < _NEAR_TURN
    best = np.argmax(near.T @ score)
    weight = score * near[:, best]
    roll = angle[best] + weight @ away[:, best] / weight.sum()
    return np.array([*(weight @ group[:, :3] / weight.sum()), weight.sum(), (roll + 180) % 360 - 180])


def _texture(grey: np.ndarray, hit: np.ndarray) -> float:
    """Mean difference of the rows of a find, upright and 24 pixels large."""
    x, y, side, _, roll = (float(value) for value in hit)
    matrix = cv2.getRotationMatrix2D((x, y), roll, 48 / side)
    matrix[:, 2] += 23.5 - np.array([x, y])
    window = cv2.warpAffine(grey, matrix, (48, 48), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    small = cv2.resize(window, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32)
    return float(np.abs(np.diff(small, axis=0)).mean())


def _face_of(hit: np.ndarray, ratio: np.ndarray) -> FaceBox:
    """The crop box of a find; ratio [2] of the picture's pixels to the searched copy's."""
    x, y, side, total, roll = hit
    turn = np.radians(roll)
    centre = np.array([x, y]) + CROP_DOWN * side * np.array([-np.sin(turn), np.cos(turn)])
    centre, half = (centre + 0.5) * ratio - 0.5, CROP_SIDE * side * ratio.mean() / 2
    box = np.concatenate([centre - half, centre + half]).astype(np.float32)
    return FaceBox(box, float(roll), float(1 - np.exp(-total / _DOUBTFUL_SUM)))


class FaceAlignmentDetector:
    """The package face-alignment (an extra): its face detector and its 68 FAN landmarks.

    The package takes RGB and loads its weights from its authors' site on first use. The landmarks are those
    of the 3D face projected into the picture (`TWO_HALF_D`), as training has them: hidden ones lie behind.

    Args:
      device: PyTorch's name of it, "cpu" or "cuda". min_score: of its detector, from 0 to 1.

    Raises:
      ModuleNotFoundError: the package is not installed.
    """

    def __init__(self, device: str = "cpu", min_score: float = 0.5):
        try:
            import face_alignment
        except ImportError as error:
            raise ModuleNotFoundError(
                "Finding faces with face-alignment needs an extra package:"
                f" pip install -r requirements-landmarks.txt ({error})"
            ) from None
        self.min_score = min_score
        self._network = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_HALF_D, device=device, flip_input=False, compile=False
        )

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> faces with their 18 landmarks, the surest first."""
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
    """Takes every picture for the crop of one face."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> the square of the longer side around its middle."""
        size = np.array(image.shape[1::-1], np.float32)
        low = size / 2 - size.max() / 2
        return [FaceBox(np.concatenate([low, low + size.max()]).astype(np.float32))]
