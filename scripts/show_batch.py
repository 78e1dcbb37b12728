"""Draws the faces of a training batch as the network gets them, for a visual check of the data.

    python -m scripts.show_batch --data=PREPARED_FOLDER --output=batch.png

For each face: its crop, its visible ones of the 18 numbered landmarks (cyan on the left side of an upright face,
yellow on the right, so that a swap is visible), its heatmap and, in an annotated set, the 68 landmarks of its alpha.
"""

import argparse
import dataclasses
import os
import pathlib
import sys

import jax
import numpy as np

from data_pipelines.loading import loader
from data_pipelines.storage.prepared_dataset import open_prepared, PreparedError
from scripts.option_types import at_least_one
from twodal_jax import forward
from twodal_jax.evaluation import metrics
from twodal_jax.face_models.load import AssetError, load_morphable_model
from twodal_jax.geometry import coefficients, morphable_model, projection
from twodal_jax.reconstruction.outputs import write_picture
from twodal_jax.rendering.batch_sheet import batch_sheet
from twodal_jax.training import batch as training_batch
from twodal_jax.training.augmentation import AugmentationSettings

# Stronger than useful for training, so that an error in any of them is visible.
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
class InputSpec:
    """The part of `training.state.TrainSpec` that determines the network's input."""

    seed: int
    augmentation: AugmentationSettings
    heatmap: forward.HeatmapSettings = forward.HeatmapSettings()


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.show_batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder made by scripts.prepare_data")
    parser.add_argument("--output", required=True, help="image to write, e.g. batch.png")
    parser.add_argument("--count", type=at_least_one, default=16, help="number of faces")
    parser.add_argument("--augment", action="store_true", help="augment more strongly than in training")
    parser.add_argument("--seed", type=int, default=0, help="selects the faces")
    parser.add_argument(
        "--morphable_model",
        default="builtin",
        help="builtin, or a path: needed for the 68 landmarks of an annotated set",
    )
    options = parser.parse_args(arguments)
    if pathlib.Path(options.output).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"--output must end in .png or .jpg, got {options.output}")
    return options


def network_inputs(batch, model, spec):
    """(AugmentedBatch, heatmaps [n, 120, 120, 1], 68 landmarks of alpha [n, 68, 3] or None) of one batch."""
    if model is None:
        faces, landmarks_68 = training_batch.prepare_wild(batch, spec), None
    else:
        faces = training_batch.prepare_annotated(batch, model, spec)
        alpha = coefficients.unwhiten(faces.whitened, model.alpha_mean, model.alpha_std)
        landmarks_68 = projection.landmarks_crop(model, alpha)
    heatmap_points = faces.heatmap_landmarks, faces.heatmap_visible
    inputs = forward.network_input(faces.image, *heatmap_points, spec.heatmap)
    return faces, inputs[..., 3:], landmarks_68


def sheet(batch, model, *, augment, seed, names=()):
    """Draws one batch, as `training.step` takes it -> uint8 BGR image; `model` is None for wild faces."""
    spec = InputSpec(seed, STRONG if augment else AugmentationSettings())
    if model is not None:
        model = morphable_model.without_mesh(model)
    # Compiled as a whole: compiling the many small operations one by one takes longer.
    faces, heatmaps, landmarks_68 = jax.jit(network_inputs, static_argnums=2)(batch, model, spec)
    return batch_sheet(
        faces.image,
        np.asarray(heatmaps),
        np.asarray(faces.landmarks),
        np.asarray(faces.visible),
        landmarks_68=None if landmarks_68 is None else np.asarray(landmarks_68),
        names=names,
    )


def warn_of_wrong_model(batch, model, name):
    """Prints a warning if alpha, projected with this model, does not give the stored landmarks."""
    if "landmarks68" not in batch:
        return
    true = np.asarray(batch["landmarks68"])[..., :2]
    projected = np.asarray(projection.landmarks_crop(model, batch["alpha"]))[..., :2]
    error = float(np.nanmedian(metrics.nme(projected, true, true)))
    if not error < WRONG_MODEL_NME:
        print(
            f"warning: alpha projected with --morphable_model={name} differs from the stored landmarks "
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
    write_picture(pathlib.Path(options.output), picture)
    print(f"{options.output}: {len(batch['image'])} of {prepared.count} {prepared.kind} faces")
    return 0


if __name__ == "__main__":
    sys.exit(main())
