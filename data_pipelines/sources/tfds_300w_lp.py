"""TensorFlow Datasets' `the300w_lp` as a source of annotated faces.

Prefer the raw folders (`mat_300w_lp`). This copy has images and the parameters of pose, shape and expression, but
lacks the flipped half of 300W-LP (61,225 of 122,450 images), `pt3d_68` and the depth of the landmarks. `landmarks_3d`
holds x and y in units of 450 pixels; z is rebuilt from the parameters with a morphable model.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.sources import alpha_from_mat
from data_pipelines.sources.base import read_or_skip, Skip, SkipFace, SourceError, to_18_landmarks
from data_pipelines.storage import array_record
from data_pipelines.storage.manifest import Face
from twodal_jax.geometry import projection
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.io.images import crop_face, to_bgr8

BUILDER = "the300w_lp"
IMAGE_SIZE = 450
_PARAMETERS = {"Pose_Para": "pose_params", "Shape_Para": "shape_params", "Exp_Para": "exp_params"}
_NEEDED = ("image", "landmarks_3d", *_PARAMETERS.values())


class TfdsFaces:
    """A prepared `the300w_lp` of tensorflow_datasets (`sources.base.FaceSource`); nothing is downloaded.

    Args:
      data_dir: tensorflow_datasets' data folder, the one that holds `the300w_lp`.
      model: rebuilds the landmarks' z.
      split: name of a split; slices such as "train[:1000]" are not supported.
      margin: pixels stored around the 120-pixel crop.
      builder: the opened tfds builder; default: opened from `data_dir`.
    """

    kind, notes = "annotated", ()

    def __init__(
        self,
        data_dir: os.PathLike | str,
        *,
        model: MorphableModel | None,
        split: str = "train",
        margin: int = 20,
        builder: Any = None,
    ):
        if model is None:
            raise SourceError(f"{BUILDER} has no depth of the landmarks: give --morphable_model")
        self.model, self.margin, self.split = model, margin, split
        self.builder = builder or _open_builder(data_dir)
        missing = [name for name in _NEEDED if name not in self.builder.info.features]
        if missing:
            raise SourceError(
                f"{data_dir}: lacks the features {', '.join(missing)}; found {', '.join(self.builder.info.features)}"
            )
        if split not in tuple(self.builder.info.splits):
            raise SourceError(
                f"{data_dir}: {BUILDER} has no split {split!r}; it has {', '.join(self.builder.info.splits)}"
            )
        self.description = f"tfds:{self.builder.info.full_name}:{split}"

    def __len__(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    def fingerprint(self) -> str:
        """Number of examples and hash of the model; see `sources.base.FaceSource`."""
        return f"{len(self)}:{alpha_from_mat.model_digest(self.model).hex()}"

    def faces(self, start: int, stop: int) -> Iterator[Face | Skip]:
        """Faces start ... stop - 1 in the order of the files; see `sources.base.FaceSource`."""
        import tensorflow_datasets as tfds

        stop = min(stop, len(self))
        dataset = self.builder.as_dataset(
            split=tfds.core.ReadInstruction(self.split, from_=start, to=stop, unit="abs"),
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
        for row, example in enumerate(dataset.as_numpy_iterator()):
            name = f"{BUILDER}/{start + row:06d}"
            yield read_or_skip(name, self._read, name, example)

    def _read(self, name: str, example: dict[str, np.ndarray]) -> Face:
        parameters = {key: example[feature] for key, feature in _PARAMETERS.items()}
        alpha_image = alpha_from_mat.image_alpha(parameters)
        image = to_bgr8(example["image"][..., ::-1], name)
        height = image.shape[0]
        landmarks = alpha_from_mat.landmarks_image(self.model, alpha_image, height)
        points = np.asarray(example["landmarks_3d"], np.float32) * IMAGE_SIZE
        if not np.isfinite(points).all():
            raise SkipFace("not finite", f"{name}: landmarks_3d has NaN or infinite values")
        landmarks = np.concatenate([alpha_from_mat.mat_points(points), landmarks[:, 2:]], axis=1)
        roi_box = np.asarray(projection.roi_box_from_landmarks(landmarks), np.float32)
        detected, visible = to_18_landmarks(np.full((68, 2), np.nan, np.float32), np.zeros(68))
        return {
            "name": name,
            "image": crop_face(image, roi_box, self.margin),
            "alpha": alpha_from_mat.crop_alpha(alpha_image, roi_box, height),
            "landmarks68": alpha_from_mat.points_to_crop(landmarks, roi_box),
            "roi_box": roi_box,
            "yaw_deg": np.float32(np.degrees(parameters["Pose_Para"][1])),
            "detected": detected,
            "detected_visible": visible,
        }


def _open_builder(data_dir: os.PathLike | str):
    array_record.tensorflow_on_cpu()
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise SourceError('tensorflow_datasets is not installed: pip install "twodal_jax[data]"') from None
    try:
        builder = tfds.builder(BUILDER, data_dir=os.fspath(data_dir))
        prepared = bool(builder.info.splits)
    except Exception as error:  # tfds raises many types for an unknown or unreadable data set
        raise SourceError(
            f"{data_dir}: tensorflow_datasets cannot open {BUILDER} there ({type(error).__name__}: {error})"
        ) from None
    if not prepared:
        raise SourceError(
            f"{data_dir}: {BUILDER} is not prepared there; prepare it with tensorflow_datasets:"
            f" tfds.builder({BUILDER!r}, data_dir=...).download_and_prepare()"
        )
    return builder
