"""Reconstruction of many photos, from files to files. A photo that fails is reported and the others are done."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from twodal_jax.detection.from_file import GivenFaces
from twodal_jax.detection.types import Face, FaceBox
from twodal_jax.io.images import read_image, SkipFace
from twodal_jax.reconstruction import animatable, outputs
from twodal_jax.reconstruction.inputs import Photo
from twodal_jax.reconstruction.reconstructor import PASSES, Reconstructor
from twodal_jax.reconstruction.scene import Scene, Surface

# Photos that share the network's batches: a number of photos, or of pixels.
BATCH, BATCH_PIXELS = 8, 40_000_000


@dataclasses.dataclass(frozen=True)
class PhotoSettings:
    """Settings for all photos.

    Attributes:
      output_dir: each photo gets a folder of its name there.
      names: of `outputs.OUTPUTS`.
      passes, min_confidence: see `Reconstructor.reconstruct`.
      frame: of exported meshes, "image" or "model".
      texture_size: texels a side.
    """

    output_dir: pathlib.Path
    names: tuple[str, ...] = outputs.DEFAULT
    passes: int = PASSES
    min_confidence: float = 0.0
    frame: str = "image"
    texture_size: int = 1024


@dataclasses.dataclass
class Outcome:
    """Results of many inputs.

    Attributes:
      faces: number written.
      inputs: number of inputs, 0 until work begins.
      done: number processed, successfully or not.
      failures: (input, reason).
      left_out: number of faces of other people, for `reconstruct_same_person`.
    """

    faces: int = 0
    inputs: int = 0
    done: int = 0
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    left_out: int = 0


Read = tuple[Photo, np.ndarray, Sequence[FaceBox]]


def reconstruct_photos(
    photos: Sequence[Photo],
    model: Reconstructor,
    surface: Surface,
    settings: PhotoSettings,
    outcome: Outcome,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Reconstructs all photos and writes the chosen outputs; results and failures are added to `outcome`.

    `model.detector` detects the faces, or is a file's `GivenFaces`.

    Raises:
      OSError: an output could not be written; outputs before it are complete.
    """
    for photo, image, faces in _reconstructed(photos, model, settings, outcome, advance):
        _write(photo, image, faces, surface, settings)
        outcome.faces += len(faces)
        outcome.done += 1
        advance(1)


def reconstruct_same_person(
    photos: Sequence[Photo],
    model: Reconstructor,
    surface: Surface,
    settings: PhotoSettings,
    outcome: Outcome,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Reconstructs one person in several photos with one shape; each photo has its own pose and expression.

    The person is the largest face of each photo. The shape is the mean by confidence. Otherwise as
    `reconstruct_photos`; the photos are read twice.
    """
    found: list[tuple[Photo, Face]] = []
    for photo, _, faces in _reconstructed(photos, model, settings, outcome, advance):
        found.append((photo, max(faces, key=lambda face: np.ptp(face.landmarks68[:, :2], axis=0).max())))
        outcome.left_out += len(faces) - 1
    if not found:
        return
    alphas, weights = (np.stack([getattr(face, name) for _, face in found]) for name in ("alpha", "confidence"))
    alphas = animatable.with_shared_shape(model.morphable_model, alphas, weights)
    for (photo, face), alpha in zip(found, alphas):
        face = model.face_of(alpha, face.roi_box, face.confidence)
        _write(photo, read_image(photo.path), [face], surface, settings)
        outcome.faces += 1
        outcome.done += 1
        advance(1)


def _reconstructed(
    photos, model: Reconstructor, settings: PhotoSettings, outcome: Outcome, advance
) -> Iterator[tuple[Photo, np.ndarray, list[Face]]]:
    """The photos with faces; a photo that fails is added to `outcome` and counted."""
    for group in _groups(photos, model.detector, outcome, advance):
        found = model.reconstruct_batch(
            [image for _, image, _ in group],
            [boxes for *_, boxes in group],
            passes=settings.passes,
            min_confidence=settings.min_confidence,
        )
        for (photo, image, boxes), faces in zip(group, found):
            if faces:
                yield photo, image, faces
                continue
            outcome.failures.append((str(photo.path), _reason_for_none(boxes, settings.min_confidence)))
            outcome.done += 1
            advance(1)


def _groups(photos, detector, outcome: Outcome, advance) -> Iterator[list[Read]]:
    group: list[Read] = []
    for photo in photos:
        try:
            image = read_image(photo.path)
        except SkipFace as skip:
            detail = skip.detail.removeprefix(f"{photo.path}: ")
            outcome.failures.append((str(photo.path), f"{skip.reason}: {detail}"))
            outcome.done += 1
            advance(1)
            continue
        group.append((photo, image, _boxes_of(detector, photo, image)))
        if len(group) == BATCH or sum(image.size // 3 for _, image, _ in group) > BATCH_PIXELS:
            yield group
            group = []
    if group:
        yield group


def _boxes_of(detector, photo: Photo, image: np.ndarray) -> Sequence[FaceBox]:
    if isinstance(detector, GivenFaces):
        return detector.find(photo.path) or ()
    return detector.detect(image)


def _write(photo: Photo, image: np.ndarray, faces: list[Face], surface: Surface, settings: PhotoSettings) -> None:
    scene = Scene(photo.path.name, image, faces, surface, settings.frame, settings.texture_size)
    outputs.write(scene, settings.output_dir / photo.name, settings.names)


def _reason_for_none(boxes: Sequence[FaceBox], min_confidence: float) -> str:
    if boxes:
        return f"{len(boxes)} possible face(s), none with a confidence of {min_confidence:g} (--min_confidence)"
    return "no face found; give --boxes or --landmarks, or try --detector=face-alignment"
