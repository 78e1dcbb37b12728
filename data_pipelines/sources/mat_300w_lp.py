"""300W-LP and AFLW2000-3D: folders of `.jpg` + `.mat` -> annotated faces.

The folder is searched recursively (300W-LP: AFW HELEN IBUG LFPW and each with _Flip), except its `landmarks` and
`Code`, which hold no faces. Optional files:

  annotations.npz     name, roi_box [N, 4] and split: the crops to use, and the splits to choose from
  fan_landmarks.csv   68 points that a detector found in those 120-pixel crops (`detected`)
  landmarks/<set>/<image>_pts.mat   pts_3d [68, 2], 300W-LP's own landmarks
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from data_pipelines.sources import alpha_from_mat, detected_faces, detections
from data_pipelines.sources.base import ignored, read_or_skip, Skip, SkipFace, SourceError, to_18_landmarks
from data_pipelines.sources.safe_paths import check_inside
from data_pipelines.storage.manifest import Face
from twodal_jax.geometry import projection
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.io import mat as mat_file, npy
from twodal_jax.io.images import crop_face, IMAGE_SUFFIXES, read_image
from twodal_jax.io.text import escape_hidden
from twodal_jax.io.untrusted import BrokenFileError, is_of_mac

ANNOTATIONS, DETECTIONS = "annotations.npz", "fan_landmarks.csv"
_NO_FACES = {"landmarks", "Code"}
_SUFFIXES = (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
_TEXT, _NUMBER = "US", "fiu"  # NumPy's dtype kinds
# Columns of annotations.npz: shape of an entry (None: any side) and dtype kinds.
_COLUMNS: dict[str, tuple[tuple[int | None, ...], str]] = {
    "split": ((), _TEXT),
    "roi_box": ((4,), _NUMBER),
    "yaw_deg": ((), _NUMBER),
    "pts68": ((3, 68), _NUMBER),
    "pts68_reannotated": ((None, 68), _NUMBER),
}


class MatFaces:
    """A folder of 300W-LP's format as a source of annotated faces (`sources.base.FaceSource`).

    Args:
      folder: the folder; its images are in it, in `images`, or in any subfolder.
      split: use only images of this split of annotations.npz.
      model: rebuilds the landmarks of files without `pt3d_68` (all files of 300W-LP).
      margin: pixels stored around the 120-pixel crop.
      border: pixels outside the image, as of `images.crop_face`.
      detected: a detections file in pixels of the 120-pixel crops; default: fan_landmarks.csv where it exists.
      detect: one of `detected_faces.DETECTORS`, used on the images instead of a file. A face without a detection is
        kept, without detected landmarks.
      make_detector: makes the detector of `detect` on first use in each process.
    """

    kind = "annotated"

    def __init__(
        self,
        folder: os.PathLike | str,
        *,
        split: str | None = None,
        model: MorphableModel | None = None,
        margin: int = 20,
        border: int = cv2.BORDER_CONSTANT,
        detected: os.PathLike | str | None = None,
        detect: str | None = None,
        make_detector: Callable[[], Any] = detected_faces.face_alignment_detector,
    ):
        self.folder, self.margin, self.border, self.model = pathlib.Path(folder), margin, border, model
        if not self.folder.is_dir():
            raise SourceError(
                f"{self.folder}: no such folder; give the folder of the .jpg and .mat"
                " files (300W-LP or AFLW2000-3D, unpacked)"
            )
        self.root = image_root(self.folder)
        self.annotations = read_annotations(self.folder / ANNOTATIONS, required=("roi_box", "split"))
        self.stems, of_mac = list_stems(self.root)
        self.notes = [ignored(of_mac)] if of_mac else []
        if split is not None:
            self.stems = self._of_split(split)
        if not self.stems:
            of_split = f" of split {split!r}" if split else ""
            raise SourceError(f"{self.root}: no .mat files{of_split}; expected name.jpg and name.mat side by side")
        default = self.folder / DETECTIONS
        detected = detected or (default if default.is_file() and self.annotations and not detect else None)
        self.detections = detections.detections_by_stem(detected) if detected else {}
        self._detector_name, self._make_detector = detect, make_detector
        self.description = ":".join(part for part in ("mat", self.folder.name, split, detect) if part)

    def __len__(self) -> int:
        return len(self.stems)

    def fingerprint(self) -> str:
        """Hash of names, crops, model and detections; see `sources.base.FaceSource`."""
        digest = hashlib.sha256(os.fsencode("\n".join(self.stems)))
        for name in self.stems:
            if name in self.annotations:
                digest.update(np.asarray(self.annotations[name]["roi_box"], np.float32).tobytes())
        if self.model is not None:
            digest.update(alpha_from_mat.model_digest(self.model))
        for name in sorted(self.detections):
            digest.update(self.detections[name].tobytes())
        digest.update((self._detector_name or "").encode())
        return digest.hexdigest()[:16]

    def faces(self, start: int, stop: int) -> Iterator[Face | Skip]:
        """Listed faces start ... stop - 1; see `sources.base.FaceSource`."""
        for name in self.stems[start:stop]:
            yield read_or_skip(name, self._read, name)

    def _of_split(self, split: str) -> list[str]:
        path = self.folder / ANNOTATIONS
        if not self.annotations:
            raise SourceError(f"{path}: missing, but needed for split {split!r}; omit --split to use all images")
        known = sorted({str(row["split"]) for row in self.annotations.values()})
        if split not in known:
            raise SourceError(f"{path}: no split {split!r}; it has {', '.join(known)}")
        return [name for name in self.stems if name in self.annotations and self.annotations[name]["split"] == split]

    def _read(self, name: str) -> Face:
        if not _is_utf_8(name):
            raise SkipFace("file name not UTF-8", f"{escape_hidden(name)}: rename it, and the .mat with it")
        path = self.root / f"{name}.mat"
        image_path = find_image(path)
        if image_path is None:
            raise SkipFace("image not found", f"{path}: no .jpg of this name beside it")
        if not path.is_file():
            raise SkipFace("no .mat file", f"{image_path}: no .mat of this name beside it")
        check_inside(path, self.folder)
        check_inside(image_path, self.folder)
        mat = read_mat(path)
        try:
            alpha_image = alpha_from_mat.image_alpha(mat)
        except SkipFace as skip:
            raise SkipFace(skip.reason, f"{path}: {skip.detail}") from None
        image = read_image(image_path)
        landmarks = self._landmarks(name, path, mat, alpha_image, image.shape[0])
        if name in self.annotations:
            roi_box = np.asarray(self.annotations[name]["roi_box"], np.float32)
        else:
            roi_box = np.asarray(projection.roi_box_from_landmarks(np.float32(landmarks)), np.float32)
        detected, detected_visible = self._detected(name, image, roi_box)
        return {
            "name": name,
            "image": crop_face(image, roi_box, self.margin, self.border),
            "alpha": alpha_from_mat.crop_alpha(alpha_image, roi_box, image.shape[0]),
            "landmarks68": alpha_from_mat.points_to_crop(landmarks, roi_box),
            "roi_box": roi_box,
            "yaw_deg": np.float32(np.degrees(np.ravel(mat["Pose_Para"])[1])),
            "detected": detected,
            "detected_visible": detected_visible,
        }

    def _landmarks(self, name, path, mat, alpha_image, height) -> np.ndarray:
        """True landmarks [68, 3], image pixels, y down."""
        if "pt3d_68" in mat:
            return alpha_from_mat.mat_points(_checked_points(path, "pt3d_68", mat["pt3d_68"], (3, 68)).T)
        if self.model is None:
            raise SkipFace(
                "needs a morphable model",
                f"{path}: no pt3d_68, so the landmarks are rebuilt from the parameters; give --morphable_model",
            )
        landmarks = alpha_from_mat.landmarks_image(self.model, alpha_image, height)
        folder, _, base = name.rpartition("/")
        own = self.root / "landmarks" / folder / f"{base}_pts.mat"
        if own.is_file():
            check_inside(own, self.folder)
            points = alpha_from_mat.mat_points(_checked_points(own, "pts_3d", read_mat(own).get("pts_3d"), (68, 2)))
            landmarks = np.concatenate([points, landmarks[:, 2:]], axis=1)
        return landmarks

    def _detected(self, name: str, image: np.ndarray, roi_box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Detected landmarks [18, 2], crop pixels, and visibility [18]."""
        if self._detector_name:
            face, _ = detected_faces.detect_face(self._detector, image, roi_box)
            if face is not None:
                points = np.asarray(projection.image_to_crop(np.float32(face.landmarks), roi_box))
                return np.where(face.visible[:, None] > 0, points, 0.0), np.float32(face.visible)
        points = self.detections.get(name, np.full((68, 2), np.nan, np.float32))
        return to_18_landmarks(points, np.isfinite(points).all(axis=-1))

    @functools.cached_property
    def _detector(self) -> Any:
        return self._make_detector()


def read_mat(path: os.PathLike | str) -> dict[str, np.ndarray]:
    """Reads a MATLAB file, version 5 to 7.2. Raises SkipFace that names it if it cannot be read."""
    try:
        return mat_file.read(path)
    except BrokenFileError as error:
        raise SkipFace("unreadable .mat", str(error)) from None


def read_annotations(path: pathlib.Path, required: tuple[str, ...] = ()) -> dict[str, dict[str, np.ndarray]]:
    """Reads annotations.npz: {image name: {column: entry}}; empty without the file.

    Reads the `required` columns alone, or by default those that exist of split, roi_box [4], yaw_deg, pts68 [3, 68]
    and pts68_reannotated [2 or 3, 68]. Raises SourceError that names what is missing or misshapen.
    """
    if not path.is_file():
        return {}
    try:
        content = npy.read_npz(path)
        names = [str(name) for name in np.atleast_1d(content["name"])]
        columns = {key: np.atleast_1d(content[key]) for key in required or [key for key in _COLUMNS if key in content]}
    except (BrokenFileError, KeyError) as error:
        needs = ", ".join(["name", *required]) if required else f"name and any of {', '.join(_COLUMNS)}"
        remedy = ", or remove the file to crop by the landmarks" if required else ""
        raise SourceError(f"{path}: not readable ({error}); it needs {needs}{remedy}") from None
    for key, column in columns.items():
        shape, kinds = (len(names), *_COLUMNS[key][0]), _COLUMNS[key][1]
        fits = len(column.shape) == len(shape) and all(w in (None, s) for w, s in zip(shape, column.shape))
        if not fits or column.dtype.kind not in kinds:
            sides = ["2 or 3" if side is None else side for side in shape]
            raise SourceError(
                f"{path}: {key} is {column.dtype} {list(column.shape)}, expected"
                f" {'numbers' if kinds == _NUMBER else 'texts'} {sides}"
            )
    return {name: {key: column[i] for key, column in columns.items()} for i, name in enumerate(names)}


def _is_utf_8(name: str) -> bool:
    """Whether a file's name is valid UTF-8; Python represents other bytes by lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_points(path: pathlib.Path, key: str, value, shape: tuple) -> np.ndarray:
    if value is None:
        raise SkipFace("missing key", f"{path}: no {key}")
    if getattr(value, "shape", None) != shape or value.dtype.kind not in "fiu":
        raise SkipFace("bad landmarks", f"{path}: {key} is {getattr(value, 'shape', None)}, expected {shape}")
    if not np.isfinite(value).all():
        raise SkipFace("not finite", f"{path}: {key} has NaN or infinite values")
    return value.astype(np.float32)


def image_root(folder: pathlib.Path) -> pathlib.Path:
    """Folder of a data set's images: `images`, or the folder itself."""
    return folder / "images" if (folder / "images").is_dir() else folder


def find_image(path: pathlib.Path) -> pathlib.Path | None:
    """The image beside name.mat, None if there is none."""
    candidates = (path.with_suffix(suffix) for suffix in _SUFFIXES)
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def list_stems(root: pathlib.Path) -> tuple[list[str], int]:
    """Names without suffix, relative to `root`, of every .mat or image, sorted; and the number of files of macOS."""
    stems, of_mac = set(), 0
    for folder, subfolders, files in os.walk(root):
        relative = pathlib.Path(folder).relative_to(root)
        if folder == str(root):
            subfolders[:] = [name for name in subfolders if name not in _NO_FACES]
        for file in files:
            if is_of_mac([*relative.parts, file]):
                of_mac += 1
            elif file.lower().endswith((".mat", *IMAGE_SUFFIXES)):
                stems.add((relative / pathlib.Path(file).stem).as_posix())
    return sorted(stems), of_mac
