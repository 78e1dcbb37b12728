"""Two verbs on a trained model: `reconstruct`, from a picture to its faces, and `vertices`, from alpha to a mesh.

    model = twodal_jax.load("runs/demo")
    faces = model.reconstruct("photo.jpg")

A face is looked at several times. The first look has an empty heatmap (or given landmarks) and the detector's
box; each further one has the box and the roll of the landmarks found before and, once the box has settled,
their heatmap: the paper's self-mapping used at test time.
"""

import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax import forward
from twodal_jax.checkpointing.trained_model import TrainedModel
from twodal_jax.detection.boxes import suppress_overlaps
from twodal_jax.detection.types import Face, FaceBox, Pose
from twodal_jax.geometry import coefficients, projection
from twodal_jax.geometry.morphable_model import MorphableModel, without_mesh
from twodal_jax.io import images
from twodal_jax.models import fold_batch_norm
from twodal_jax.models.resnet import Regressor
from twodal_jax.reconstruction import crop_window
from twodal_jax.training.state import NetState

# Programs are compiled for these numbers of faces only; a batch is filled up to the next one.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
PASSES = 3

Picture = np.ndarray | os.PathLike | str


class Reconstructor:
    """A trained network with its morphable model and a way to find faces.

    Args:
      trained: see `trained_model.load`.
      detector: has `find(image) -> list[FaceBox]`; default: scikit-image's frontal-face cascade.
    """

    def __init__(self, trained: TrainedModel, detector=None):
        self.trained = trained
        self._detector = detector
        self._landmark_model = jax.device_put(without_mesh(trained.model))
        self._model = jax.device_put(trained.model)
        self._looseness = float(trained.config.get("crop_looseness", 1.0))
        self._networks: dict[int, tuple[Regressor, NetState]] = {}

    @property
    def morphable_model(self) -> MorphableModel:
        return self.trained.model

    @property
    def detector(self):
        """What finds faces; made when it is first needed."""
        if self._detector is None:
            from twodal_jax.detection.detectors import CascadeDetector

            self._detector = CascadeDetector()
        return self._detector

    def reconstruct(
        self,
        image: Picture,
        boxes: Sequence[FaceBox] | None = None,
        *,
        passes: int = PASSES,
        min_confidence: float = 0.0,
    ) -> list[Face]:
        """The faces of one picture.

        Args:
          image: BGR uint8 [H, W, 3] (as OpenCV reads it; `image[..., ::-1]` of an RGB array), or a file.
          boxes: where to look; default: what the detector finds.
          passes: looks at each face, at least 1.
          min_confidence: faces below it are left out.

        Raises:
          ValueError: `image` has another shape or type. SkipFace: the file cannot be read.
        """
        return self.reconstruct_batch(
            [image], None if boxes is None else [boxes], passes=passes, min_confidence=min_confidence
        )[0]

    def reconstruct_batch(
        self,
        pictures: Sequence[Picture],
        boxes: Sequence[Sequence[FaceBox]] | None = None,
        *,
        passes: int = PASSES,
        min_confidence: float = 0.0,
    ) -> list[list[Face]]:
        """The faces of several pictures, which share the network's batches; as `reconstruct` otherwise."""
        if passes < 1:
            raise ValueError(f"`passes` must be at least 1, got {passes}.")
        pictures = [_as_picture(picture) for picture in pictures]
        if boxes is None:
            boxes = [self.detector.detect(picture) for picture in pictures]
        elif len(boxes) != len(pictures):
            raise ValueError(f"Expected a list of boxes for each of {len(pictures)} pictures, got {len(boxes)}.")
        owners = [i for i, found in enumerate(boxes) for _ in found]
        flat = [box for found in boxes for box in found]
        faces: list[list[Face]] = [[] for _ in pictures]
        for start in range(0, len(flat), BATCH_SIZES[-1]):
            stop = start + BATCH_SIZES[-1]
            seen = [pictures[i] for i in owners[start:stop]]
            for i, face in zip(owners[start:stop], self._run_passes(seen, flat[start:stop], passes)):
                if face is not None and face.confidence >= min_confidence:
                    faces[i].append(face)
        # Two finds of one face end in one window.
        return [suppress_overlaps(found, score_field="confidence") for found in faces]

    def vertices(self, alpha: np.ndarray, roi_box: np.ndarray | None = None) -> np.ndarray:
        """The mesh: alpha [..., 62] raw -> [..., N, 3].

        Crop pixels, or image pixels where `roi_box` [..., 4] places the crop; y down, z towards the viewer.
        """
        alpha = np.asarray(alpha, np.float32)
        lead = alpha.shape[:-1]
        flat = alpha.reshape(-1, alpha.shape[-1])
        box = np.array([0, 0, projection.CROP_SIZE, projection.CROP_SIZE], np.float32)
        box = box if roi_box is None else np.asarray(roi_box, np.float32)
        box = np.broadcast_to(box, (*lead, 4)).reshape(-1, 4)
        most = BATCH_SIZES[-1]
        parts = [
            np.asarray(_vertices_image(self._model, *_filled(flat[i : i + most], box[i : i + most])))
            for i in range(0, len(flat), most)
        ]
        num_vertices = self.morphable_model.num_vertices
        found = np.concatenate(parts)[: len(flat)] if parts else np.zeros((0, num_vertices, 3), np.float32)
        return found.reshape(*lead, num_vertices, 3)

    def face_of(self, alpha: np.ndarray, roi_box: np.ndarray, confidence: float = 1.0) -> Face:
        """The face of given coefficients: alpha [62] raw in the crop of roi_box [4], image pixels."""
        alpha, roi_box = np.asarray(alpha, np.float32)[None], np.asarray(roi_box, np.float32)[None]
        points, angles = (np.asarray(array)[0] for array in _measured(self._landmark_model, alpha, roi_box))
        pose = Pose(*map(float, angles))
        return Face(alpha[0], roi_box[0], points, self.vertices(alpha, roi_box)[0], pose, float(confidence))

    def _run_passes(self, pictures: list[np.ndarray], boxes: list[FaceBox], passes: int) -> list[Face | None]:
        """At most `BATCH_SIZES[-1]` faces, one for each box; None where a box is useless."""
        windows = [crop_window.CropWindow.of(box) for box in boxes]
        settings = self.trained.spec.heatmap
        initial = np.stack(
            [crop_window.initial_landmarks(*pair, settings.authors_mouth) for pair in zip(windows, boxes)]
        )
        landmarks, visible = initial[..., :2], initial[..., 2]
        usable, history = np.ones(len(boxes), bool), []
        for pass_index in range(passes):
            if pass_index:
                before = windows
                windows = [
                    crop_window.next_window(*of_face, self._looseness) for of_face in zip(windows, alphas, history[-1])
                ]
                eighteen = np.asarray(settings.landmarks_18(history[-1]))
                landmarks = np.stack([window.from_image(points) for window, points in zip(windows, eighteen)])
                # Landmarks found in a wrong window would only repeat its error.
                trusted = [crop_window.has_converged(*pair) for pair in zip(before, windows)]
                visible = np.repeat(np.float32(trusted)[:, None], landmarks.shape[1], axis=1)
            crops, cut = _cut(pictures, windows)
            usable &= cut
            alphas = self._alphas(crops, landmarks, visible)
            alphas = np.stack([window.upright_alpha(alpha) for window, alpha in zip(windows, alphas)])
            roi_boxes = np.stack([window.roi_box for window in windows])
            points, angles = _measured(self._landmark_model, *_filled(alphas, roi_boxes))
            history.append(np.asarray(points)[: len(boxes)])
        confidence = crop_window.pass_consistency(history) * [min(1.0, box.score) for box in boxes]
        poses = [Pose(*map(float, row)) for row in np.asarray(angles)[: len(boxes)]]
        rows = zip(alphas, roi_boxes, history[-1], self.vertices(alphas, roi_boxes), poses, confidence.tolist())
        return [Face(*row) if good else None for row, good in zip(rows, usable)]

    def _network_for(self, faces: int) -> tuple[Regressor, NetState]:
        """The folded network that is fast for so many faces at a time; a CPU has one for few and one for more."""
        form = fold_batch_norm.channels_first_from(self.trained.spec.regressor, faces)
        if form not in self._networks:
            folded = self.trained.folded(faces)
            self._networks[form] = folded.spec.regressor, jax.device_put(folded.regressor)
        return self._networks[form]

    def _alphas(self, crops: np.ndarray, landmarks: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """alpha [B, 62] (raw, in each crop's own frame) of crops [B, 120, 120, 3] uint8."""
        filled = _filled(crops, landmarks, visible)
        network, regressor = self._network_for(len(filled[0]))
        result = forward.predict_batch(
            regressor.variables, *filled, self._landmark_model, network=network, settings=self.trained.spec.heatmap
        )
        return np.asarray(result.alpha)[: len(crops)]


def _as_picture(picture: Picture) -> np.ndarray:
    if isinstance(picture, str | os.PathLike):
        return images.read_image(pathlib.Path(picture))
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or not picture.size:
        raise ValueError(
            f"Expected a BGR uint8 picture [H, W, 3] or a file's name, got {picture.dtype} {picture.shape}."
        )
    return picture


def _cut(pictures: list[np.ndarray], windows: list["crop_window.CropWindow"]) -> tuple[np.ndarray, np.ndarray]:
    """Crops [B, 120, 120, 3] uint8, and which of them could be cut (the others are black)."""
    crops = np.zeros((len(windows), projection.CROP_SIZE, projection.CROP_SIZE, 3), np.uint8)
    usable = np.ones(len(windows), bool)
    for i, (picture, window) in enumerate(zip(pictures, windows)):
        try:
            crops[i] = images.crop_face(picture, window.roi_box, 0, roll_degrees=window.roll_degrees)
        except images.SkipFace:
            usable[i] = False
    return crops, usable


def _filled(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays with their last row repeated up to one of BATCH_SIZES."""
    count = len(arrays[0])
    size = next(size for size in BATCH_SIZES if size >= count)
    rows = np.minimum(np.arange(size), count - 1)
    return [np.asarray(array)[rows] for array in arrays]


@jax.jit
def _measured(model: MorphableModel, alpha: jax.Array, roi_box: jax.Array) -> tuple[jax.Array, jax.Array]:
    """68 landmarks [B, 68, 3] in image pixels, and yaw, pitch, roll [B, 3] in degrees."""
    points = projection.crop_to_image(projection.landmarks_crop(model, alpha), roi_box)
    pitch, yaw, roll = jnp.moveaxis(coefficients.decompose_pose(coefficients.split(alpha)[0]).euler_angles, -1, 0)
    return points, jnp.degrees(jnp.stack([yaw, pitch, roll], axis=-1))


@jax.jit
def _vertices_image(model: MorphableModel, alpha: jax.Array, roi_box: jax.Array) -> jax.Array:
    return projection.crop_to_image(projection.vertices_crop(model, alpha), roi_box)
