"""The source `profile`: turned copies with exact annotations, reproducible face by face."""

import numpy as np
import pytest
from helpers_face_files import tiny_model, write_pair

from data_pipelines.loading import oversampling, validation
from data_pipelines.preparation.prepare import prepare
from data_pipelines.sources import profiled, registry, synthetic
from data_pipelines.sources.base import Skip, SourceError
from data_pipelines.sources.mat_300w_lp import MatFaces
from data_pipelines.storage.prepared_dataset import open_prepared
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import projection

COPIES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces") / "prepared"
    return synthetic.generate(path, "annotated", 4, seed=3, margin=40, max_yaw=70, workers=1, progress=False)


def open_source(folder, **options):
    return registry.open_source("profile", folder, morphable_model="builtin", copies=COPIES, **options)


@pytest.fixture(scope="module")
def faces(folder):
    source = open_source(folder, pitch=10)
    return list(source.faces(0, len(source)))


def test_every_face_is_followed_by_its_copies(faces, folder):
    assert len(faces) == 4 * (1 + COPIES)
    originals = open_prepared(folder).arrays
    for k, face in enumerate(faces):
        name = originals["name"][k // (1 + COPIES)]
        assert face["name"].startswith(name) and validation.photo(face["name"]) == validation.photo(str(name))
        if k % (1 + COPIES) == 0:
            np.testing.assert_array_equal(face["image"], originals["image"][k // (1 + COPIES)][20:-20, 20:-20])
        assert face["image"].shape == (160, 160, 3)


def head_yaw(face):
    """Yaw of the head about its own axis, from the pose alone."""
    rotation = face["alpha"][:12].reshape(3, 4)[:, :3]
    return np.degrees(np.arctan2(rotation[2, 0], rotation[2, 2]))


def test_copies_turn_away_and_keep_the_identity(faces):
    for k in range(0, len(faces), 1 + COPIES):
        original = faces[k]
        for copy in faces[k + 1 : k + 1 + COPIES]:
            added = float(copy["name"].split("_yaw")[1].split("_")[0])
            assert abs(added) >= 10
            np.testing.assert_allclose(head_yaw(copy) - head_yaw(original), added, atol=0.01)
            assert abs(head_yaw(original)) < abs(head_yaw(copy)) <= 90.1
            sine = -copy["alpha"][2] / np.linalg.norm(copy["alpha"][:3])
            np.testing.assert_allclose(np.sin(np.radians(copy["yaw_deg"])), sine, atol=1e-4)
            np.testing.assert_array_equal(copy["alpha"][12:], original["alpha"][12:])


def test_landmarks_are_those_of_alpha_in_a_crop_around_them(faces):
    model = load_morphable_model("builtin")
    mean, basis = np.asarray(model.landmark_mean, np.float64), np.asarray(model.landmark_basis, np.float64)
    boxes = []
    for face in faces:
        pose = face["alpha"][:12].reshape(3, 4).astype(np.float64)
        points = pose[:, :3] @ (mean + np.tensordot(face["alpha"][12:], basis, axes=1)) + pose[:, 3:]
        points[1] = 121 - points[1]
        np.testing.assert_allclose(face["landmarks68"], points.T, atol=0.01)
        assert np.abs(face["landmarks68_2d"][17:] - face["landmarks68"][17:, :2]).max() < 0.01
        boxes.append(np.asarray(projection.roi_box_from_landmarks(face["landmarks68"])))
    boxes = np.reshape(boxes, (-1, 1 + COPIES, 4))
    np.testing.assert_allclose(boxes[:, 1:], np.repeat(boxes[:, :1], COPIES, axis=1), atol=0.02)


def test_a_copy_is_a_function_of_seed_name_and_number(faces, folder):
    again = list(open_source(folder, pitch=10).faces(6, 7))
    for field, value in faces[6].items():
        np.testing.assert_array_equal(again[0][field], value)
    other = next(open_source(folder, pitch=10, seed=1).faces(6, 7))
    assert other["name"] != faces[6]["name"]


def test_steps_give_the_added_yaws_up_to_the_profile(folder):
    source = open_source(folder, steps=(0.0, 15.0, 90.0))
    made = list(source.faces(0, 4))
    assert [face["name"].split("_yaw")[-1].lstrip("+-") for face in made[1:3]] == ["0", "15"]
    inside = made[0]["image"][20:-20, 20:-20].astype(float) - made[1]["image"][20:-20, 20:-20]
    assert np.abs(inside).max() <= 1
    assert isinstance(made[3], Skip) and made[3].reason == profiled.BEYOND_PROFILE


def test_prepared_in_both_formats_and_readable_again(folder, tmp_path):
    for form in ("arrays", "array_record"):
        summary = prepare(open_source(folder), tmp_path / form, format=form)
        assert summary.count + len(summary.skips) == 4 * (1 + COPIES)
        source = profiled.PreparedFaces(tmp_path / form)
        face = next(source.faces(1, 2))
        assert face["image"].dtype == np.uint8 and face["alpha"].shape == (62,)
        assert "_yaw" in face["name"]

        opened = open_prepared(tmp_path / form)
        withheld = validation.rows(opened, 1)
        chosen = validation.unturned(opened, withheld)
        assert len(chosen) == 1 and len(withheld) > 1
        names = [face["name"] for face in source.faces(0, len(source))]
        assert list(withheld) == [k for k, name in enumerate(names) if name.startswith(names[chosen[0]])]
        repeats = np.bincount(oversampling.rows_by_yaw(opened, (1, 1, 1), 5))
        np.testing.assert_array_equal(repeats, [1 if "_yaw" in name else 5 for name in names])


def test_faces_of_mat_files_and_unusable_meshes_are_skipped_alone(tmp_path):
    """A random cloud of vertices is no face; it costs its own copies only."""
    model = tiny_model()
    write_pair(tmp_path, "one", model)
    write_pair(tmp_path, "two", model, seed=1)
    broken = model.replace(mean=np.asarray(model.mean) * np.nan)
    made = list(profiled.ProfiledFaces(MatFaces(tmp_path, model=model, margin=60), broken, copies=1).faces(0, 4))
    assert [isinstance(face, Skip) for face in made] == [False, True, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"margin": 50}, "margin"), ({"split": "train"}, "split"), ({"morphable_model": None}, "morphable_model")],
)
def test_wrong_options_are_named(folder, change, message):
    with pytest.raises(SourceError, match=message):
        registry.open_source("profile", folder, **({"morphable_model": "builtin"} | change))
