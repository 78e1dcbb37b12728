"""Jaw points of wild faces: in a prepared set, in augmentation and in a training step."""

import functools

import helpers_model
import jax
import numpy as np
import pytest
from helpers_augmentation import compiled, keys, MIRRORED
from helpers_run import tiny_config

from data_pipelines import training_data
from data_pipelines.sources import synthetic
from data_pipelines.storage import prepared_dataset
from twodal_jax.geometry import heatmap
from twodal_jax.training import landmark_offsets, step as train_step
from twodal_jax.training.state import create_train_state


def test_augmentation_transforms_jaw_points_like_the_landmarks_and_leaves_the_rest_unchanged():
    rng = np.random.default_rng(5)
    images = helpers_model.smooth_images(rng, 4)
    landmarks = rng.uniform(0, 119, (4, 21, 2)).astype(np.float32)
    visible = (rng.uniform(size=(4, 21)) > 0.3).astype(np.float32)
    wild = compiled(MIRRORED)[1]
    with_jaw = wild(keys(4), images, landmarks, visible)
    without = wild(keys(4), images, landmarks[:, :18], visible[:, :18])
    np.testing.assert_array_equal(with_jaw[0], without[0])
    for found, expected in zip(with_jaw[1:], without[1:]):
        np.testing.assert_array_equal(found[:, :18], expected)
    for face in range(4):  # the similarity estimated from the landmarks also maps the jaw points
        before, after = landmarks[face], np.asarray(with_jaw[1])[face]
        for order in (np.arange(21), heatmap.MIRROR_WITH_JAW):
            points = np.column_stack([before[order], np.ones(21)])
            matrix, *_ = np.linalg.lstsq(points[:18], after[:18], rcond=None)
            if np.allclose(points[:18] @ matrix, after[:18], atol=1e-2):
                break
        np.testing.assert_allclose(points[18:] @ matrix, after[18:], atol=1e-2)
        np.testing.assert_array_equal(np.asarray(with_jaw[2])[face], visible[face][order])


def test_jaw_points_are_compared_only_if_they_have_a_weight():
    model = helpers_model.tiny_model()
    batch = helpers_model.tiny_batch(model)
    count = len(batch["wild"]["image"])
    jaw = {"jaw": np.full((count, 3, 2), 60.0, np.float32), "jaw_visible": np.ones((count, 3), np.float32)}
    with_jaw = batch | {"wild": batch["wild"] | jaw}
    spec = helpers_model.tiny_spec(losses=helpers_model.STAGE2_LOSSES | {"loss_2d_con": 0.01})
    weighted = spec.replace(landmark_weights=(*spec.landmark_weights, 2.0, 2.0, 2.0), learn_landmark_offsets=True)
    state = create_train_state(spec, seed=0)
    step = jax.jit(functools.partial(train_step.train_step, spec=spec))
    without, ignored = (step(state, given, model) for given in (batch, with_jaw))
    jax.tree.map(np.testing.assert_array_equal, without, ignored)

    state = create_train_state(weighted, seed=0)
    step = jax.jit(functools.partial(train_step.train_step, spec=weighted))
    new, metrics = step(state, with_jaw, model)
    assert metrics["loss_2d_con"] > without[1]["loss_2d_con"] * 1.01
    assert (np.asarray(new.regressor.params[landmark_offsets.NAME])[18:] != 0).any(axis=1).all()
    hidden = with_jaw | {"wild": with_jaw["wild"] | {"jaw_visible": 0 * jaw["jaw_visible"]}}
    np.testing.assert_allclose(step(state, hidden, model)[1]["loss_2d_con"], without[1]["loss_2d_con"], rtol=1e-5)


def test_a_wild_set_without_jaw_points_raises_an_error_if_the_config_uses_them(tmp_path):
    sets = {
        kind: synthetic.generate(tmp_path / kind, kind, 2, seed=0, progress=False) for kind in ("annotated", "wild")
    }
    opened = prepared_dataset.open_prepared(sets["wild"])
    kept = {name: array for name, array in opened.arrays.items() if not name.startswith("jaw")}
    without = prepared_dataset.write_arrays(tmp_path / "without", kind="wild", arrays=kept, source="test")
    folders = {
        "data.annotated.folder": str(sets["annotated"]),
        "data.evaluation.folder": str(sets["annotated"]),
        "morphable_model": "builtin",
        "jaw_weight": 1.0,
        "validation_faces": 0,
    }
    model = helpers_model.tiny_model()
    config = tiny_config(**folders, **{"data.wild.folder": str(without)})
    with pytest.raises(prepared_dataset.PreparedError, match="without: has no jaw and jaw_visible.*jaw_weight=0"):
        training_data.open_training_data(config, tmp_path, model)
    config = tiny_config(**folders, **{"data.wild.folder": str(sets["wild"])})
    data, _ = training_data.open_training_data(config, tmp_path, model)
    batch = next(data.wild(0))
    assert batch["jaw"].shape == (2, 3, 2) and batch["jaw_visible"].shape == (2, 3)
    with config.unlocked():
        config.jaw_weight = 0.0
    assert "jaw" not in next(training_data.open_training_data(config, tmp_path, model)[0].wild(0))
