"""Source of faces given by an image and landmarks, shared by all in-the-wild readers."""

import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.sources.base import landmark_fields, read_or_skip, roi_box_from_18, Skip, SkipFace, SourceError
from data_pipelines.sources.safe_paths import check_inside, Problem
from data_pipelines.storage.manifest import CROP_SIZE, Face
from twodal_jax.geometry import projection
from twodal_jax.geometry.heatmap import NUM_LANDMARKS
from twodal_jax.io.images import crop_face, read_image

_IMAGES_CHECKED = 20  # to find out whether a set's images are ready crops


class LandmarkFaces:
    """A table of faces as a source of kind "wild" (`sources.base.FaceSource`).

    A row takes 236 or 272 bytes of numbers, plus its name, and its path where one is given.

    Args:
      description: the manifest's "source".
      names: N names.
      paths: N image files; None: each is `root` / name.
      landmarks: [N, P, 2] image pixels, y down; P is 18, or 21 (`sources.base.with_jaw`).
      visible: [N, P], 1 or 0.
      yaw_deg: [N], NaN where unknown.
      roi_boxes: [N, 4] image pixels; NaN rows are estimated from the landmarks (`roi_box_from_18`).
      ready: whether the images are 120 x 120 crops already; None: decided by the first ones.
      margin: pixels stored around the 120-pixel crop; always 0 for ready crops.
      problems: {row: (reason, detail)} of unusable rows; their paths may be None.
      root: the folder that must hold all images, with symbolic links resolved; None: unchecked.
      notes: see `sources.base.FaceSource`.
    """

    kind = "wild"

    def __init__(
        self,
        *,
        description: str,
        names: Sequence[str],
        paths: Sequence[os.PathLike | str | None] | None,
        landmarks: np.ndarray,
        visible: np.ndarray,
        yaw_deg: np.ndarray,
        roi_boxes: np.ndarray | None = None,
        ready: bool | None = None,
        margin: int = 20,
        problems: dict[int, Problem] | None = None,
        root: pathlib.Path | None = None,
        notes: Sequence[str] = (),
    ):
        self.description = description
        self.names = list(names)
        # As strings: a Path takes five times the memory.
        self._paths = None if paths is None else [None if path is None else str(path) for path in paths]
        if roi_boxes is None:
            roi_boxes = np.full((len(self.names), 4), np.nan)
        self.landmarks, self.visible, self.yaw_deg, self.roi_boxes = (
            np.asarray(array, np.float32) for array in (landmarks, visible, yaw_deg, roi_boxes)
        )
        self.problems, self.root, self.notes = problems or {}, root, notes
        if not self.names:
            raise SourceError(f"{description}: lists no faces")
        self.ready = self._has_ready_crops() if ready is None else ready
        self.margin = 0 if self.ready else margin

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str | None:
        """Image file of a row; undefined or None where the row is one of `problems`."""
        return os.path.join(self.root, self.names[row]) if self._paths is None else self._paths[row]

    def fingerprint(self) -> str:
        """Hash of names, arrays and problems; see `sources.base.FaceSource`."""
        digest = hashlib.sha256()
        for row, name in enumerate(self.names):
            digest.update(("\n" * (row > 0) + name).encode())
        for array in (self.landmarks, self.visible, self.roi_boxes, self.yaw_deg):
            digest.update(np.ascontiguousarray(array))
        digest.update(repr(sorted(self.problems)).encode())
        return digest.hexdigest()[:16] + ("-ready" if self.ready else "")

    def faces(self, start: int, stop: int) -> Iterator[Face | Skip]:
        """Listed faces start ... stop - 1; see `sources.base.FaceSource`."""
        stop = min(stop, len(self))
        landmarks = self.landmarks[start:stop]
        if self.ready:
            boxes = [None] * len(landmarks)
        else:
            boxes = [read_or_skip("", self._roi_box, row) for row in range(start, stop)]
            # All rows together: for one face, starting the computation takes longer than reading the image.
            known = np.float32([np.zeros(4) if isinstance(box, Skip) else box for box in boxes])
            with np.errstate(divide="ignore", invalid="ignore"):
                landmarks = np.asarray(projection.image_to_crop(landmarks, known.reshape(-1, 4)))
        for row, box, points in zip(range(start, stop), boxes, landmarks):
            yield read_or_skip(self.names[row] or f"row {row + 1}", self._read, row, box, points)

    def _read(self, row: int, roi_box: np.ndarray | Skip | None, landmarks: np.ndarray) -> Face:
        if row in self.problems:
            raise SkipFace(*self.problems[row])
        if not self.visible[row, :NUM_LANDMARKS].any():
            raise SkipFace("no landmarks", f"{self.path(row)}: none of the 18 is visible")
        if isinstance(roi_box, Skip):
            raise SkipFace(roi_box.reason, roi_box.detail)
        image = self._image(row)
        if self.ready and image.shape[:2] != (CROP_SIZE, CROP_SIZE):
            raise SkipFace(
                "not a 120 x 120 crop",
                f"{self.path(row)}: {image.shape[1]} x {image.shape[0]}, the other images are ready crops",
            )
        return {
            "name": self.names[row],
            "image": image if self.ready else crop_face(image, roi_box, self.margin),
            "yaw_deg": self.yaw_deg[row],
            **landmark_fields(landmarks, self.visible[row]),
        }

    def _image(self, row: int) -> np.ndarray:
        if self.root is not None:
            check_inside(self.path(row), self.root)
        return read_image(self.path(row))

    def _roi_box(self, row: int) -> np.ndarray:
        box = self.roi_boxes[row]
        if np.isfinite(box).all():
            return box
        return roi_box_from_18(self.landmarks[row, :NUM_LANDMARKS], self.visible[row, :NUM_LANDMARKS])

    def _has_ready_crops(self) -> bool:
        sizes = set()
        for row in range(min(_IMAGES_CHECKED, len(self))):
            try:
                if row not in self.problems:
                    sizes.add(self._image(row).shape[:2])
            except SkipFace:
                continue
        return sizes == {(CROP_SIZE, CROP_SIZE)}
