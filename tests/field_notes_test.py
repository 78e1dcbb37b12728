"""What data and libraries really do: one test per line of docs/field-notes.md, which cites it by name.

A failure after an upgrade is news: correct the page and what the project does about it.
"""

import io
import json
import os
import pathlib
import re
import shlex
import struct
import subprocess
import sys
from importlib import metadata

import cv2
import flax.linen as nn
import flax.serialization
import helpers_gltf
import helpers_mediapipe
import imageio_ffmpeg
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import scipy.io
import trimesh
from helpers_run import ROOT
from PIL import Image
from safetensors import numpy as safetensors
from scipy.spatial.transform import Rotation

from data_pipelines.sources import detections
from twodal_jax.detection import centerface
from twodal_jax.face_models import cc0_head
from twodal_jax.face_models.load import load_morphable_model

needs_data = pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
DATA = pathlib.Path(os.environ.get("TWODAL_DATA_DIR", "."))
PAGE = (ROOT / "docs" / "field-notes.md").read_text(encoding="utf-8")
# The page states the versions for Python 3.11.
PINS: dict[str, str] = {}
for _file in ("requirements-test.txt", "requirements.txt"):
    _text = (ROOT / _file).read_text(encoding="utf-8")
    PINS |= dict(re.findall(r"^([\w.-]+)==([\w.]+)(?!.*python_version >=)", _text, re.M))


# ---- the page ----


def rows():
    """[(behaviour, versions, command, remedy)] of the page's tables."""
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in PAGE.splitlines() if line.startswith("| ")]
    return [row for row in cells if row[0] != "behaviour" and not row[0].startswith("---")]


def command_of(row):
    assert len(row) == 4, row
    return re.fullmatch(r"`([^`]+)`", row[2].strip())[1]


def test_the_page_has_forty_facts_each_seen_by_a_command_of_its_own():
    commands = [command_of(row) for row in rows()]
    assert len(commands) >= 40 and len(set(commands)) == len(commands)
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "bash":
            assert (ROOT / arguments[0]).is_file(), command
            continue
        assert program == "pytest", command
        path, option, name = arguments
        names = re.findall(r"^def test_(\w+)", (ROOT / path).read_text(encoding="utf-8"), re.M)
        assert option == "-k" and len([found for found in names if name in found]) == 1, command


def test_every_fact_of_this_file_is_on_the_page():
    facts = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    cited = {command_of(row).split()[-1] for row in rows()}
    assert {name for name in facts if not name.startswith(("the_page_", "every_fact_"))} <= cited


def test_the_page_states_the_pinned_versions():
    stated = {part for row in rows() for part in re.findall(r"([A-Za-z][\w-]+) (\d[\w.]*)", row[1])}
    named = {name: version for name, version in stated if name in PINS}
    assert len(named) >= 10 and all(PINS[name] == version for name, version in named.items())
    assert all(metadata.version(name) == version for name, version in named.items())


# ---- data sets ----


@pytest.fixture(scope="module")
def aflw():
    """The .mat contents of the 1,198 images of AFLW2000-3D at hand, and the table made from them."""
    with np.load(DATA / "aflw2000" / "annotations.npz") as file:
        table = dict(file)
    return [scipy.io.loadmat(DATA / "aflw2000" / "images" / f"{name}.mat") for name in table["name"]], table


def stacked(mats, name):
    return np.array([mat[name].ravel() for mat in mats], np.float64)


def box_side(points):
    """sqrt(w h) of points [..., 2 or 3, 68]."""
    return np.sqrt(np.prod(np.ptp(points[..., :2, :], axis=-1), axis=-1))


@needs_data
def test_aflw2000_has_three_files_of_23_points(aflw):
    counts = [mat["pt2d"].shape[1] for mat in aflw[0]]
    assert sorted(set(counts)) == [21, 23] and counts.count(23) == 3


@needs_data
def test_aflw2000_hides_points_at_minus_1_and_452(aflw):
    points = np.array([mat["pt2d"] for mat in aflw[0] if mat["pt2d"].shape[1] == 21])
    hidden = points[:, 0] == -1
    assert 0.2 < hidden.mean() < 0.22 and (points[:, 1][hidden] == 452).all() and points[:, 1].min() > 0


@needs_data
def test_aflw2000_angles_are_not_wrapped(aflw):
    degrees = np.degrees(stacked(aflw[0], "Pose_Para")[:, :3])
    assert (np.abs(degrees) > 180).any(1).sum() == 7
    assert degrees.min() < -970 and degrees.max() > 890
    worst = degrees[np.argmin(degrees[:, 1])]
    assert worst[1] < -351
    face = Rotation.from_euler("XYZ", -worst, degrees=True).as_matrix() @ [0, 0, 1]
    assert abs(np.degrees(np.arcsin(face[0]))) < 9  # a frontal face, which |yaw| puts into the bin of profiles


@needs_data
def test_texture_and_light_of_aflw2000_are_partly_constant(aflw):
    assert (stacked(aflw[0], "Tex_Para") != 0).any(0).sum() == 40  # of 199
    assert set(stacked(aflw[0], "Illum_Para")[:, -1]) == {20.0} and set(stacked(aflw[0], "Color_Para")[:, -1]) == {1.0}


@needs_data
def test_roi_of_aflw2000_is_of_another_picture(aflw):
    roi = stacked(aflw[0], "roi")
    assert 0.6 < ((roi < 0) | (roi > 450)).any(1).mean() < 0.7 and roi.min() < -2000 and roi.max() > 5000
    assert {cv2.imread(str(DATA / "aflw2000" / "images" / f"{n}.jpg")).shape for n in aflw[1]["name"][::40]} == {
        (450, 450, 3)
    }


@needs_data
def test_shape_parameters_are_not_in_standard_deviations(aflw):
    shape, expression = stacked(aflw[0], "Shape_Para")[:, 0], stacked(aflw[0], "Exp_Para")[:, 0]
    assert 5.0e5 < shape.std() < 5.5e5 and 1.4 < expression.std() < 1.7


@needs_data
def test_reannotated_aflw2000_moves_the_jaw(aflw):
    old, new = aflw[1]["pts68"][:, :2], aflw[1]["pts68_reannotated"]
    moved = 100 * np.linalg.norm(old - new, axis=1) / box_side(old)[:, None]
    assert 4.4 < moved[:, :17].mean() < 4.8 and 2.4 < moved[:, 17:].mean() < 2.7


@needs_data
def test_fan_finds_the_outline_instead_of_the_jaw(aflw):
    found = detections.detections_by_stem(DATA / "aflw2000" / "fan_landmarks.csv")
    table, errors = aflw[1], []
    for name, box, points, yaw in zip(table["name"], table["roi_box"], table["pts68"], table["yaw_deg"], strict=True):
        if name in found:
            image = (found[name] + 0.5) * (box[2:] - box[:2]) / 120 + box[:2] - 0.5 + 1
            distance = np.linalg.norm(image - points[:2].T, axis=1) / box_side(points) * 100
            errors.append([abs(yaw), distance.mean(), distance[:17].mean(), distance[17:].mean()])
    errors = np.array(errors)
    profile = errors[errors[:, 0] > 60]
    np.testing.assert_allclose(profile[:, 1:].mean(0), [8.6, 22.3, 4.1], atol=0.15)
    np.testing.assert_allclose(errors[errors[:, 0] <= 30, 1].mean(), 3.1, atol=0.1)


@needs_data
def test_pt2d_of_300w_lp_has_the_visible_outline():
    mat = scipy.io.loadmat(next((DATA / "300w_lp_sample").glob("*.mat")))
    distance = np.linalg.norm(projected(mat) - mat["pt2d"].T, axis=1)  # yaw -44 degrees, pixels
    assert distance[:17].mean() > 20 and distance[17:].mean() < 4.1


@needs_data
def test_ears_of_frontal_faces_are_hidden_in_aflw():
    table = np.genfromtxt(DATA / "aflw_wild" / "landmarks21.csv", delimiter=",", names=True, usecols=range(1, 65))
    visible = np.stack([table[f"visible{k}"] for k in range(21)], axis=1)
    frontal = visible[np.abs(table["yaw_deg"]) < 15]
    assert (frontal[:, [12, 16]].mean(0) < 0.5).all() and visible[:, 14].mean() > 0.99
    assert np.abs(table["yaw_deg"]).max() > 115


@needs_data
def test_authors_poses_are_not_rotations():
    with np.load(DATA / "aflw2000" / "authors_alpha.npz") as file:
        whitened = file["alpha_whitened"]
    model = load_morphable_model(DATA / "bfm_3ddfa")
    pose = (whitened * np.asarray(model.alpha_std) + np.asarray(model.alpha_mean))[:, :12].reshape(-1, 3, 4)[..., :3]
    rows_ = np.linalg.norm(pose, axis=-1)
    assert np.percentile(rows_[:, 1] / rows_[:, 0], 1) < 0.975 and np.percentile(rows_[:, 1] / rows_[:, 0], 99) > 1.035


def test_tfds_300w_lp_divides_by_450_and_drops_z():
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = (
        pathlib.Path(tfds.__file__).parent / "datasets" / "the300w_lp"
    )  # another test registers a class of that name
    source = (folder / "the300w_lp_dataset_builder.py").read_text(encoding="utf-8")
    assert '(ldm_mat["pts_3d"] / 450.0)' in source and re.search(r'"landmarks_3d": .*\s+shape=\(68, 2\)', source)
    assert "[!_Flip]" in source  # a character class: leaves out every folder that ends in one of _, F, l, i, p


# ---- face models ----


@pytest.fixture(scope="module")
def bfm():
    folder = DATA / "bfm_3ddfa"
    names = ("u_shp", "u_exp", "w_shp_sim", "w_exp_sim", "keypoints_sim")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names} | {
        "tri": scipy.io.loadmat(folder / "tri.mat")["tri"]
    }


_BFM = {}


def projected(mat, order="XYZ", sign=-1.0):
    """The 68 landmarks [68, 2] of a .mat file's parameters, image pixels from 1, y down."""
    if not _BFM:
        folder = DATA / "bfm_3ddfa"
        index = np.load(folder / "keypoints_sim.npy")
        _BFM["mean"] = (np.load(folder / "u_shp.npy") + np.load(folder / "u_exp.npy"))[index, 0].astype(np.float64)
        _BFM["shape"] = np.load(folder / "w_shp_sim.npy", mmap_mode="r")[index]
        _BFM["expression"] = np.load(folder / "w_exp_sim.npy", mmap_mode="r")[index]
    face = _BFM["mean"] + _BFM["shape"] @ mat["Shape_Para"][:40, 0] + _BFM["expression"] @ mat["Exp_Para"][:10, 0]
    pose = mat["Pose_Para"][0].astype(np.float64)
    points = pose[6] * face.reshape(68, 3) @ Rotation.from_euler(order, sign * pose[:3]).as_matrix().T + pose[3:6]
    return np.stack([points[:, 0], 451 - points[:, 1]], axis=1)


@needs_data
def test_triangles_of_3ddfa_face_inwards(bfm):
    vertices, triangles = (bfm["u_shp"] + bfm["u_exp"]).reshape(-1, 3), bfm["tri"].T.astype(np.int64) - 1
    a, b, c = np.moveaxis(vertices[triangles], 1, 0)
    outward = (np.cross(b - a, c - a) * ((a + b + c) / 3 - vertices.mean(0))).sum(1) > 0
    assert outward.mean() < 0.04 and bfm["tri"].min() == 1


@needs_data
def test_shape_basis_of_3ddfa_is_orthonormal_and_expressions_are_not(bfm):
    shape, expression = np.array(bfm["w_shp_sim"]), np.array(bfm["w_exp_sim"])
    assert np.abs(shape.T @ shape - np.eye(40)).max() < 0.02
    lengths = np.linalg.norm(expression, axis=0)
    cosines = expression.T @ expression / np.outer(lengths, lengths)
    assert lengths.min() > 1e5 and np.abs(cosines - np.eye(10)).max() > 0.45


@needs_data
def test_bfm_is_in_micrometres_with_eyes_8_centimetres_apart(bfm):
    eyes = (bfm["u_shp"] + bfm["u_exp"])[bfm["keypoints_sim"], 0].reshape(68, 3)[[36, 45]]
    assert 85_000 < np.linalg.norm(eyes[0] - eyes[1]) < 87_000
    assert eyes[0, 0] < 0 < eyes[1, 0]  # "left eye" 36-41 of iBUG's order is on the person's right


@needs_data
def test_keypoints_of_3ddfa_index_coordinates(bfm):
    index = bfm["keypoints_sim"].reshape(68, 3)
    assert (index % 3 == [0, 1, 2]).all() and (np.diff(index) == 1).all()
    assert len(set(index[:, 0])) == 68


def test_mouth_close_alone_crosses_the_lips():
    head = cc0_head.load()
    landmarks = np.asarray(load_morphable_model("builtin").landmark_indices)
    height = {name: unit[1, landmarks] for name, unit in zip(head.unit_names, np.asarray(head.units), strict=True)}
    opened, closed = (height[name][62] - height[name][66] for name in ("jawOpen", "mouthClose"))  # inner lips, metres
    assert opened > 0.03 and abs(opened + closed) < 0.001


def test_arkits_left_is_the_persons_left():
    head, model = cc0_head.load(), load_morphable_model("builtin")
    x = np.asarray(model.mean).reshape(3, -1)[0]
    for name in ("mouthSmileLeft", "eyeBlinkLeft", "browDownLeft"):
        weight = np.linalg.norm(np.asarray(head.units[head.unit_names.index(name)]), axis=0)
        assert (weight * x).sum() / weight.sum() > 0.015  # metres; x to the right in a picture of the face
    look_in = np.asarray(head.units[head.unit_names.index("eyeLookInLeft")])
    assert (look_in[0] * np.linalg.norm(look_in, axis=0)).sum() < 0
    assert len(head.unit_names) == 52 and "tongueOut" in head.unit_names


# ---- pose ----


@needs_data
def test_pose_of_mat_files_is_intrinsic_xyz_of_negated_angles(aflw):
    mats = [mat for mat in aflw[0][::10] if np.abs(mat["Pose_Para"][0, :3]).max() < 3]

    def error(**convention):
        distance = [np.linalg.norm(projected(mat, **convention).T - mat["pt3d_68"][:2], axis=0).mean() for mat in mats]
        return 100 * np.mean(distance / box_side(np.array([mat["pt3d_68"] for mat in mats])))

    assert error() < 0.9 and 60 < error(sign=1.0) < 63 and 11 < error(order="xyz") < 14


@needs_data
def test_signs_of_pose_in_mat_files(aflw):
    """Yaw > 0: nose to the viewer's left; pitch > 0: up; roll > 0: clockwise in the picture (its y is down)."""
    degrees = np.degrees(stacked(aflw[0], "Pose_Para")[:, :3])
    points = np.array([mat["pt3d_68"] for mat in aflw[0]])
    eyes = points[:, :2, 36:42].mean(-1), points[:, :2, 42:48].mean(-1)
    nose = points[:, :2, 30] - (eyes[0] + eyes[1]) / 2
    line = np.degrees(np.arctan2(*(eyes[1] - eyes[0]).T[::-1]))
    frontal = (np.abs(degrees) < 25).all(1)
    found = [np.corrcoef(degrees[frontal, k], v[frontal])[0, 1] for k, v in enumerate((nose[:, 1], nose[:, 0], line))]
    assert (np.sign(found) == [-1, -1, 1]).all() and np.abs(found).min() > 0.5


@needs_data
def test_depth_of_landmarks_grows_towards_the_viewer(aflw):
    z = np.array([mat["pt3d_68"][2] for mat in aflw[0]])
    near = z[:, 30] > z[:, [0, 16]].mean(1)
    assert near[np.abs(aflw[1]["yaw_deg"]) < 30].mean() > 0.99 and -110 < np.median(z.min(1)) < -95


# ---- boxes ----


@needs_data
def test_a_detectors_box_is_higher_than_the_landmarks_and_as_wide(aflw):
    detector, found = centerface.CenterFaceDetector(), []
    table = aflw[1]
    for name, points, yaw in list(zip(table["name"], table["pts68"][:, :2], table["yaw_deg"], strict=True))[:400:10]:
        low, high = points.min(1), points.max(1)
        boxes = detector._hits(cv2.imread(str(DATA / "aflw2000" / "images" / f"{name}.jpg"))).boxes
        near = [b for b in boxes if np.abs((b[:2] + b[2:]) / 2 - (low + high) / 2).max() < 40]
        if near and abs(yaw) <= 40:
            corner, end = near[0][:2], near[0][2:]
            up = ((low + high) / 2 - (corner + end) / 2)[1] / (high - low).max()
            found.append([up, *((end - corner) / (high - low))])
    assert len(found) > 25
    np.testing.assert_allclose(np.median(found, axis=0), [0.16, 1.0, 1.35], atol=0.03)


@needs_data
def test_a_cascades_square_is_higher_and_larger_than_the_landmarks(aflw):
    skimage = pytest.importorskip("skimage")
    cascade, found, table = skimage.feature.Cascade(skimage.data.lbp_frontal_face_cascade_filename()), [], aflw[1]
    for name, points, yaw in list(zip(table["name"], table["pts68"][:, :2] / 2, table["yaw_deg"], strict=True))[
        :300:10
    ]:
        if abs(yaw) > 20:
            continue
        picture = cv2.imread(str(DATA / "aflw2000" / "images" / f"{name}.jpg"), cv2.IMREAD_REDUCED_GRAYSCALE_2)
        low, high = points.min(1), points.max(1)
        for box in cascade.detect_multi_scale(picture, 1.2, 1, min_size=(60, 60), max_size=(225, 225)):
            corner, side = np.array([box["c"], box["r"]]), box["width"]
            away = (low + high) / 2 - corner - side / 2
            if np.abs(away).max() < 30:
                found.append([away[1] / (high - low).max(), *(side / (high - low))])
    assert len(found) >= 10
    np.testing.assert_allclose(np.median(found, axis=0), [0.15, 1.2, 1.3], atol=0.05)


# ---- MediaPipe ----


def tflite(folder, name, engine):
    path = folder / "model.tflite"
    path.write_bytes(helpers_mediapipe.read(f"modules/{name}.tflite"))
    return cv2.dnn.readNetFromTFLite(str(path), engine)


def test_opencv_5_drops_the_scores_of_tflite_detectors(tmp_path):
    for name, outputs in (
        ("face_detection/face_detection_short_range", {"classificators", "regressors"}),
        ("face_landmark/face_landmark", {"conv2d_31", "conv2d_21"}),  # presence of a face, 468 points
    ):
        assert set(tflite(tmp_path, name, cv2.dnn.ENGINE_CLASSIC).getUnconnectedOutLayersNames()) == outputs
        found = tflite(tmp_path, name, cv2.dnn.ENGINE_AUTO).getUnconnectedOutLayersNames()
        assert len(found) == 1 and found[0] in ("regressors", "conv2d_21")


def test_opencv_5_cannot_read_the_mesh_of_478_points(tmp_path):
    for engine in (cv2.dnn.ENGINE_CLASSIC, cv2.dnn.ENGINE_NEW):
        with pytest.raises(cv2.error, match="Unsupported operator type Landmarks2TransformMatrix"):
            tflite(tmp_path, "face_landmark/face_landmark_with_attention", engine)


def test_mediapipe_1_has_neither_models_nor_solutions():
    old, new = (
        helpers_mediapipe.wheel(v).namelist() for v in (helpers_mediapipe.WITH_MODELS, helpers_mediapipe.NEWEST)
    )
    for part in (".tflite", "solutions/face_mesh.py"):
        assert any(name.endswith(part) for name in old) and not any(name.endswith(part) for name in new)


def test_blendshapes_of_mediapipe_are_51_of_arkits_and_a_neutral_one():
    for version in (helpers_mediapipe.WITH_MODELS, helpers_mediapipe.NEWEST):
        source = helpers_mediapipe.read("tasks/python/vision/face_landmarker.py", version).decode()
        names = re.findall(r"^  ([A-Z_]+) = \d+$", source[source.index("class Blendshapes") :], re.M)
        arkit = {re.sub("([A-Z])", r"_\1", name).upper() for name in cc0_head.load().unit_names}
        assert len(names) == 52 and names[0] == "NEUTRAL" and arkit ^ set(names) == {"NEUTRAL", "TONGUE_OUT"}


@needs_data
def test_depth_of_mediapipe_grows_away_from_the_viewer_and_is_flatter(aflw, tmp_path):
    network = tflite(tmp_path, "face_landmark/face_landmark", cv2.dnn.ENGINE_CLASSIC)
    found, table = [], aflw[1]
    for name, points, yaw in list(zip(table["name"], table["pts68"], table["yaw_deg"], strict=True))[:300:10]:
        if abs(yaw) > 15:
            continue
        image = cv2.imread(str(DATA / "aflw2000" / "images" / f"{name}.jpg"))
        scale = 128 / np.ptp(points[:2], axis=1).max()  # the network's pixels per image pixel
        move = np.float32([96, 96]) - scale * (points[:2].min(1) + points[:2].max(1)) / 2
        crop = cv2.warpAffine(image, np.column_stack([np.eye(2) * scale, move]), (192, 192))
        network.setInput(cv2.dnn.blobFromImage(crop, 1 / 255, swapRB=True))
        z = network.forward("conv2d_21").reshape(468, 3)[[1, 33, 263, 61, 291, 152, 234, 454], 2]
        slope = np.polyfit(scale * points[2, [30, 36, 45, 48, 54, 8, 0, 16]], z, 1)[0]
        found.append([z[0], z[-2:].mean(), slope])  # nose tip, edges of the face in front of the ears
    nose, edges, slope = np.median(found, axis=0)
    assert -32 < nose < -22 and 45 < edges < 60 and -0.9 < slope < -0.7


# ---- JAX ----


def test_device_put_shares_memory_with_numpy():
    buffer = np.zeros(464, np.uint8)
    start = -buffer.ctypes.data % 64
    for put, shared in ((jax.device_put, True), (jnp.asarray, False)):
        source = buffer[start : start + 400].view(np.float32)  # 64-byte aligned
        source[0] = 0
        array = put(source)
        source[0] = 7
        assert array[0] == (7 if shared else 0)


def test_a_numpy_view_prevents_donation():
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    free, viewed = jnp.ones(1000) + 1, jnp.ones(1000) + 1
    view = np.asarray(viewed)
    step(free), step(viewed)
    assert free.is_deleted() and not viewed.is_deleted() and view[0] == 2


def test_donating_deletes_the_source_of_device_put():
    source = jnp.zeros(1000)
    jax.jit(lambda x: x + 1, donate_argnums=0)(jax.device_put(source))
    assert source.is_deleted()


def test_jax_saturates_uint8_where_numpy_wraps():
    values = np.array([-1.0, 256, 300])
    assert jnp.asarray(values).astype(jnp.uint8).tolist() == [0, 255, 255]
    with np.errstate(invalid="ignore"):
        assert values.astype(np.int32).astype(np.uint8).tolist() == [255, 0, 44]


def test_indexing_clamps_take_gives_nan_and_set_drops():
    x = jnp.array([1.0, 2, 3])
    assert x[jnp.array(9)] == 3 and jnp.isnan(jnp.take(x, 9)) and (x.at[9].set(7) == x).all()


def test_random_numbers_of_a_shorter_shape_are_a_prefix():
    key = jax.random.key(0)
    assert (jax.random.normal(key, (8, 3))[:2] == jax.random.normal(key, (2, 3))).all()
    with jax.threefry_partitionable(False):
        assert (jax.random.normal(key, (8, 3))[:2] != jax.random.normal(key, (2, 3))).any()


def test_bfloat16_sums_stop_at_256_in_numpy_alone():
    assert np.ones(1000, ml_dtypes.bfloat16).sum() == 256
    assert jnp.ones(1000, jnp.bfloat16).sum() == 1000


def test_xla_flags_count_until_the_first_device_and_typos_abort():
    late = "import jax, os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'; print(jax.devices())"
    run = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, check=True)
    assert run.stdout.count("CpuDevice") == 4
    environment = os.environ | {"XLA_FLAGS": "--xla_no_such_flag=1"}
    typo = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True)
    assert typo.returncode != 0 and b"Unknown flag" in typo.stderr


IMPULSE = np.float32([[0, 0, 0, 100, 0, 0, 0, 0]])


def test_jax_resize_averages_where_opencv_samples():
    assert np.allclose(jax.image.resize(IMPULSE, (1, 4), "linear"), [0, 37.5, 12.5, 0])
    assert np.allclose(cv2.resize(IMPULSE, (4, 1)), [0, 50, 0, 0])


# ---- Flax, Optax, Orbax ----


def normalised(layer, x):
    return layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])


def test_normalisation_of_flax_loses_the_variance_at_a_large_mean():
    x = jnp.asarray(np.random.default_rng(0).normal(1e4, 1, (4096, 1)), jnp.float32)
    assert normalised(nn.BatchNorm(use_running_average=False), x)[0].std() > 100
    assert normalised(nn.LayerNorm(), x.T)[0].std() > 100
    exact = nn.BatchNorm(use_running_average=False, use_fast_variance=False)
    np.testing.assert_allclose(normalised(exact, x)[0].std(), 1, rtol=1e-3)


def test_running_variance_of_flax_is_the_biased_one():
    layer = nn.BatchNorm(use_running_average=False, momentum=0.0)
    assert normalised(layer, jnp.array([[0.0], [2.0]]))[1]["batch_stats"]["var"] == 1  # PyTorch: 2


def test_max_pool_of_flax_gives_one_of_equal_entries_the_gradient():
    gradient = jax.grad(lambda x: nn.max_pool(x, (2, 2), (2, 2)).sum())(jnp.zeros((1, 2, 2, 1)))
    assert gradient.ravel().tolist() == [1, 0, 0, 0] and (jax.grad(jnp.max)(jnp.zeros(4)) == 0.25).all()


def test_from_bytes_of_flax_accepts_any_shape():
    content = flax.serialization.to_bytes({"w": np.zeros((3, 3))})
    assert flax.serialization.from_bytes({"w": np.zeros(5)}, content)["w"].shape == (3, 3)


def test_muon_of_optax_leaves_convolutions_to_adam():
    kernels = {
        name: jax.random.normal(jax.random.key(0), s) for name, s in (("conv", (3, 3, 8, 16)), ("dense", (8, 16)))
    }
    optimizer = optax.contrib.muon(0.1)
    updates, _ = optimizer.update(kernels, optimizer.init(kernels), kernels)
    spread = {name: float(jnp.abs(u).max() / jnp.abs(u).min()) for name, u in updates.items()}
    assert spread["conv"] < 1.001 and spread["dense"] > 10  # Adam's first update has one size


def test_apply_if_finite_of_optax_gives_up():
    optimizer = optax.apply_if_finite(optax.sgd(1.0), 2)
    state, found = optimizer.init(jnp.zeros(())), []
    for _ in range(3):
        update, state = optimizer.update(jnp.array(jnp.nan), state)
        found.append(float(update))
    assert found[:2] == [0, 0] and np.isnan(found[2])


def test_clipping_by_norm_turns_one_infinity_into_zeros():
    gradients = {"a": jnp.array([jnp.inf, 1.0]), "b": jnp.array([3.0])}
    clipped = optax.clip_by_global_norm(1.0).update(gradients, optax.EmptyState())[0]
    assert jnp.isnan(clipped["a"][0]) and clipped["a"][1] == clipped["b"][0] == 0
    assert jnp.isinf(optax.zero_nans().update(gradients, optax.zero_nans().init(gradients))[0]["a"][0])


def test_best_fn_of_orbax_loses_the_best_to_a_nan(tmp_path):
    options = ocp.CheckpointManagerOptions(max_to_keep=1, best_fn=lambda metrics: metrics["error"], best_mode="min")
    kept = []
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        for step, error in enumerate([0.5, float("nan"), 0.7, 0.9]):
            manager.save(step, args=ocp.args.StandardSave({"w": np.zeros(2)}), metrics={"error": error})
            manager.wait_until_finished()
            kept.append(manager.all_steps())
    assert kept == [[0], [1], [2], [2]]


def test_an_earlier_step_is_not_saved_by_orbax(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        assert manager.save(5, args=ocp.args.StandardSave({"w": np.zeros(2)}))
        assert not manager.save(3, args=ocp.args.StandardSave({"w": np.zeros(2)}))
        manager.wait_until_finished()
        assert manager.all_steps() == [5]


@pytest.fixture
def orbax_folder(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"w": np.random.default_rng(0).normal(size=100_000).astype(np.float32)})
    return tmp_path / "state"


def restored(folder, *target):
    with ocp.StandardCheckpointer() as checkpointer:
        return np.asarray(checkpointer.restore(folder, *target)["w"])


def test_orbax_restores_other_shapes_than_asked_for(orbax_folder):
    assert restored(orbax_folder, {"w": np.zeros(4, np.float32)}).shape == (100_000,)
    assert restored(orbax_folder, {"w": jax.ShapeDtypeStruct((4,), np.int32)}).dtype == np.int32  # truncated


def test_orbax_restores_flipped_bits(orbax_folder):
    largest = max((path for path in orbax_folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    before, content = restored(orbax_folder), bytearray(largest.read_bytes())
    for place in np.random.default_rng(1).integers(len(content), size=5):
        changed = content.copy()
        changed[place] ^= 1
        largest.write_bytes(changed)
        assert (restored(orbax_folder) != before).any()


# ---- files ----


def test_safetensors_scrambles_arrays_that_are_not_contiguous(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    for view in (array.T, array[::-1], array[:, ::2], np.asfortranarray(array)):
        safetensors.save_file({"a": view}, tmp_path / "a.safetensors")
        assert not np.array_equal(safetensors.load_file(tmp_path / "a.safetensors")["a"], view)


def test_npz_files_have_a_checksum_and_npy_and_safetensors_have_none(tmp_path):
    array = np.random.default_rng(0).normal(size=1000)
    np.savez(tmp_path / "a.npz", a=array)
    np.save(tmp_path / "a.npy", array)
    safetensors.save_file({"a": array}, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        content = bytearray(path.read_bytes())
        content[4000] ^= 1
        path.write_bytes(content)
    assert (np.load(tmp_path / "a.npy") != array).any()
    assert (safetensors.load_file(tmp_path / "a.safetensors")["a"] != array).any()
    with pytest.raises(Exception, match="Bad CRC-32"):
        np.load(tmp_path / "a.npz")["a"]


def test_array_record_groups_one_record_by_default(tmp_path):
    array_record = pytest.importorskip("array_record.python.array_record_module")
    sizes = {}
    for options in ("", "group_size:100"):
        path = tmp_path / f"{len(options)}"
        writer = array_record.ArrayRecordWriter(str(path), *filter(None, [options]))
        for _ in range(5000):
            writer.write(b"x" * 100)
        writer.close()
        sizes[options] = path.stat().st_size
        group = "group_size:100," if options else "group_size:1,"
        assert array_record.ArrayRecordReader(str(path)).writer_options_string().startswith(group)
    assert sizes[""] > 3 * sizes["group_size:100"]


# ---- OpenCV, Pillow ----


def test_opencv_5_reads_no_turned_tiff_from_a_path(tmp_path):
    path = tmp_path / "turned.tiff"
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(path, tiffinfo={274: 6})
    assert cv2.imread(str(path)) is None and cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is None
    content = np.fromfile(path, np.uint8)
    assert cv2.imdecode(content, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION).shape == (3, 2, 3)


def test_opencv_turns_jpegs_and_not_avifs(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a.jpg", "a.png", "a.webp", "a.avif"):
        Image.new("RGB", (64, 32)).save(tmp_path / name, exif=exif)
    shapes = [cv2.imread(str(tmp_path / f"a.{kind}")).shape for kind in ("jpg", "png", "webp", "avif")]
    assert shapes == [(64, 32, 3)] * 3 + [(32, 64, 3)]


def smooth_picture(size=200):
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8), (5, 5), 0)


def test_a_truncated_jpeg_is_refused_from_memory_and_read_from_a_file(tmp_path):
    content = cv2.imencode(".jpg", smooth_picture())[1].tobytes()
    half = content[: len(content) // 2]
    (tmp_path / "half.jpg").write_bytes(half)
    assert cv2.imdecode(np.frombuffer(half, np.uint8), cv2.IMREAD_COLOR) is None
    assert cv2.imread(str(tmp_path / "half.jpg")).shape == (200, 200, 3)


def test_grey_jpegs_of_opencv_differ_from_converted_ones():
    content = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))[1]
    grey = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE).astype(int)
    assert np.abs(grey - cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)).max() > 3


def test_opencv_adds_short_vectors_as_scalars():
    assert cv2.add(np.full(4, 250, np.uint8), np.full(4, 10, np.uint8)).ravel().tolist() == [260] * 4
    assert cv2.add(np.full(5, 250, np.uint8), np.full(5, 10, np.uint8)).ravel().tolist() == [255] * 5


def test_small_circles_of_opencv_are_diamonds():
    canvas = np.zeros((5, 5), np.uint8)
    cv2.circle(canvas, (2, 2), 2, 1, -1)
    assert (canvas == (np.abs(np.mgrid[-2:3, -2:3]).sum(0) <= 2)).all()


def test_opencv_5_has_no_cascades_and_no_caffe():
    assert not hasattr(cv2, "CascadeClassifier") and not hasattr(cv2, "HOGDescriptor")
    assert not hasattr(cv2.dnn, "readNetFromCaffe") and not hasattr(cv2.dnn, "readNetFromDarknet")


def test_jpegs_of_quality_100_halve_the_colours():
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 7:] = 0, 0, 255
    red = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1], cv2.IMREAD_COLOR)[8, :, 2]
    assert red[5] > 10 and red[8] < 240
    full = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    assert np.abs(cv2.imdecode(cv2.imencode(".jpg", picture, full)[1], 1).astype(int) - picture).max() <= 2


def test_pillow_clips_16_bits_and_opencv_drops_the_low_byte(tmp_path):
    path = str(tmp_path / "deep.png")
    cv2.imwrite(path, np.array([[128, 256, 65535]], np.uint16))
    assert np.asarray(Image.open(path).convert("L")).ravel().tolist() == [128, 255, 255]
    assert cv2.imread(path, cv2.IMREAD_GRAYSCALE).ravel().tolist() == [0, 1, 255]


def test_tensorflow_decodes_jpegs_less_exactly():
    tf = pytest.importorskip("tensorflow")
    content = cv2.imencode(".jpg", smooth_picture(64))[1].tobytes()
    exact = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    assert np.abs(tf.io.decode_jpeg(content).numpy() - exact).max() >= 3
    assert np.abs(tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE").numpy() - exact).max() == 0


# ---- meshes ----

SQUARE = np.float64([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]])


def gltf_of(content):
    return json.loads(content[20 : 20 + struct.unpack("<I", content[12:16])[0]])


def textured(**settings):
    visual = trimesh.visual.TextureVisuals(uv=SQUARE[:, :2], **settings)
    return gltf_of(trimesh.Trimesh(SQUARE, TRIANGLES, visual=visual, process=False).export(file_type="glb"))


def test_trimesh_darkens_textures_and_makes_them_metal():
    picture = Image.new("RGB", (4, 4), (200, 100, 50))
    surface = textured(image=picture)["materials"][0]["pbrMetallicRoughness"]
    assert surface["baseColorFactor"] == [0.4, 0.4, 0.4, 1.0] and "metallicFactor" not in surface  # glTF's default: 1
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture, metallicFactor=0.0)
    surface = textured(material=material)["materials"][0]["pbrMetallicRoughness"]
    assert "baseColorFactor" not in surface and surface["metallicFactor"] == 0


def test_trimesh_writes_srgb_into_linear_vertex_colours():
    mesh = trimesh.Trimesh(SQUARE, TRIANGLES, vertex_colors=np.uint8([[188, 0, 0, 255]] * 4), process=False)
    gltf = gltf_of(mesh.export(file_type="glb"))
    colour = gltf["accessors"][gltf["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    assert colour["max"] == [188, 0, 0, 255] and colour["normalized"]


def glb_with_a_target(weight, name):
    """A square whose morph target moves all vertices by z = 1."""
    blob = SQUARE.astype("<f4").tobytes() + TRIANGLES.astype("<u4").tobytes() + np.float32([[0, 0, 1]] * 4).tobytes()
    vector = {"componentType": 5126, "count": 4, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 1]}
    primitive = {"attributes": {"POSITION": 0}, "indices": 1, "targets": [{"POSITION": 2}]}
    integers = {"bufferView": 1, "componentType": 5125, "count": 6, "type": "SCALAR"}
    gltf = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"weights": [weight], "primitives": [primitive], "extras": {"targetNames": [name]}}],
        "buffers": [{"byteLength": len(blob)}],
        "bufferViews": [{"buffer": 0, "byteOffset": at, "byteLength": n} for at, n in ((0, 48), (48, 24), (72, 48))],
        "accessors": [vector | {"bufferView": 0}, integers, vector | {"bufferView": 2}],
    }
    text = json.dumps(gltf).encode()
    text += b" " * (-len(text) % 4)
    content = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(blob), len(text), b"JSON") + text
    return content + struct.pack("<I4s", len(blob), b"BIN\0") + blob


def test_trimesh_drops_morph_targets():
    scene = trimesh.load(io.BytesIO(glb_with_a_target(1.0, "up")), file_type="glb")
    assert (next(iter(scene.geometry.values())).vertices[:, 2] == 0).all()  # the weight would give 1
    assert "targets" not in json.dumps(gltf_of(scene.export(file_type="glb")))


def test_blender_limits_weights_to_10_and_names_to_63_bytes(tmp_path):
    (tmp_path / "a.glb").write_bytes(glb_with_a_target(20.0, "n" * 80))
    ((name, found),) = helpers_gltf.played_by_blender(tmp_path / "a.glb", [], []).items()
    assert found["weights"] == [10] and name == found["names"][0] == "n" * 63


def three(expression):
    """The value of a JavaScript expression in which THREE is three.js."""
    module = json.dumps((helpers_gltf.node_modules() / "three" / "build" / "three.module.js").as_uri())
    code = f"const THREE = await import({module}); console.log(JSON.stringify({expression}))"
    return json.loads(helpers_gltf._output(["node", "--input-type=module", "-e", code]))


def test_euler_angles_of_three_js_are_the_negated_ones_of_mat_files():
    found = three("new THREE.Matrix4().makeRotationFromEuler(new THREE.Euler(-0.1, -0.2, -0.3)).elements")
    c, s = np.cos([0.1, 0.2, 0.3]), np.sin([0.1, 0.2, 0.3])
    x = [[1, 0, 0], [0, c[0], s[0]], [0, -s[0], c[0]]]  # as the MATLAB code of 300W-LP
    y, z = [[c[1], 0, -s[1]], [0, 1, 0], [s[1], 0, c[1]]], [[c[2], s[2], 0], [-s[2], c[2], 0], [0, 0, 1]]
    np.testing.assert_allclose(np.reshape(found, (4, 4)).T[:3, :3], np.array(x) @ y @ z, atol=1e-12)


def test_numbers_of_a_three_js_colour_are_linear():
    assert three("new THREE.Color(0.5, 0.5, 0.5).getHexString()") == "bcbcbc"
    assert abs(three("new THREE.Color(0x808080).r") - 0.216) < 1e-3


def test_three_js_renames_nodes():
    assert three("THREE.PropertyBinding.sanitizeNodeName('face 0.left[a]:b')") == "face_0leftab"


def test_trimesh_drops_unused_vertices_of_an_obj_without_processing(tmp_path):
    path = tmp_path / "a.obj"
    path.write_text("v 9 9 9\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 2 3 4\n")
    assert len(trimesh.load(path, process=False).vertices) == 3
    assert len(trimesh.load(path, process=False, maintain_order=True).vertices) == 4


def test_procrustes_of_trimesh_mirrors_by_default():
    points = np.random.default_rng(0).normal(size=(50, 3))
    matrix, _, cost = trimesh.registration.procrustes(points, points * [-1, 1, 1])
    assert np.linalg.det(matrix[:3, :3]) < 0 and cost < 1e-20
    matrix, _, cost = trimesh.registration.procrustes(points, points * [-1, 1, 1], reflection=False)
    assert np.linalg.det(matrix[:3, :3]) > 0 and cost > 0.1


# ---- films ----


def ffmpeg(*arguments):
    """Runs ffmpeg with `arguments`, which may hold spaces only between words."""
    words = [
        word for argument in arguments for word in (str(argument).split() if isinstance(argument, str) else [argument])
    ]
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *words], capture_output=True)


def imageio(expression, *arguments):
    """The value of an expression of `ffmpeg`, the package, and `arguments`: in a process without JAX, as it forks."""
    code = f"import imageio_ffmpeg as ffmpeg, json, sys; arguments = sys.argv[1:]; print(json.dumps({expression}))"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def frames_of(path):
    """(metadata, number of frames that imageio-ffmpeg reads)."""
    return imageio("[next(r := ffmpeg.read_frames(arguments[0])), sum(1 for _ in r)]", path)


THREE_SECONDS = "-f lavfi -i testsrc=size=64x48:rate=30:duration=3"


def test_imageio_reads_frames_of_varying_rate_twice(tmp_path):
    slower = "-vf setpts='if(lt(N,30),N,N*2-30)/(30*TB)' -fps_mode vfr".replace("'", "").replace(",", "\\,")
    assert ffmpeg(THREE_SECONDS, slower, tmp_path / "a.mp4").returncode == 0
    assert imageio("ffmpeg.count_frames_and_secs(arguments[0])", tmp_path / "a.mp4")[0] == 90
    assert frames_of(tmp_path / "a.mp4")[1] > 110


def test_imageio_resizes_to_multiples_of_16(tmp_path):
    writer = "(w := ffmpeg.write_frames(arguments[0], (100, 90))"
    imageio(f"{writer}, w.send(None), w.send(bytes(27000)), w.close())[1:]", tmp_path / "a.mp4")
    assert frames_of(tmp_path / "a.mp4")[0]["size"] == [112, 96]


def test_ffmpeg_reads_half_a_film_with_status_0(tmp_path):
    ffmpeg(THREE_SECONDS, "-g 10", tmp_path / "a.mkv")
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(content[: len(content) // 2])
    run = ffmpeg("-i", tmp_path / "half.mkv", "-f rawvideo -pix_fmt rgb24 -")
    assert run.returncode == 0 and 20 < len(run.stdout) / (64 * 48 * 3) < 60
    assert cv2.VideoCapture(str(tmp_path / "half.mkv")).get(cv2.CAP_PROP_FRAME_COUNT) == 90


def test_the_cover_of_a_song_is_a_film_of_no_rate(tmp_path):
    ffmpeg("-f lavfi -i color=c=red:size=64x64 -frames:v 1", tmp_path / "c.png")
    ffmpeg("-f lavfi -i sine=duration=3 -i", tmp_path / "c.png", "-map 0 -map 1 -c:v copy", tmp_path / "a.mp3")
    about, count = frames_of(tmp_path / "a.mp3")
    assert (about["size"], about["fps"], about["duration"], count) == ([64, 64], 0, 3.0, 1)


def test_ffmpeg_writes_hd_with_the_colours_of_sd(tmp_path):
    ffmpeg("-f lavfi -i color=c=red:size=1920x1080:rate=5:duration=1 -pix_fmt yuv420p", tmp_path / "a.mp4")
    luma = ffmpeg("-i", tmp_path / "a.mp4", "-frames:v 1 -f rawvideo -pix_fmt yuv420p -").stdout[0]
    assert luma in (81, 82)  # BT.601; red is 63 in BT.709, which players assume for this size
    as_player = ffmpeg(
        "-i", tmp_path / "a.mp4", "-vf scale=in_color_matrix=bt709 -frames:v 1 -f rawvideo -pix_fmt rgb24 -"
    )
    assert as_player.stdout[1] > 15  # green in pure red


def test_gifs_of_60_frames_a_second_have_100(tmp_path):
    ffmpeg("-f lavfi -i testsrc=size=64x48:rate=60:duration=1", tmp_path / "a.gif")
    about, count = frames_of(tmp_path / "a.gif")
    assert about["fps"] == 100 and count > 90
