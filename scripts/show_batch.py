"""Draws the faces of a training batch as the network gets them, to check data by eye.

    python -m scripts.show_batch --data=PREPARED_FOLDER --output=batch.png

A face is its crop, those of its 18 numbered landmarks that are visible (cyan: left side of an upright face, yellow:
right, so a swap is plain to see), its heatmap and, in an annotated set, the 68 landmarks of its alpha.
"""

import argparse
import dataclasses
import os
import pathlib
import sys

import cv2
import jax
import numpy as np

from data_pipelines.loading import loader
from data_pipelines.storage.prepared_dataset import open_prepared, PreparedError
from scripts.option_types import at_least_one
from twodal_jax import forward
from twodal_jax.evaluation import metrics
from twodal_jax.face_models.load import AssetError, load_morphable_model
from twodal_jax.geometry import coefficients, morphable_model, projection
from twodal_jax.rendering.batch_sheet import batch_sheet
from twodal_jax.training import batch as training_batch
from twodal_jax.training.augmentation import AugmentationSettings

# Stronger than is good for training, so that a mistake in any of them shows.
STRONG = AugmentationSettings(
    rotation_degrees=45.0,
    scale=0.2,
    shift_pixels=10.0,
    mirror=0.5,
    brightness=0.15,
    contrast=0.25,
    saturation=0.3,
    grey=0.15,
    blur=0.3,
    noise=0.04,
    occlusion=0.3,
    landmark_jitter=1.0,
    landmark_dropout=0.05,
    heatmap_dropout=0.05,
)
WRONG_MODEL_NME = 5.0  # per cent; 40 + 10 components of the right model are within 1


@dataclasses.dataclass(frozen=True)
class View:
    """The part of `training.batch.TrainSpec` that decides what the network sees."""

    seed: int
    augmentation: AugmentationSettings
    heatmap: forward.HeatmapSettings = forward.HeatmapSettings()


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.show_batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder made by scripts.prepare_data")
    parser.add_argument("--output", required=True, help="picture to write, e.g. batch.png")
    parser.add_argument("--count", type=at_least_one, default=16, help="number of faces")
    parser.add_argument("--augment", action="store_true", help="augment more than training does")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other faces")
    parser.add_argument(
        "--morphable_model",
        default="builtin",
        help="builtin, or a path: needed for the 68 landmarks of an annotated set",
    )
    options = parser.parse_args(arguments)
    if pathlib.Path(options.output).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"--output must end in .png or .jpg, got {options.output}")
    return options


def network_view(batch, model, view):
    """(CroppedFaces, heatmaps [n, 120, 120, 1], 68 landmarks of alpha [n, 68, 3] or None) of one batch."""
    if model is None:
        faces, landmarks_68 = training_batch.prepare_wild(batch, view), None
    else:
        faces = training_batch.prepare_annotated(batch, model, view)
        alpha = coefficients.unwhiten(faces.whitened, model.alpha_mean, model.alpha_std)
        landmarks_68 = projection.landmarks_crop(model, alpha)
    heatmap_points = faces.heatmap_landmarks, faces.heatmap_visible
    inputs = forward.network_input(faces.image, *heatmap_points, view.heatmap)
    return faces, inputs[..., 3:], landmarks_68


def sheet(batch, model, *, augment, seed, names=()):
    """One batch as `training.step` takes it → BGR uint8 sheet; model: None for wild faces."""
    view = View(seed, STRONG if augment else AugmentationSettings())
    if model is not None:
        model = morphable_model.without_mesh(model)
    # Compiled as a whole: one by one, the many small operations take longer to compile.
    faces, heatmaps, landmarks_68 = jax.jit(network_view, static_argnums=2)(batch, model, view)
    return batch_sheet(
        faces.image,
        np.asarray(heatmaps),
        np.asarray(faces.landmarks),
        np.asarray(faces.visible),
        landmarks_68=None if landmarks_68 is None else np.asarray(landmarks_68),
        names=names,
    )


def warn_of_wrong_model(batch, model, name):
    """A warning if alpha, projected with this model, does not give the landmarks beside it."""
    if "landmarks68" not in batch:
        return
    true = np.asarray(batch["landmarks68"])[..., :2]
    projected = np.asarray(projection.landmarks_crop(model, batch["alpha"]))[..., :2]
    error = float(np.nanmedian(metrics.nme(projected, true, true)))
    if not error < WRONG_MODEL_NME:
        print(
            f"warning: alpha projected with --morphable_model={name} misses the stored landmarks "
            f"by {error:.1f} % NME; the faces were prepared with another model.",
            file=sys.stderr,
        )


def first_batch(prepared, count, seed):
    """The first `count` faces of training with this seed, names included."""
    stream = loader.batches(prepared, batch_size=count, seed=seed, fields=tuple(prepared.fields), prefetch=1)
    try:
        return next(stream)
    finally:
        stream.close()


def main(arguments=None) -> int:
    options = parse(arguments)
    try:
        prepared = open_prepared(options.data)
        model = None
        if prepared.kind == "annotated":
            model = load_morphable_model(options.morphable_model)
        batch = first_batch(prepared, options.count, options.seed)
    except (PreparedError, AssetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if model is not None:
        warn_of_wrong_model(batch, model, options.morphable_model)
    names = [os.fsdecode(name) for name in batch.pop("name")]
    picture = sheet(batch, model, augment=options.augment, seed=options.seed, names=names)
    write_picture(options.output, picture)
    print(f"{options.output}: {len(batch['image'])} of {prepared.count} {prepared.kind} faces")
    return 0


def write_picture(path, picture):
    """Writes a BGR picture atomically, in the format of the path's ending."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        if not cv2.imwrite(str(temporary), picture):
            raise OSError(f"{path}: could not be written as a picture")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
