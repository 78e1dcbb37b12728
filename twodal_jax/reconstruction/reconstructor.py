"""Two verbs on a trained model: `reconstruct`, from an image to its faces, and `vertices`, from alpha to a mesh.

    model = twodal_jax.load("runs/demo")
    faces = model.reconstruct("photo.jpg")

Each face takes several passes through the network. The first has an empty heatmap (or given landmarks) and the
detector's box. Each further one has the box and roll of the previous landmarks and, once the box has converged, their
heatmap: the paper's self-mapping at test time. One pass, in order:

    io.images.crop_face -> forward (heatmap, regressor, alpha) -> geometry.projection (landmarks, vertices)
"""

import functools
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from twodal_jax import forward
from twodal_jax.checkpointing.trained_model import TrainedModel
from twodal_jax.detection.boxes import suppress_overlaps
from twodal_jax.detection.types import Face, FaceBox, Pose
from twodal_jax.geometry import coefficients, projection
from twodal_jax.geometry.morphable_model import MorphableModel, without_mesh
from twodal_jax.io import images
from twodal_jax.reconstruction import crop_window
from twodal_jax.reconstruction.crop_window import CropWindow

# Programs are compiled for these numbers of faces only; a batch is padded to the next one.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
PASSES = 2

Picture = np.ndarray | PIL.Image.Image | os.PathLike | str


class Reconstructor:
    """A trained network with its morphable model and a face detector.

    Args:
      trained: see `trained_model.load`.
      detector: has `detect(image) -> list[FaceBox]`; default: CenterFace.
    """

    def __init__(self, trained: TrainedModel, detector=None):
        self.trained = trained
        self._detector = detector
        self._landmark_model = jax.device_put(without_mesh(trained.model))
        self._model = jax.device_put(trained.model)
        self._looseness = float(trained.config.get("crop_looseness", 1.0))
        folded = trained.folded(BATCH_SIZES[0])
        self._network = folded.spec.regressor
        self._variables = jax.device_put({"params": folded.regressor.params})

    @functools.cached_property
    def _mirrored_model(self) -> MorphableModel:
        return jax.device_put(self.trained.landmark_model)

    @property
    def morphable_model(self) -> MorphableModel:
        """The morphable model, on the host."""
        return self.trained.model

    @property
    def detector(self):
        """The face detector, made on first use."""
        if self._detector is None:
            from twodal_jax.detection.centerface import CenterFaceDetector

            self._detector = CenterFaceDetector()
        return self._detector

    def reconstruct(
        self,
        image: Picture,
        boxes: Sequence[FaceBox] | None = None,
        *,
        passes: int = PASSES,
        min_confidence: float = 0.0,
        mirror: bool = True,
    ) -> list[Face]:
        """Reconstructs the faces of one image.

        Args:
          image: BGR uint8 [H, W, 3] (as OpenCV reads it; `image[..., ::-1]` of an RGB array), a Pillow image of any
            mode but F, or a file.
          boxes: the detections; default: the detector's.
          passes: through the network for each face, at least 1.
          min_confidence: faces below it are left out.
          mirror: False: the network sees each crop once, even if its config says that it sees it mirrored, too
            (`forward.predict_batch`); it takes half the time.

        Raises:
          ValueError: `image` has another shape or type. SkipFace: the file cannot be read.
        """
        boxes = None if boxes is None else [boxes]
        return self.reconstruct_batch([image], boxes, passes=passes, min_confidence=min_confidence, mirror=mirror)[0]

    def reconstruct_batch(
        self,
        pictures: Sequence[Picture],
        boxes: Sequence[Sequence[FaceBox]] | None = None,
        *,
        passes: int = PASSES,
        min_confidence: float = 0.0,
        mirror: bool = True,
    ) -> list[list[Face]]:
        """Reconstructs the faces of several images, which share the network's batches; otherwise as `reconstruct`."""
        mirror = mirror and self.trained.spec.mirror_prediction
        if passes < 1:
            raise ValueError(f"`passes` must be at least 1, got {passes}.")
        pictures = [_as_picture(picture) for picture in pictures]
        if boxes is None:
            boxes = [self.detector.detect(picture) for picture in pictures]
        elif len(boxes) != len(pictures):
            raise ValueError(f"Expected a list of boxes for each of {len(pictures)} pictures, got {len(boxes)}.")
        flat = [(i, box) for i, found in enumerate(boxes) for box in found]
        faces: list[list[Face]] = [[] for _ in pictures]
        for start in range(0, len(flat), BATCH_SIZES[-1]):
            owners, group = zip(*flat[start : start + BATCH_SIZES[-1]])
            for i, face in zip(owners, self._run_passes([pictures[i] for i in owners], group, passes, mirror)):
                if face is not None and face.confidence >= min_confidence:
                    faces[i].append(face)
        # Two detections of one face converge to one window.
        return [suppress_overlaps(found, score_field="confidence") for found in faces]

    def vertices(self, alpha: np.ndarray, roi_box: np.ndarray | None = None) -> np.ndarray:
        """The mesh: alpha [..., 62] raw -> [..., N, 3], y down, z towards the viewer.

        Crop pixels, or image pixels if `roi_box` [..., 4] gives the place of the crop.
        """
        alpha = np.asarray(alpha, np.float32)
        lead = alpha.shape[:-1]
        flat = alpha.reshape(-1, alpha.shape[-1])
        box = (0, 0, projection.CROP_SIZE, projection.CROP_SIZE) if roi_box is None else roi_box
        box = np.broadcast_to(np.asarray(box, np.float32), (*lead, 4)).reshape(-1, 4)
        size, num_vertices = BATCH_SIZES[-1], self.morphable_model.num_vertices
        parts = [np.zeros((0, num_vertices, 3), np.float32)]
        for start in range(0, len(flat), size):
            rows = slice(start, start + size)
            parts.append(np.asarray(_vertices_image(self._model, *_padded(flat[rows], box[rows]))))
        return np.concatenate(parts)[: len(flat)].reshape(*lead, num_vertices, 3)

    def face_of(self, alpha: np.ndarray, roi_box: np.ndarray, confidence: float = 1.0) -> Face:
        """The face of given coefficients: alpha [62] raw in the crop of roi_box [4], image pixels."""
        alpha, roi_box = np.asarray(alpha, np.float32)[None], np.asarray(roi_box, np.float32)[None]
        points, angles, _ = (np.asarray(array)[0] for array in _measure(self._landmark_model, alpha, roi_box))
        pose = Pose(*map(float, angles))
        return Face(alpha[0], roi_box[0], points, self.vertices(alpha, roi_box)[0], pose, float(confidence))

    def _run_passes(
        self, pictures: list[np.ndarray], boxes: Sequence[FaceBox], passes: int, mirror: bool
    ) -> list[Face | None]:
        """Reconstructs at most `BATCH_SIZES[-1]` faces, one for each box; None where a box cannot be cropped."""
        count, authors_mouth = len(boxes), self.trained.spec.heatmap.authors_mouth
        windows = [CropWindow.of(box) for box in boxes]
        initial = [crop_window.initial_landmarks(*pair, authors_mouth) for pair in zip(windows, boxes)]
        landmarks, visible = np.split(np.stack(initial), [2], axis=-1)
        visible, usable, history = visible[..., 0], np.ones(count, bool), []
        for pass_index in range(passes):
            crops, is_cut = _cut(pictures, windows)
            usable &= is_cut
            turned_alphas = self._alphas(crops, landmarks, visible, mirror)
            turns = np.stack([window.turn for window in windows])
            alphas = np.asarray(_upright_alpha(*_padded(turned_alphas, turns)))[:count]
            roi_boxes = np.stack([window.roi_box for window in windows])
            measured = _measure(self._landmark_model, *_padded(alphas, roi_boxes))
            points, angles, rolls = (np.asarray(array)[:count] for array in measured)
            history.append(points)
            if pass_index + 1 < passes:
                windows, landmarks, visible = self._next_inputs(windows, rolls, points)
        confidence = crop_window.pass_consistency(history) * [min(1.0, box.score) for box in boxes]
        poses = [Pose(*map(float, row)) for row in angles]
        rows = zip(alphas, roi_boxes, points, self.vertices(alphas, roi_boxes), poses, confidence.tolist())
        return [Face(*row) if good else None for row, good in zip(rows, usable)]

    def _next_inputs(
        self, windows: list[CropWindow], rolls: np.ndarray, landmarks68: np.ndarray
    ) -> tuple[list[CropWindow], np.ndarray, np.ndarray]:
        """The windows of the next pass, and the heatmap's landmarks [B, 18, 2] and visible [B, 18] in their crops."""
        faces = zip(windows, rolls, landmarks68)
        after = [crop_window.next_window(*face, looseness=self._looseness) for face in faces]
        eighteen = np.asarray(self.trained.spec.heatmap.landmarks_18(landmarks68))
        landmarks = np.stack([window.from_image(points) for window, points in zip(after, eighteen)])
        # Landmarks from a wrong window would only repeat its error.
        trusted = np.float32([crop_window.has_converged(*pair) for pair in zip(windows, after)])
        return after, landmarks, np.repeat(trusted[:, None], landmarks.shape[1], axis=1)

    def _alphas(self, crops: np.ndarray, landmarks: np.ndarray, visible: np.ndarray, mirror: bool) -> np.ndarray:
        """[B, 62] raw alpha in each crop's own frame, of crops [B, 120, 120, 3] uint8 and the heatmap's landmarks."""
        batch = _padded(crops, landmarks, visible)
        model = self._mirrored_model if mirror else self._landmark_model
        settings = self.trained.spec.heatmap
        result = forward.predict_batch(
            self._variables, *batch, model, network=self._network, settings=settings, mirror=mirror
        )
        return np.asarray(result.alpha)[: len(crops)]


def _as_picture(picture: Picture) -> np.ndarray:
    if isinstance(picture, str | os.PathLike):
        return images.read_image(pathlib.Path(picture))
    if isinstance(picture, PIL.Image.Image):
        return images.from_pillow(picture)
    picture = np.asarray(picture)
    shape, dtype = picture.shape, picture.dtype
    if dtype == np.uint8 and len(shape) == 3 and shape[-1] == 3 and picture.size:
        return picture
    remedies = {
        "convert it with (255 * picture).astype(np.uint8) if its values are from 0 to 1": dtype.kind == "f",
        "divide 16 bits by 257 and convert them with astype(np.uint8)": dtype == np.uint16,
        "drop the fourth channel with picture[..., :3]": len(shape) == 3 and shape[-1] == 4,
        "repeat grey with np.stack([picture] * 3, axis=-1)": len(shape) == 2,
        "move the channels to the end with np.moveaxis(picture, 0, -1)": len(shape) == 3 and shape[0] == 3,
        "give several pictures to reconstruct_batch": len(shape) == 4,
    }
    remedy = "; ".join(text for text, applies in remedies.items() if applies)
    raise ValueError(
        f"Expected a BGR uint8 picture [H, W, 3], a Pillow image or a file's name, got {dtype} {shape}"
        f"{': ' + remedy if remedy else ''}."
    )


def _cut(pictures: list[np.ndarray], windows: list[CropWindow]) -> tuple[np.ndarray, np.ndarray]:
    """Crops [B, 120, 120, 3] uint8, and which of them could be cut (the others are black)."""
    crops = np.zeros((len(windows), projection.CROP_SIZE, projection.CROP_SIZE, 3), np.uint8)
    is_cut = np.ones(len(windows), bool)
    for i, (picture, window) in enumerate(zip(pictures, windows)):
        try:
            crops[i] = images.crop_face(picture, window.roi_box, 0, roll_degrees=window.roll_degrees)
        except images.SkipFace:
            is_cut[i] = False
    return crops, is_cut


def _padded(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays with their last row repeated up to one of BATCH_SIZES."""
    count = len(arrays[0])
    size = next(size for size in BATCH_SIZES if size >= count)
    rows = np.minimum(np.arange(size), count - 1)
    return [np.asarray(array)[rows] for array in arrays]


_upright_alpha = jax.jit(projection.transform_alpha)


@jax.jit
def _measure(model: MorphableModel, alpha: jax.Array, roi_box: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Landmarks [B, 68, 3] in image pixels; yaw, pitch, roll [B, 3] in degrees; the roll in the image [B], degrees.

    The roll in the image is the direction of the face's up axis, clockwise as seen.
    """
    points = projection.crop_to_image(projection.landmarks_crop(model, alpha), roi_box)
    matrix = coefficients.split(alpha)[0]
    pitch, yaw, roll = jnp.moveaxis(coefficients.decompose_pose(matrix).euler_angles, -1, 0)
    roll_in_image = jnp.arctan2(matrix[..., 0, 1], matrix[..., 1, 1])
    return points, jnp.degrees(jnp.stack([yaw, pitch, roll], axis=-1)), jnp.degrees(roll_in_image)


@jax.jit
def _vertices_image(model: MorphableModel, alpha: jax.Array, roi_box: jax.Array) -> jax.Array:
    return projection.crop_to_image(projection.vertices_crop(model, alpha), roi_box)
