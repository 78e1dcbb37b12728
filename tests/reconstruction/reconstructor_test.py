"""twodal_jax.reconstruction.reconstructor and .crop_window: frames of rotated crops, passes, and the two verbs."""

import dataclasses

import cv2
import helpers_model
import numpy as np
import pytest
from helpers_run import save_untrained_run, tiny_config
from PIL import Image

import twodal_jax
from twodal_jax.detection import boxes
from twodal_jax.detection.types import FaceBox
from twodal_jax.face_models.load import save_morphable_model
from twodal_jax.forward import HeatmapSettings
from twodal_jax.geometry import projection
from twodal_jax.io import images
from twodal_jax.reconstruction import crop_window
from twodal_jax.reconstruction.reconstructor import BATCH_SIZES, Reconstructor

BOX = np.array([40.0, 30.0, 200.0, 190.0], np.float32)


def untrained(folder, **config):
    """A model with a random network and a tiny morphable model."""
    tiny = helpers_model.tiny_model()
    save_morphable_model(folder / "model.npz", tiny.replace(has_whitening=False))
    save_untrained_run(folder, tiny, tiny_config(**config, morphable_model=str(folder / "model.npz")))
    trained = twodal_jax.load(folder).trained
    rng = np.random.default_rng(5)
    params = dict(trained.regressor.params)
    kernel = rng.normal(0, 0.05, params["head"]["kernel"].shape).astype(np.float32)
    params["head"] = {**params["head"], "kernel": kernel}
    return Reconstructor(dataclasses.replace(trained, regressor=trained.regressor.replace(params=params)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def picture():
    return helpers_model.smooth_images(np.random.default_rng(1), 1, 240)[0]


@pytest.mark.parametrize("roll", [0.0, 25.0, -100.0])
def test_landmarks_follow_the_pixels_of_a_rotated_crop(roll):
    window = crop_window.CropWindow(BOX, roll)
    points = np.random.default_rng(0).uniform(20, 220, (18, 2)).astype(np.float32)
    in_crop = window.from_image(points)
    turn = images.roll_matrix(roll)
    upright = in_crop @ turn[:, :2].T + turn[:, 2]
    back = np.asarray(projection.crop_to_image(upright, BOX))
    np.testing.assert_allclose(back, points, atol=1e-3)


def test_a_rotated_face_is_upright_in_its_crop():
    upright = np.zeros((240, 240, 3), np.uint8)
    cv2.rectangle(upright, (110, 60), (130, 100), (255, 255, 255), -1)  # a mark above the middle
    centre = (119.5, 119.5)
    turned = cv2.warpAffine(upright, cv2.getRotationMatrix2D(centre, -35, 1.0), (240, 240))  # clockwise
    box = np.array([20.0, 20.0, 220.0, 220.0])
    expected = images.crop_face(upright, box, 0).astype(int)
    found = images.crop_face(turned, box, 0, roll_degrees=35.0).astype(int)
    assert np.abs(found - expected).mean() < 3 < np.abs(images.crop_face(turned, box, 0) - expected).mean()


def test_the_next_window_is_trainings_crop_box():
    points = np.random.default_rng(3).uniform(60, 180, (68, 3)).astype(np.float32)
    found = crop_window.next_window(crop_window.CropWindow(BOX, 0.0), 0.0, points)
    np.testing.assert_allclose(found.roi_box, projection.roi_box_from_landmarks(points), atol=1e-2)
    assert found.roll_degrees == 0.0


def test_the_window_changes_by_a_factor_of_two_at_most():
    window = crop_window.CropWindow(BOX, 0.0)
    points = np.random.default_rng(3).uniform(-4000, 4000, (68, 3)).astype(np.float32)
    found = crop_window.next_window(window, 0.0, points)
    assert found.roi_box[2] - found.roi_box[0] == pytest.approx(2 * 160, rel=1e-5)
    assert crop_window.next_window(window, 0.0, points * np.nan) is window


def test_pass_consistency_falls_with_the_change_and_is_0_for_nan():
    points = np.random.default_rng(4).uniform(0, 100, (1, 68, 3)).astype(np.float32)
    same, near, far, lost = (
        crop_window.pass_consistency([points, points + shift])[0] for shift in (0.0, 2.0, 30.0, np.nan)
    )
    assert same == 1.0 and same > near > far > 0 == lost
    assert crop_window.pass_consistency([points])[0] == 1.0


def test_a_face_in_a_batch_equals_the_face_alone(model, picture):
    rng = np.random.default_rng(6)
    corners = rng.uniform(0, 100, (BATCH_SIZES[-1] + 3, 1)).astype(np.float32)
    boxes = [
        FaceBox(np.concatenate([c, c, c + 90, c + 90]), float(r))
        for c, r in zip(corners, rng.uniform(-90, 90, len(corners)))
    ]
    together = model.reconstruct_batch([picture] * len(boxes), [[box] for box in boxes])
    assert all(len(found) == 1 for found in together)
    for i in (0, 1, BATCH_SIZES[-1], len(boxes) - 1):
        (alone,) = model.reconstruct(picture, [boxes[i]])
        np.testing.assert_allclose(together[i][0].vertices, alone.vertices, atol=0.05)
        assert together[i][0].pose.yaw == pytest.approx(alone.pose.yaw, abs=0.1)


def test_vertices_agree_with_the_projection(model):
    alpha = helpers_model.random_alpha(np.random.default_rng(7), 6).reshape(2, 3, 62)
    found = model.vertices(alpha, np.broadcast_to(BOX, (2, 3, 4)))
    crop = projection.vertices_crop(model.morphable_model, alpha)
    expected = projection.crop_to_image(crop, np.broadcast_to(BOX, (2, 3, 4)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(model.vertices(alpha[0, 0]), crop[0, 0], rtol=1e-5, atol=1e-3)
    assert model.vertices(np.zeros((0, 62), np.float32)).shape == (0, model.morphable_model.num_vertices, 3)


def test_landmarks_of_a_face_are_among_its_vertices(model, picture):
    (face,) = model.reconstruct(picture, [FaceBox(BOX, 15.0)])
    indices = np.asarray(model.morphable_model.landmark_indices)
    np.testing.assert_allclose(face.landmarks68, face.vertices[indices], atol=0.02)
    again = model.face_of(face.alpha, face.roi_box, face.confidence)
    np.testing.assert_allclose(again.vertices, face.vertices, atol=1e-3)


def test_given_landmarks_reach_the_network(model, picture):
    points = np.random.default_rng(8).uniform(60, 180, (18, 2)).astype(np.float32)
    bare, shown, hidden = (
        model.reconstruct(picture, [FaceBox(BOX, landmarks=landmarks, visible=visible)], passes=1)[0].alpha
        for landmarks, visible in ((None, None), (points, np.ones(18)), (points, np.zeros(18)))
    )
    assert np.abs(bare - shown).max() > 1e-3
    np.testing.assert_array_equal(bare, hidden)


@pytest.mark.parametrize("kind, centre", [("points", [62, 66]), ("gaussian", [48, 54])])
def test_every_pass_uses_the_mouth_centre_of_the_networks_training(model, picture, monkeypatch, kind, centre):
    """For 68 given landmarks and for those of the previous pass. The network here always returns the same face."""
    trained = dataclasses.replace(model.trained, spec=model.trained.spec.replace(heatmap=HeatmapSettings(kind)))
    alpha = helpers_model.random_alpha(np.random.default_rng(9), 1)
    alpha[0, :12] = [30, 0, 0, 60, 0, 30, 0, 60, 0, 0, 30, 0]  # upright, in the middle
    shown = []
    monkeypatch.setattr(Reconstructor, "_alphas", lambda self, crops, *points: shown.append(points) or alpha)
    given = boxes.from_landmarks68(np.random.default_rng(8).uniform(60, 180, (68, 2)))
    given = dataclasses.replace(given, roll_degrees=0.0)
    first, _ = (Reconstructor(trained).reconstruct(picture, [given], passes=passes)[0] for passes in (1, 2))
    before = crop_window.CropWindow.of(given)
    after = crop_window.next_window(before, 0.0, first.landmarks68)
    expected = [(before, given.landmarks68), (after, first.landmarks68)]
    for (landmarks, *_), (window, points) in zip(shown[1:], expected, strict=True):
        np.testing.assert_allclose(landmarks[0, 16], window.from_image(points[centre, :2]).mean(axis=0), atol=1e-2)


def test_two_boxes_of_one_face_give_one_face(model, picture):
    assert len(model.reconstruct(picture, [FaceBox(BOX), FaceBox(BOX + 4, score=0.5)], passes=1)) == 1


def test_a_box_outside_the_picture_is_skipped(model, picture):
    far = FaceBox(BOX + 5000)
    assert len(model.reconstruct(picture, [far, FaceBox(BOX)], passes=1)) == 1
    assert model.reconstruct(picture, []) == []


@pytest.mark.parametrize(
    "wrong, remedy",
    [
        (np.zeros((10, 10), np.uint8), "repeat grey"),
        (np.zeros((10, 10, 3), np.float32), "255"),
        (np.zeros((10, 10, 3), np.uint16), "257"),
        (np.zeros((10, 10, 4), np.uint8), "drop the fourth channel"),
        (np.zeros((3, 10, 10), np.uint8), "moveaxis"),
        (np.zeros((2, 10, 10, 3), np.uint8), "reconstruct_batch"),
        (np.zeros((0, 10, 3), np.uint8), ""),
        (np.zeros((10, 10, 3), np.int64).tolist(), ""),
        (None, ""),
    ],
)
def test_arrays_that_are_not_pictures_are_refused_with_a_remedy(model, wrong, remedy):
    with pytest.raises(ValueError, match=f"BGR uint8 .*{remedy}"):
        model.reconstruct(wrong, [FaceBox(BOX)])


def test_a_pillow_image_gives_the_face_of_its_file(model, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(picture[..., ::-1])).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        (by_image,) = model.reconstruct(image, [FaceBox(BOX)])
    (by_name,) = model.reconstruct(tmp_path / "a.png", [FaceBox(BOX)])
    np.testing.assert_array_equal(by_image.alpha, by_name.alpha)


def test_files_are_read_and_missing_ones_named(model, picture, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    (by_name,) = model.reconstruct(tmp_path / "a.png", [FaceBox(BOX)])
    (by_array,) = model.reconstruct(picture, [FaceBox(BOX)])
    np.testing.assert_array_equal(by_name.alpha, by_array.alpha)
    with pytest.raises(images.SkipFace, match="nowhere.png"):
        model.reconstruct(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="passes"):
        model.reconstruct(picture, [FaceBox(BOX)], passes=0)
