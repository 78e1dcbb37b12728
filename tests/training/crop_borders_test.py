"""Crop borders do not reveal to a linear probe whether a face is annotated or wild.

The self-critic must judge coefficients. If one set is filled from a margin around its crops and the other with repeated
edges, the border reveals a face's set.
"""

import os
import pathlib

import helpers_model
import jax
import numpy as np
import pytest

from configs import aflw
from data_pipelines.sources.mat_300w_lp import MatFaces
from data_pipelines.sources.wild_csv import wild_csv_faces
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import symmetry
from twodal_jax.geometry.morphable_model import without_mesh
from twodal_jax.training import batch as training_batch
from twodal_jax.training.augmentation import AugmentationSettings

needs_data = pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
COUNT = 700
AUGMENTATION = AugmentationSettings(**dict(aflw.get_config().augmentation))
BATCH = 100
MAX_ACCURACY = 0.60  # of the probe; 0.5 is chance


def borders(images, depth):
    """The crops' four borders [n, 4, depth, 120, 3], outermost row first."""
    turned = np.swapaxes(images, 1, 2)
    return np.stack([side[:, :depth] for side in (images, images[:, ::-1], turned, turned[:, ::-1])], axis=1)


def border_colours(images):
    """Colours [n, 360] of the two outermost pixels, averaged over cells of four."""
    return borders(images, 2).mean(axis=2).reshape(len(images), 4, 30, 4, 3).mean(axis=3).reshape(len(images), -1)


def border_differences(images):
    """Absolute differences [n, 960] of neighbouring rows from the border inwards; 0 where edges are repeated."""
    rows = np.abs(np.diff(borders(images, 9), axis=2)).mean(axis=-1)
    return rows.reshape(len(images), 4, 8, 30, 4).mean(axis=-1).reshape(len(images), -1)


def border_statistics(images):
    """Fraction of equal pixels and mean difference [n, 64] of the rows of `border_differences`."""
    rows = np.abs(np.diff(borders(images, 9), axis=2)).mean(axis=-1)
    both = (rows < 0.3).mean(axis=-1), np.log1p(rows.mean(axis=-1))
    return np.concatenate([part.reshape(len(images), -1) for part in both], axis=1)


FEATURES = (border_colours, border_differences, border_statistics)


def probe_accuracy(features, annotated, wild, repeats=6):
    """Accuracy of a ridge regression, trained on half of the faces, on the other half; mean over random halves."""
    accuracies = []
    both = [features(images) for images in (annotated, wild)]
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        halves = [np.array_split(rng.permutation(of), 2) for of in both]
        (known, unseen), half = (np.concatenate(parts) for parts in zip(*halves)), len(halves[0][0])
        label = np.repeat([1.0, -1.0], [half, len(known) - half])
        true = np.repeat([1.0, -1.0], [len(halves[0][1]), len(halves[1][1])])
        mean, spread = known.mean(axis=0), known.std(axis=0) + 1e-3 * known.std() + 1e-9
        known, unseen = (known - mean) / spread, (unseen - mean) / spread
        dual = np.linalg.solve(known @ known.T + known.shape[1] * np.eye(len(known)), label)
        accuracies.append((np.sign(unseen @ (known.T @ dual)) == true).mean())
    return float(np.mean(accuracies))


def augmented(annotated, wild, model, margin):
    """The networks' images of both sets, two [n, 120, 120, 3]."""
    spec = helpers_model.tiny_spec(augmentation=AUGMENTATION.replace(margin=margin))
    prepare_annotated = jax.jit(lambda part: training_batch.prepare_annotated(part, model, spec).image)
    prepare_wild = jax.jit(lambda part: training_batch.prepare_wild(part, spec).image)

    def in_batches(prepare, part):
        count = len(part["image"])
        position = np.stack([np.zeros(count), np.arange(count)], axis=-1).astype(np.uint32)
        part = part | {"position": position}
        rows = [{name: value[i : i + BATCH] for name, value in part.items()} for i in range(0, count, BATCH)]
        return np.concatenate([np.asarray(prepare(batch)) for batch in rows])

    return in_batches(prepare_annotated, annotated), in_batches(prepare_wild, wild)


@pytest.fixture(scope="module")
def synthetic_crops():
    """{margin: both sets of the networks' images}: annotated images are stored with a margin, wild ones without."""
    model, rng = symmetry.with_mirror(helpers_model.symmetric_model()), np.random.default_rng(0)
    images = helpers_model.smooth_images(rng, 800, 160)
    annotated = {"image": images[:400], "alpha": helpers_model.random_alpha(rng, 400)}
    wild = {"image": images[400:, 20:140, 20:140], "landmarks": np.full((400, 18, 2), 60.0, np.float32)}
    wild["visible"] = np.ones((400, 18), np.float32)
    return {margin: augmented(annotated, wild, model, margin) for margin in (0, 20)}


@pytest.mark.slow
@pytest.mark.parametrize("features", FEATURES)
def test_borders_of_synthetic_images_reveal_their_set_only_if_the_margins_differ(synthetic_crops, features):
    assert probe_accuracy(features, *synthetic_crops[0]) <= MAX_ACCURACY
    if features is not border_colours:  # repeated edges do not change colours near the border
        assert probe_accuracy(features, *synthetic_crops[20]) > MAX_ACCURACY


@pytest.fixture(scope="module")
def real():
    """(annotated faces, wild faces, morphable model) of the real sets."""
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"])
    model = symmetry.with_mirror(load_morphable_model(folder / "bfm_3ddfa"))
    faces = MatFaces(folder / "aflw2000", split="train").faces(0, COUNT + 50)
    annotated = [face for face in faces if isinstance(face, dict)][:COUNT]
    source, wild = wild_csv_faces(folder / "aflw_wild"), []
    for row in np.random.default_rng(0).permutation(len(source))[:COUNT].tolist():
        wild += [face for face in source.faces(row, row + 1) if isinstance(face, dict)]

    def stacked(faces, *names):
        return {name: np.stack([face[name] for face in faces]) for name in names}

    assert min(len(annotated), len(wild)) >= 600
    return (stacked(annotated, "image", "alpha"), stacked(wild, "image", "landmarks", "visible"), without_mesh(model))


@pytest.mark.slow
@needs_data
def test_borders_of_real_crops_do_not_reveal_their_set(real):
    """Accuracy with 900 faces per set and configs/aflw.py: colours 55.6 %, differences 53.3 %, statistics 52.1 %.

    With 20 pixels of margin around annotated faces only: 58.0, 65.5 and 70.1 %.
    """
    images = augmented(*real, margin=AUGMENTATION.margin)
    assert AUGMENTATION.margin == 0
    for features in FEATURES:
        assert probe_accuracy(features, *images) <= MAX_ACCURACY, features.__name__
    assert (
        probe_accuracy(border_statistics, *augmented(*real, margin=20)) > MAX_ACCURACY
    )  # the probe detects differing margins
