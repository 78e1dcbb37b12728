"""Face detectors. Each has one method, `detect`, from an image to `FaceBox`es.

`centerface.CenterFaceDetector` is the default. `FaceAlignmentDetector` also gives landmarks. Image pixels, y down,
pixel centres at integers; `roll_degrees` is clockwise as seen.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from twodal_jax.detection import boxes
from twodal_jax.detection.types import FaceBox


class FaceDetector(Protocol):
    """Anything that detects faces."""

    def detect(self, image: np.ndarray) -> list[FaceBox]:
        """BGR uint8 [H, W, 3] -> detections without duplicates, the most certain first."""


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
                f'The detector face-alignment needs an extra: pip install "twodal_jax[landmarks]" ({error})'
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
