"""Annotated faces turned to larger yaws: face profiling of another source (`rendering.profiling`).

For each face of the source the listing has the face itself, and then its copies, turned away from the camera: |yaw|
only grows, because a photo does not show what a turn back would uncover. Shape and expression of a copy are those of
the original; its crop is placed around its landmarks as the original's crop around the original's. A copy is a pure
function of (seed, name of the original, number of the copy).
"""

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import jax
import numpy as np

from data_pipelines.sources import synthetic
from data_pipelines.sources.base import FaceSource, Skip, SourceError
from data_pipelines.storage import array_record
from data_pipelines.storage.manifest import CROP_SIZE, Face, FIELDS
from data_pipelines.storage.prepared_dataset import open_prepared
from twodal_jax.geometry import morphable_model, projection
from twodal_jax.geometry.contour import contour_landmarks, contour_lines, JAW
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.rendering import profiling

SOURCE_MARGIN = 60  # the best margin of the source: a turned face uncovers what lies around its crop
MIN_TURN, MAX_YAW = 10.0, 90.0
_NO_SIDE = 5.0  # faces with a smaller |yaw| are turned to either side
BEYOND_PROFILE = "beyond profile"  # reason of skips


class Turn(NamedTuple):
    """Yaw and pitch in degrees that are added to those of a head."""

    yaw: float
    pitch: float = 0.0

    def suffix(self) -> str:
        """Suffix of a copy's name: `_yaw+45` or `_yaw+45_pitch-10`."""
        return f"_yaw{self.yaw:+g}" + (f"_pitch{self.pitch:+g}" if self.pitch else "")


class ProfiledFaces:
    """Faces of an annotated source and their turned copies (`sources.base.FaceSource`).

    Args:
      source: an annotated source; best with SOURCE_MARGIN and reflected borders.
      model: the morphable model of the source's alpha, with its mesh.
      margin: pixels stored around the 120-pixel crop, at most those of the source.
      copies: number of turned copies of each face, at random added yaws from 10 degrees to a yaw of 90. Their density
        grows linearly with the yaw.
      steps: added yaws in degrees instead, one copy for each.
      pitch: largest added pitch in degrees; uniform in +- pitch.
      seed: of the turns and of the simulated detections.

    Raises:
      SourceError: the source or an option does not fit.
    """

    kind = "annotated"

    def __init__(
        self,
        source: FaceSource,
        model: MorphableModel,
        *,
        margin: int = 20,
        copies: int = 4,
        steps: Sequence[float] | None = None,
        pitch: float = 0.0,
        seed: int = 0,
    ):
        if source.kind != "annotated":
            raise SourceError(f"{source.description}: holds {source.kind} faces; profiling needs annotated ones")
        if margin > source.margin:
            raise SourceError(f"margin: at most {source.margin}, the margin of {source.description}; got {margin}")
        if not model.num_vertices:
            raise SourceError("the morphable model has no mesh, which profiling needs")
        self.source, self.model, self.margin, self.notes = source, model, margin, source.notes
        self.steps = tuple(steps) if steps else None
        self.copies = len(self.steps) if self.steps else copies
        self.pitch, self.seed = pitch, seed
        turns = "+".join(f"{step:g}" for step in self.steps) if self.steps else f"{copies} copies"
        self.description = f"profile:{source.description}:{turns}"

    def __len__(self) -> int:
        return len(self.source) * (1 + self.copies)

    def fingerprint(self) -> str:
        """Hash of the source's listing, the model and the options; see `sources.base.FaceSource`."""
        options = (self.source.fingerprint(), self.copies, self.steps, self.pitch, self.seed)
        return hashlib.sha256(f"{options}{morphable_model.digest(self.model)}".encode()).hexdigest()[:16]

    def faces(self, start: int, stop: int) -> Iterator[Face | Skip]:
        """Listed faces start ... stop - 1; see `sources.base.FaceSource`."""
        each = 1 + self.copies
        for index in range(start // each, -(-stop // each)):
            original = next(iter(self.source.faces(index, index + 1)))
            first = max(start - index * each, 0)
            yield from self._of_one(original, range(first, min(stop - index * each, each)))

    def _of_one(self, original: Face | Skip, numbers: range) -> Iterator[Face | Skip]:
        if isinstance(original, Skip):
            yield from (original for _ in numbers)
            return
        turns = self._turns(original)
        solid = None
        for number in numbers:
            if number == 0:
                yield self._untouched(original)
                continue
            turn = turns[number - 1]
            if turn is None:
                yield Skip(
                    original["name"], BEYOND_PROFILE, f"copy {number} would be turned beyond {MAX_YAW:g} degrees"
                )
                continue
            try:
                solid = solid or self._relief(original)
            except ValueError as error:
                yield Skip(original["name"], "mesh not usable", str(error))
                continue
            yield self._turned(original, solid, turn, number)

    def _untouched(self, original: Face) -> Face:
        cut = self.source.margin - self.margin
        image, points = original["image"], np.array(original["landmarks68"][:, :2])
        jaw, outline = self._jaw(original["alpha"])
        points[:JAW] += outline - jaw
        return {
            **{name: original[name] for name in FIELDS[self.kind]},
            "image": image[cut : len(image) - cut, cut : len(image) - cut],
            "landmarks68_2d": points,
        }

    def _jaw(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Jaw landmarks [17, 2] of alpha, and the same on the outline; crop pixels."""
        model, directions = self._lines
        points = np.asarray(_vertices(model, alpha))[:, :2].reshape(JAW, -1, 2)
        return points[:, 0], contour_landmarks(points, directions, profiling.head_angles(_rotation(alpha))[0])

    @functools.cached_property
    def _lines(self) -> tuple[MorphableModel, np.ndarray]:
        """The model with the vertices of the contour lines alone, and their directions."""
        lines, directions = contour_lines(self.model)
        part = {name: getattr(self.model, name)[..., lines.ravel()] for name in ("mean", "basis")}
        return jax.device_put(self._sparse.replace(**part)), directions

    def _turns(self, original: Face) -> list[Turn | None]:
        """The turn of each copy; None where it would go beyond 90 degrees."""
        rng = self._rng(original, 0)
        yaw = float(profiling.head_angles(_rotation(original["alpha"]))[2])
        side = rng.choice([-1.0, 1.0]) if abs(yaw) < _NO_SIDE else np.sign(yaw)
        if self.steps:
            added = np.array(self.steps)
        else:
            # One copy in each of as many equal parts of the distribution.
            share = np.sqrt((np.arange(self.copies) + rng.random(self.copies)) / self.copies)
            room = MAX_YAW - side * yaw
            added = (
                np.round(MIN_TURN + (room - MIN_TURN) * share, 1) if room > MIN_TURN else np.full(self.copies, np.inf)
            )
        pitches = np.round(rng.uniform(-self.pitch, self.pitch, self.copies), 1)
        return [
            Turn(float(side * angle), float(pitch)) if side * yaw + angle <= MAX_YAW + 0.05 else None
            for angle, pitch in zip(added, pitches)
        ]

    def _rng(self, original: Face, number: int) -> np.random.Generator:
        name = hashlib.sha256(original["name"].encode()).digest()[:8]
        return np.random.default_rng([self.seed, int.from_bytes(name, "big"), number])

    @functools.cached_property
    def _mesh(self) -> MorphableModel:
        return jax.device_put(self.model)  # otherwise copied at each call

    def _relief(self, original: Face) -> profiling.Relief:
        vertices = np.asarray(_vertices(self._mesh, original["alpha"]))
        return profiling.relief(
            original["image"], vertices, self.model.triangles, self.model.landmark_indices, self._border
        )

    @functools.cached_property
    def _border(self) -> np.ndarray:
        return profiling.border_vertices(self.model.triangles)

    def _turned(self, original: Face, surfaces: profiling.Relief, turn: Turn, number: int) -> Face:
        rotation = profiling.head_turn(_rotation(original["alpha"]), *turn)
        alpha = np.array(original["alpha"], np.float32)
        alpha[:12] = profiling.turned_pose(alpha[:12].reshape(3, 4), rotation, surfaces.centre).ravel()
        window = _window(self._landmarks(original["alpha"]), self._landmarks(alpha))
        x, y, scale = window
        alpha = np.asarray(_transformed(alpha, np.float32([[1 / scale, 0, -x / scale], [0, 1 / scale, -y / scale]])))
        landmarks = self._landmarks(alpha)
        yaw = float(np.degrees(np.arcsin(np.clip(-_rotation(alpha)[0, 2], -1, 1))))
        image = profiling.turn(surfaces, rotation, window, self.margin)
        made = synthetic.SyntheticFace(image, alpha, landmarks, np.ones(68, bool), yaw)
        corner, unit = original["roi_box"][:2], (original["roi_box"][2:] - original["roi_box"][:2]) / CROP_SIZE
        low = np.array([x, y]) - 0.5 * scale + 0.5
        return {
            "name": original["name"] + turn.suffix(),
            "image": image,
            "alpha": alpha,
            "landmarks68": landmarks,
            "landmarks68_2d": np.concatenate([self._jaw(alpha)[1], landmarks[JAW:, :2]]).astype(np.float32),
            "roi_box": np.concatenate([corner + low * unit, corner + (low + CROP_SIZE * scale) * unit]).astype(
                np.float32
            ),
            "yaw_deg": np.float32(yaw),
            "detected": synthetic.detect(self._rng(original, number), made),
            "detected_visible": np.ones(18, np.float32),
        }

    def _landmarks(self, alpha: np.ndarray) -> np.ndarray:
        return np.asarray(_landmarks(self._sparse, alpha))

    @functools.cached_property
    def _sparse(self) -> MorphableModel:
        return jax.device_put(morphable_model.without_mesh(self.model))


class PreparedFaces:
    """A prepared annotated set as a source (`sources.base.FaceSource`); for `ProfiledFaces`."""

    notes = ()

    def __init__(self, folder: os.PathLike | str):
        self._set = open_prepared(folder, kind="annotated")
        self.kind, self.margin = self._set.kind, self._set.margin
        self.description = f"prepared:{self._set.manifest['source']}"

    def __len__(self) -> int:
        return self._set.count

    def fingerprint(self) -> str:
        """Hash of the set; see `sources.base.FaceSource`."""
        return self._set.manifest["sha256"][:16]

    def faces(self, start: int, stop: int) -> Iterator[Face]:
        """Faces start ... stop - 1; see `sources.base.FaceSource`."""
        for row in range(start, stop):
            if self._set.format == "arrays":
                face = {name: np.array(self._set.arrays[name][row]) for name in self._set.fields}
                yield face | {"name": str(face["name"])}
                continue
            tf, records = self._records
            batch = array_record.parse_batch(tf, tf.constant([records[row]]), self._set.fields, parallel=1)
            face = {name: value.numpy()[0] for name, value in batch.items()}
            image = cv2.cvtColor(face["image"], cv2.COLOR_RGB2BGR)
            yield face | {"name": face["name"].decode(), "image": image}

    @functools.cached_property
    def _records(self):
        return array_record.tensorflow_on_cpu(), array_record.open_shards(self._set.shards)


def _rotation(alpha: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] of an annotation's pose, whose left block is a scaled rotation."""
    linear = np.asarray(alpha[:12], np.float64).reshape(3, 4)[:, :3]
    return linear / np.cbrt(np.linalg.det(linear))


def _window(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The new crop [3] = (x, y, scale) for `profiling.turn`, placed around landmarks `after` as the old `before`."""
    old, new = (np.asarray(_roi_box(points)) for points in (before, after))
    scale = (new[2] - new[0]) / (old[2] - old[0])
    return np.array([*(new[:2] - scale * old[:2]), scale])


_vertices = jax.jit(projection.vertices_crop)
_landmarks = jax.jit(projection.landmarks_crop)
_transformed = jax.jit(projection.transform_alpha)
_roi_box = jax.jit(projection.roi_box_from_landmarks)
