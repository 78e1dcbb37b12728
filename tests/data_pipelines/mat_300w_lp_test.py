"""300W-LP's format: coefficients, landmarks and crops agree; broken files are skipped by name."""

import os
import pathlib

import cv2
import numpy as np
import pytest
import scipy.io

from data_pipelines.preparation.prepare import prepare
from data_pipelines.sources.base import Skip, SourceError, to_18_landmarks
from data_pipelines.sources.mat_300w_lp import MatFaces
from tests.helpers_face_files import parameters, photo, read_all, tiny_model, true_landmarks, write_pair
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import projection
from twodal_jax.io.images import crop_face

needs_data = pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
MODEL = tiny_model()


def faces_by_name(source):
    """{name: face or skip}."""
    return {face.name if isinstance(face, Skip) else face["name"]: face for face in read_all(source)}


def write_annotations(folder, names, splits, boxes):
    np.savez(
        folder / "annotations.npz", name=np.array(names), split=np.array(splits), roi_box=np.array(boxes, np.float32)
    )


def test_alpha_of_the_crop_gives_the_true_landmarks_and_yaw(tmp_path):
    poses = [write_pair(tmp_path, f"image{seed}", MODEL, seed)["Pose_Para"] for seed in range(3)]
    faces = read_all(MatFaces(tmp_path))
    assert [face["name"] for face in faces] == ["image0", "image1", "image2"]
    for face, pose in zip(faces, poses):
        landmarks = np.asarray(projection.landmarks_crop(MODEL, face["alpha"]))
        np.testing.assert_allclose(landmarks, face["landmarks68"], atol=0.02)
        assert face["image"].shape == (160, 160, 3) and face["image"].dtype == np.uint8
        box = face["landmarks68"][:, :2]
        side = (box.max(0) - box.min(0)).max()
        np.testing.assert_allclose(side, 120 / np.sqrt(2), rtol=1e-4)
        assert not face["detected_visible"].any()
        assert face["yaw_deg"] == pytest.approx(np.degrees(pose[0, 1]), rel=1e-6)


def test_300w_lp_is_searched_recursively_and_its_own_landmarks_are_used(tmp_path):
    for folder, name, seed in [("AFW", "a_1", 1), ("AFW_Flip", "a_1", 2), ("HELEN", "h_1", 3)]:
        write_pair(tmp_path / folder, name, MODEL, seed, pt3d=False)
    true = true_landmarks(MODEL, parameters(1))
    (tmp_path / "landmarks" / "AFW").mkdir(parents=True)
    scipy.io.savemat(
        tmp_path / "landmarks" / "AFW" / "a_1_pts.mat", {"pts_2d": np.zeros((68, 2)), "pts_3d": true[:2].T + 3.0}
    )
    (tmp_path / "Code").mkdir()
    (tmp_path / "Code" / "Model_Shape.mat").write_bytes(b"not a face")
    faces = read_all(MatFaces(tmp_path, model=MODEL))
    assert [face["name"] for face in faces] == ["AFW/a_1", "AFW_Flip/a_1", "HELEN/h_1"]
    own = np.asarray(projection.crop_to_image(faces[0]["landmarks68"], faces[0]["roi_box"]))
    np.testing.assert_allclose(own[:, :2], true[:2].T + 3.0 - 1.0, atol=0.01)  # the file counts from 1
    np.testing.assert_allclose(own[:, 2], true[2], atol=0.05)
    rebuilt = np.asarray(projection.crop_to_image(faces[2]["landmarks68"], faces[2]["roi_box"]))
    np.testing.assert_allclose(rebuilt, true_landmarks(MODEL, parameters(3)).T - [1.0, 1.0, 0.0], atol=0.05)


def test_files_without_landmarks_need_a_model(tmp_path):
    write_pair(tmp_path, "image", MODEL, pt3d=False)
    (skip,) = read_all(MatFaces(tmp_path))
    assert "--morphable_model" in skip.detail


NAN_POSE = np.array([[np.nan] * 7], np.float32)
BROKEN = {
    "nan_pose": (dict(Pose_Para=NAN_POSE), "not finite", "Pose_Para"),
    "nan_shape": (dict(Shape_Para=np.full((199, 1), np.inf)), "not finite", "Shape_Para"),
    "nan_points": (dict(pt3d_68=np.full((3, 68), np.nan)), "not finite", "pt3d_68"),
    "no_shape": (dict(Shape_Para=None), "missing key", "no Shape_Para"),
    "short_exp": (dict(Exp_Para=np.zeros((10, 1))), "bad parameters", "has 10 values, expected 29"),
    "text_pose": (dict(Pose_Para="hello"), "bad parameters", "Pose_Para"),
    "zero_scale": (dict(Pose_Para=np.zeros((1, 7))), "bad parameters", "scale 0"),
    "points_shape": (dict(pt3d_68=np.zeros((2, 68))), "bad landmarks", "pt3d_68"),
    "one_place": (dict(pt3d_68=np.ones((3, 68))), "bad crop box", ""),
    "far_away": (dict(pt3d_68=np.random.default_rng(0).uniform(9e3, 9.2e3, (3, 68))), "bad crop box", "outside"),
}


def test_broken_files_are_skipped_with_their_reason_and_the_others_read(tmp_path):
    for name, (changes, _, _) in BROKEN.items():
        write_pair(tmp_path, name, MODEL, **changes)
    write_pair(tmp_path, "valid", MODEL)
    write_pair(tmp_path, "no_image", MODEL, image=False)
    cv2.imwrite(str(tmp_path / "no_mat.jpg"), photo())
    write_pair(tmp_path, "cut_mat", MODEL)
    (tmp_path / "cut_mat.mat").write_bytes((tmp_path / "cut_mat.mat").read_bytes()[:300])
    write_pair(tmp_path, "empty_mat", MODEL)
    (tmp_path / "empty_mat.mat").write_bytes(b"")
    faces = faces_by_name(MatFaces(tmp_path))
    assert isinstance(faces.pop("valid"), dict)
    for name, (_, reason, detail) in BROKEN.items():
        assert faces[name].reason == reason and detail in faces[name].detail, faces[name]
    assert faces["no_image"].reason == "image not found"
    assert faces["no_mat"].reason == "no .mat file"
    assert faces["cut_mat"].reason == faces["empty_mat"].reason == "unreadable .mat"
    assert all(name in skip.detail for name, skip in faces.items() if name not in ("one_place", "far_away"))


def test_images_of_every_format_are_read_and_broken_ones_skipped(tmp_path):
    for name in ("grey", "rgba", "deep", "small", "empty", "corrupt", "cut"):
        write_pair(tmp_path, name, MODEL, image=False)
    cv2.imwrite(str(tmp_path / "grey.jpg"), photo(channels=1))
    rgba = np.dstack([photo(), np.full((450, 450), 255, np.uint8)])
    rgba[:, :, 3][:, :225] = 0
    cv2.imwrite(str(tmp_path / "rgba.png"), rgba)
    cv2.imwrite(str(tmp_path / "deep.png"), photo().astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "small.png"), photo(3))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xd9 nothing")
    encoded = cv2.imencode(".jpg", photo())[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(encoded[: len(encoded) // 2])
    faces = faces_by_name(MatFaces(tmp_path))
    assert {name for name, face in faces.items() if isinstance(face, Skip)} == {"empty", "corrupt", "cut", "small"}
    assert faces["empty"].reason == "empty image file" and "empty.jpg" in faces["empty"].detail
    assert faces["corrupt"].reason == faces["cut"].reason == "unreadable image"
    assert np.ptp(faces["grey"]["image"], axis=-1).max() == 0
    np.testing.assert_array_equal(faces["deep"]["image"], crop_face(photo(), faces["deep"]["roi_box"], 20))
    assert (faces["rgba"]["image"] == 255).all(axis=-1).mean() > 0.2  # transparent: white


def test_annotations_give_split_and_crop_and_the_detections_are_used(tmp_path):
    names, box = ("one", "two", "three"), [100, 110, 340, 350]
    for name in names:
        write_pair(tmp_path / "images", name, MODEL)
    write_annotations(tmp_path, names, ["train", "val", "train"], [box] * 3)
    points = np.random.default_rng(0).uniform(0, 120, (68, 2)).round(2)
    (tmp_path / "fan_landmarks.csv").write_text("one.jpg," + ",".join(str(value) for value in points.ravel()) + "\n")
    one, three = read_all(MatFaces(tmp_path, split="train"))
    assert (one["name"], three["name"]) == ("one", "three")
    np.testing.assert_array_equal(one["roi_box"], box)
    np.testing.assert_allclose(one["detected"], to_18_landmarks(points, np.ones(68))[0])
    assert one["detected_visible"].all() and not three["detected_visible"].any()
    assert len(MatFaces(tmp_path, split="val")) == 1 and len(MatFaces(tmp_path)) == 3
    with pytest.raises(SourceError, match="no split 'test'; it has train, val"):
        MatFaces(tmp_path, split="test")
    fingerprint = MatFaces(tmp_path).fingerprint()
    write_annotations(tmp_path, names, ["train", "val", "train"], [[101, *box[1:]]] * 3)
    assert MatFaces(tmp_path).fingerprint() != fingerprint  # it depends on the crop boxes
    np.savez(tmp_path / "annotations.npz", name=np.array(names))
    with pytest.raises(SourceError, match="it needs name, roi_box, split, or remove the file to crop by the landmarks"):
        MatFaces(tmp_path)


def test_missing_folders_and_splits_are_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such folder"):
        MatFaces(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no .mat files"):
        MatFaces(tmp_path)
    write_pair(tmp_path, "image", MODEL)
    with pytest.raises(SourceError, match="annotations.npz: missing"):
        MatFaces(tmp_path, split="train")


def test_crops_agree_with_slicing_and_resizing_and_are_black_outside_the_image():
    image = photo()
    resized = cv2.resize(image[100:340, 60:300], (120, 120))
    crop = crop_face(image, np.array([60, 100, 300, 340]), 0)
    assert np.abs(crop.astype(int) - resized).max() <= 3
    wide = crop_face(image, np.array([60, 100, 300, 340]), 20)
    np.testing.assert_allclose(wide[20:-20, 20:-20].astype(int), crop, atol=1)
    outside = crop_face(image, np.array([-120, -120, 120, 120]), 0)
    assert (outside[:58, :58] == 0).all() and outside[62:, 62:].any()


@needs_data
def test_real_landmarks_are_rebuilt_from_the_parameters_within_one_per_cent():
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"])
    model = load_morphable_model(folder / "bfm_3ddfa")
    faces = list(MatFaces(folder / "aflw2000").faces(0, 100))
    errors = []
    for face in faces:
        rebuilt = np.asarray(projection.landmarks_crop(model, face["alpha"]))
        true = face["landmarks68"]
        width, height = np.ptp(true[:, :2], axis=0)
        distance = np.linalg.norm((rebuilt - true)[:, :2], axis=1).mean()
        errors.append(100 * distance / np.sqrt(width * height))
        assert np.abs(rebuilt - true)[:, 2].mean() < 2.0
    assert np.mean(errors) < 1.0


@needs_data
def test_real_detections_are_near_the_true_landmarks():
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"])
    faces = list(MatFaces(folder / "aflw2000", split="val").faces(0, 60))
    distances = [
        np.linalg.norm(face["detected"] - to_18_landmarks(face["landmarks68"][:, :2], np.ones(68))[0], axis=1).mean()
        for face in faces
        if face["detected_visible"].all()
    ]
    assert len(distances) >= 58 and np.median(distances) < 4.0


@needs_data
def test_a_real_300w_lp_pair_is_read():
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"])
    model = load_morphable_model(folder / "bfm_3ddfa")
    (face,) = read_all(MatFaces(folder / "300w_lp_sample", model=model))
    assert face["image"].shape == (160, 160, 3) and face["image"].std() > 20
    np.testing.assert_allclose(projection.landmarks_crop(model, face["alpha"]), face["landmarks68"], atol=0.02)


def test_only_the_file_with_a_name_that_is_not_utf_8_is_skipped(tmp_path):
    write_pair(tmp_path, "good", MODEL)
    for suffix in (".jpg", ".mat"):
        os.link(tmp_path / f"good{suffix}", os.path.join(os.fsencode(tmp_path), b"caf\xe9" + suffix.encode()))
    source = MatFaces(tmp_path)
    assert source.fingerprint() == MatFaces(tmp_path).fingerprint()
    (skip,) = (face for face in read_all(source) if isinstance(face, Skip))
    assert (skip.reason, "rename it" in skip.detail) == ("file name not UTF-8", True)
    summary = prepare(source, tmp_path / "out", max_skipped=1.0)
    assert (summary.count, summary.reasons) == (1, {"file name not UTF-8": 1})
    assert "caf\\udce9" in (tmp_path / "out" / "skipped.csv").read_text()
