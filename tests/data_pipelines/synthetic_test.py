"""Synthetic faces: exact ground truth, reproducible bytes, and a third-party detector that detects them."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
import skimage.feature

from data_pipelines.sources import synthetic
from data_pipelines.storage import prepared_dataset
from tests.helpers_face_files import file_contents
from twodal_jax.face_models import cc0_head, sampling
from twodal_jax.geometry import coefficients, projection


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return {
        kind: prepared_dataset.open_prepared(
            synthetic.generate(folder / kind, kind, 60, seed=4, progress=False), kind=kind
        )
        for kind in ("annotated", "wild")
    }


def test_stored_landmarks_are_the_projection_of_the_stored_alpha(sets):
    rows = sets["annotated"].arrays
    model = cc0_head.load().model
    projected = projection.landmarks_crop(model, jnp.asarray(rows["alpha"]))
    np.testing.assert_allclose(projected, rows["landmarks68"], atol=1e-3)


def test_stored_yaw_is_alphas_and_occurs_in_all_bins(sets):
    rows = sets["annotated"].arrays
    pose = coefficients.decompose_pose(jnp.asarray(rows["alpha"][:, :12].reshape(-1, 3, 4)))
    yaw = np.degrees(np.asarray(pose.euler_angles)[:, 1])
    np.testing.assert_allclose(yaw, rows["yaw_deg"], atol=0.1)
    assert (np.histogram(np.abs(yaw), [0, 30, 60, 90.1])[0] >= 10).all()


def test_the_manifest_has_the_whitening(sets):
    model = cc0_head.load().model
    for opened in sets.values():
        np.testing.assert_allclose(opened.manifest["alpha_std"], model.alpha_std, rtol=1e-6)
        assert opened.image_size == 120 and opened.count == 60


def test_simulated_detections_have_the_errors_of_a_detector(sets):
    rows = sets["annotated"].arrays
    faces = [synthetic.SyntheticFace(None, None, row, np.ones(68, bool), 0.0) for row in rows["landmarks68"]]
    truth = np.stack([synthetic.landmarks_18(face)[0] for face in faces])
    box = np.sqrt(np.prod(np.ptp(rows["landmarks68"][..., :2], axis=1), axis=1))
    error = np.linalg.norm(rows["detected"] - truth, axis=2).mean(axis=1) / box
    assert 0.02 < error.mean() < 0.05
    assert error[np.abs(rows["yaw_deg"]) > 60].mean() > error[np.abs(rows["yaw_deg"]) < 30].mean()
    assert (rows["detected_visible"] == 1).all()


def test_landmarks_on_the_far_side_are_hidden(sets):
    rows = sets["wild"].arrays
    visible, yaw = np.asarray(rows["visible"]), np.asarray(rows["yaw_deg"])
    # Positive yaw turns the nose to the left of the image, so the half at the left is the far one.
    left, right = [0, 1, 6, 7], [4, 5, 10, 11]
    assert visible[yaw > 60][:, right].mean() > 0.9 > 0.5 > visible[yaw > 60][:, left].mean()
    assert visible[yaw < -60][:, left].mean() > 0.9 > 0.5 > visible[yaw < -60][:, right].mean()
    assert visible[np.abs(yaw) < 15].mean() > 0.95
    assert (np.asarray(rows["landmarks"])[visible == 0] == 0).all()
    left_ear, right_ear, chin = np.asarray(rows["jaw_visible"]).T
    assert right_ear[yaw > 60].mean() > 0.9 > 0.5 > left_ear[yaw > 60].mean()
    assert left_ear[yaw < -60].mean() > 0.9 > 0.5 > right_ear[yaw < -60].mean()
    mouth = np.asarray(rows["landmarks"])[:, 16, 1]
    both = (chin > 0) & (visible[:, 16] > 0)
    assert (np.asarray(rows["jaw"])[both, 2, 1] > mouth[both]).mean() > 0.9


@pytest.mark.parametrize("kind", ["annotated", "wild"])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, kind):
    one = synthetic.generate(tmp_path / "one", kind, 6, seed=8, workers=1, progress=False)
    two = synthetic.generate(tmp_path / "two", kind, 6, seed=8, workers=3, progress=False)
    assert file_contents(one) == file_contents(two)


def test_seeds_and_kinds_share_no_face():
    images = [synthetic.make_row(kind, seed, 0)["image"] for kind in ("annotated", "wild") for seed in (0, 1)]
    for i in range(4):
        for j in range(i):
            assert (images[i] != images[j]).mean() > 0.5


def test_a_margin_changes_neither_alpha_nor_landmarks():
    plain, wide = (synthetic.make_row("annotated", 3, 5, margin=margin) for margin in (0, 20))
    assert wide["image"].shape == (160, 160, 3)
    np.testing.assert_array_equal(plain["alpha"], wide["alpha"])
    np.testing.assert_array_equal(plain["landmarks68"], wide["landmarks68"])


def test_the_face_is_rendered_at_its_landmarks():
    model = cc0_head.load().model
    alpha = np.zeros(62, np.float32)
    alpha[:12] = sampling.sample_pose(np.random.default_rng(0), model.landmark_mean.T, max_yaw=0.0).ravel()
    image = synthetic.draw_plain(alpha)
    points = synthetic.project(model.landmark_mean.T, alpha)[:, :2]
    grey = image.mean(axis=2)

    def brightness(at):
        x, y = np.round(at).astype(int)
        return grey[y - 1 : y + 2, x - 1 : x + 2].mean()

    cheek = brightness((points[41] + points[31]) / 2 + [0, 2])
    for eye in (points[36:42], points[42:48]):
        assert brightness(eye.mean(axis=0)) < 0.7 * cheek, "an iris is darker than a cheek"
    for x, y in np.round(points[[19, 24]]).astype(int):
        assert grey[y - 2 : y + 3, x - 1 : x + 2].min() < 0.75 * cheek, "brows are dark"
    x, y = np.round(points[57] + [0, -2]).astype(int)
    blue, green, red = image[y, x].astype(float)
    assert red > 1.3 * green, "lips are red, and colours are BGR"


@pytest.mark.parametrize("kind, count", [("tame", 1), ("wild", 0)])
def test_an_unknown_kind_and_no_faces_are_errors(tmp_path, kind, count):
    with pytest.raises(ValueError, match=kind):
        synthetic.generate(tmp_path / "out", kind, count)


def is_on_the_face(boxes, points):
    """Whether a window's centre is within a quarter of its side from the middle of the landmarks."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return any(
        np.hypot(box["c"] + box["width"] / 2 - middle[0], box["r"] + box["height"] / 2 - middle[1]) < box["width"] / 4
        for box in boxes
    )


def test_scikit_images_cascade_detects_90_per_cent_of_the_faces():
    """LBP frontal-face cascade, |yaw| <= 15 degrees, no occluders, any expression, any light."""
    cascade = skimage.feature.Cascade(skimage.data.lbp_frontal_face_cascade_filename())
    count, margin, detected = 200, 20, 0
    for i in range(count):
        face = synthetic.render_face(np.random.default_rng([9, i]), max_yaw=15, margin=margin, occluders=False)
        image = np.ascontiguousarray(face.image[..., ::-1])
        boxes = cascade.detect_multi_scale(
            img=image, scale_factor=1.1, step_ratio=1, min_size=(50, 50), max_size=image.shape[:2]
        )
        detected += is_on_the_face(boxes, face.landmarks68[:, :2] + margin)
    assert detected >= 0.9 * count
