"""Florence on synthetic scans in the real file formats, with known errors."""

import json

import numpy as np
import PIL.Image
import pytest
import scipy.spatial
from helpers_run import run_python

from data_pipelines.sources.base import SkipFace, SourceError
from data_pipelines.test_sets import mesh_scans
from scripts import evaluate_florence
from twodal_jax.evaluation import icp, scan_eyes, scan_protocol
from twodal_jax.evaluation.predictions import read_predictions
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.rendering import rasterizer, shading


@pytest.fixture(scope="module")
def model():
    return load_morphable_model("builtin")


@pytest.fixture(scope="module")
def head(model):
    """(vertices [N, 3] of the built-in head in millimetres, triangles)."""
    points = np.asarray(model.mean, np.float64).T
    eyes = points[np.asarray(model.landmark_indices)[[36, 45]]]
    points = points * (90.0 / np.linalg.norm(eyes[0] - eyes[1])) + [3.0, -7.0, 11.0]
    return points, np.asarray(model.triangles)


def write_obj(path, points, triangles):
    lines = ["v " + " ".join("%.5f" % x for x in p) for p in points]
    lines += ["f %d %d %d" % tuple(t + 1) for t in triangles]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_vrml(path, points, triangles, colours=None):
    color = ""
    if colours is not None:
        color = "color Color { color [ " + ", ".join("%.3f %.3f %.3f" % tuple(c) for c in colours) + " ] }"
    coordinates = ",\n".join("%.5f %.5f %.5f" % tuple(p) for p in points)
    indices = ",\n".join("%d, %d, %d, -1" % tuple(t) for t in triangles)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#VRML V2.0 utf8\n# a scanner's file\nShape { geometry IndexedFaceSet { coord Coordinate { point [\n"
        f"{coordinates} ] }}\n coordIndex [\n{indices} ]\n{color} }} }}\n"
    )


@pytest.mark.parametrize("write, name", [(write_obj, "a.obj"), (write_vrml, "a.wrl")])
def test_meshes_of_both_formats_are_read_as_written(tmp_path, head, write, name):
    write(tmp_path / name, *head)
    scan = mesh_scans.read_scan(tmp_path / name)
    np.testing.assert_allclose(scan.vertices, head[0], atol=1e-4)
    np.testing.assert_array_equal(scan.triangles, head[1])
    np.testing.assert_allclose(scan.colours, np.tile(mesh_scans.CLAY_BGR, (len(head[0]), 1)), atol=1e-6)


@pytest.mark.parametrize("kind", ["ply", "stl", "off", "glb"])
def test_meshes_of_other_formats_are_read(tmp_path, head, kind):
    import trimesh

    colours = np.random.default_rng(0).integers(60, 255, (len(head[0]), 4)).astype(np.uint8)
    trimesh.Trimesh(*head, vertex_colors=colours, process=False).export(tmp_path / f"a.{kind}")
    scan = mesh_scans.read_scan(tmp_path / f"a.{kind}")
    distances, _ = scipy.spatial.cKDTree(scan.vertices).query(head[0])  # STL repeats the vertices
    assert distances.max() < 1e-3 and len(scan.triangles) == len(head[1])
    if kind in ("ply", "glb"):
        np.testing.assert_allclose(scan.colours, colours[:, 2::-1] / 255, atol=0.01)


@pytest.mark.parametrize("largest", [1, 255])
def test_vertex_colours_of_an_obj_are_read_in_either_range(tmp_path, head, largest):
    colours = np.random.default_rng(0).uniform(0.1, 1, (len(head[0]), 3))
    write_obj(tmp_path / "a.obj", np.hstack([head[0], colours * largest]), head[1])
    scan = mesh_scans.read_scan(tmp_path / "a.obj")
    np.testing.assert_allclose(scan.vertices, head[0], atol=1e-4)
    np.testing.assert_allclose(scan.colours, colours[:, ::-1], atol=0.01)


@pytest.mark.parametrize(
    "material, picture, found", [("A.MTL", "Skin.PNG", True), ("a.mtl", "gone.png", False), (None,) * 2 + (False,)]
)
def test_the_texture_of_an_obj_is_found_in_any_case_and_a_missing_one_is_clay(tmp_path, head, material, picture, found):
    write_obj(tmp_path / "a.obj", *head)
    faces = "".join("f %d/1 %d/1 %d/1\n" % tuple(t + 1) for t in head[1])
    vertices = (tmp_path / "a.obj").read_text().split("f ", 1)[0]
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{vertices}vt 0.5 0.5\nusemtl skin\n{faces}")
    if material:
        (tmp_path / material).write_text("newmtl skin\nKd 0 0 0\nmap_Kd skin.png\n")
        PIL.Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / picture)
    scan = mesh_scans.read_scan(tmp_path / "a.obj")
    expected = np.float32([50, 100, 200]) / 255 if found else mesh_scans.CLAY_BGR
    np.testing.assert_allclose(scan.colours, np.tile(expected, (len(scan.vertices), 1)), atol=0.01)


def test_points_without_triangles_are_refused(tmp_path):
    import trimesh

    trimesh.PointCloud(np.random.default_rng(0).uniform(size=(500, 3))).export(tmp_path / "a.ply")
    with pytest.raises(SkipFace) as error:
        mesh_scans.read_scan(tmp_path / "a.ply")
    assert "0 triangles: not a surface" in error.value.detail


def test_scans_in_other_units_become_millimetres_and_unusable_ones_are_named(tmp_path, head):
    for subject, scale in {"mm": 1, "cm": 0.1, "m": 0.001, "inches": 1 / 25.4}.items():
        write_obj(tmp_path / subject / "a.obj", head[0] * scale, head[1])
    write_obj(tmp_path / "flat" / "a.obj", head[0][:, [2, 0, 1]] * [1, 1, 0.0], head[1])
    write_obj(tmp_path / "mm" / "._a.obj", *head)
    problems = []
    scans, factors = evaluate_florence.read_scans(tmp_path, problems)
    assert factors["m"] == 1000 and set(scans) >= {"mm", "cm", "m"} and "inches" not in scans
    for subject in ("cm", "m"):
        np.testing.assert_allclose(scans[subject].vertices, head[0], atol=0.01)
    text = "\n".join(problems)
    assert "inches: left out: unknown unit" in text and "m: its size is a head's in metres" in text
    assert problems[0].startswith("ignored 1 file(s) that macOS adds")
    scans, _ = evaluate_florence.read_scans(tmp_path, [], radius=95.0 / 25.4)
    np.testing.assert_allclose(scans["inches"].vertices, head[0] / 25.4, atol=0.01)
    assert "m" not in scans  # with this radius its rendering is blank


def test_vrml_polygons_become_triangles_and_colours_bgr(tmp_path):
    points = np.random.default_rng(0).uniform(size=(120, 3))
    write_vrml(tmp_path / "a.wrl", points, np.zeros((0, 3), int), colours=np.tile([0.9, 0.5, 0.1], (120, 1)))
    text = (tmp_path / "a.wrl").read_text().replace("coordIndex [\n", "coordIndex [ 0 1 2 3 -1 4,5,6,-1 7 8 9 10 11")
    (tmp_path / "a.wrl").write_text(text)
    scan = mesh_scans.read_scan(tmp_path / "a.wrl")
    expected = [[0, 1, 2], [0, 2, 3], [4, 5, 6], [7, 8, 9], [7, 9, 10], [7, 10, 11]]
    np.testing.assert_array_equal(scan.triangles, expected)
    np.testing.assert_allclose(scan.colours[0], [0.1, 0.5, 0.9], atol=1e-6)


def test_broken_meshes_and_folders_without_a_mesh_are_errors(tmp_path, head):
    (tmp_path / "b.wrl").write_text("#VRML V1.0 ascii\n")
    with pytest.raises(SkipFace, match="unreadable mesh") as error:
        mesh_scans.read_scan(tmp_path / "b.wrl")
    assert "b.wrl" in error.value.detail
    write_obj(tmp_path / "c.obj", head[0][:50], np.zeros((0, 3), int))
    with pytest.raises(SkipFace):
        mesh_scans.read_scan(tmp_path / "c.obj")
    (tmp_path / "empty").mkdir()
    meshes, problems = mesh_scans.list_scans(tmp_path)
    assert list(meshes) == ["b", "c"] and problems[0].startswith("empty: left out: no mesh")
    with pytest.raises(SourceError, match="no mesh"):
        mesh_scans.list_scans(tmp_path / "empty")


def test_the_two_protocols_differ_in_their_pitches():
    assert len(scan_protocol.poses("paper")) == len(scan_protocol.poses("vrn")) == 15
    assert {pitch for pitch, _ in scan_protocol.poses("paper")} == {-15.0, 20.0, 25.0}
    assert {pitch for pitch, _ in scan_protocol.poses("vrn")} == {-15.0, -20.0, -25.0}


@pytest.mark.parametrize("pitch, yaw", [(0.0, 0.0), (20.0, -80.0), (-15.0, 40.0)])
def test_unproject_inverts_project_and_the_face_is_inside_image_and_box(head, pitch, yaw):
    camera = scan_protocol.make_camera(head[0], pitch, yaw, 95.0)
    pixels = camera.project(head[0])
    np.testing.assert_allclose(camera.unproject(pixels), head[0], atol=1e-9)
    face = pixels[scan_protocol.face_part(head[0], 95.0)]
    assert face[:, :2].min() > 0 and face[:, :2].max() < scan_protocol.IMAGE_SIZE
    box = scan_protocol.roi_box(head[0], camera, 95.0)
    assert (face[:, :2] >= box[:2]).all() and (face[:, :2] <= box[2:]).all()


def test_positive_yaw_is_to_the_right_and_positive_pitch_up(head, model):
    landmarks = np.asarray(model.landmark_indices)
    frontal, right, up = (
        scan_protocol.make_camera(head[0], *pose, 95.0).project(head[0])[landmarks]
        for pose in ((0.0, 0.0), (0.0, 40.0), (20.0, 0.0))
    )

    def nose(points):
        return points[30] - points[[36, 45]].mean(axis=0)

    assert nose(right)[0] > nose(frontal)[0] + 20  # towards the right of the image
    assert nose(up)[1] < nose(frontal)[1] - 10


@pytest.fixture(scope="module")
def target(head):
    normals = shading.vertex_normals(head[0].astype(np.float32), np.asarray(head[1], np.int32))
    return icp.Target(head[0], np.asarray(normals, np.float64))


@pytest.mark.parametrize("pitch, yaw", [(-15.0, 0.0), (25.0, 80.0), (20.0, -40.0)])
@pytest.mark.parametrize("distance", [0.0, 0.4, 1.0])
def test_vertices_off_the_surface_have_that_distance_as_error(head, target, model, pitch, yaw, distance):
    """Vertices moved by `distance` mm along their normals, randomly in or out, at an unknown depth."""
    rng = np.random.default_rng(0)
    side = np.where(rng.uniform(size=(len(head[0]), 1)) < 0.5, 1.0, -1.0)
    camera = scan_protocol.make_camera(head[0], pitch, yaw, 95.0)
    pixels = camera.project(head[0] + distance * side * target.normals) + [0.0, 0.0, 500.0]
    error = scan_protocol.reconstruction_error(pixels, camera, target, 90.0)
    np.testing.assert_allclose(error, 100 * distance / 90.0, rtol=0.05, atol=0.02)
    assert scan_protocol.reconstruction_error(pixels, camera, target, 45.0) == pytest.approx(2 * error)


@pytest.mark.parametrize("seed", range(4))
def test_the_fitted_model_gives_the_interocular_distance_within_3_per_cent(model, seed):
    """For neutral heads of random shape, slightly turned, seen from the front, with noise and shuffled points."""
    rng = np.random.default_rng(seed)
    points = np.asarray(model.mean, np.float64).T
    points = points + np.einsum("k,kcn->nc", rng.normal(size=40), np.asarray(model.basis)[:40])
    mean = np.asarray(model.mean).T[np.asarray(model.landmark_indices)[[36, 45]]]
    points *= 90.0 / np.linalg.norm(mean[0] - mean[1])
    eyes = points[np.asarray(model.landmark_indices)[[36, 45]]]
    turn = scipy.spatial.transform.Rotation.from_euler("xyz", rng.normal(size=3) * 4, degrees=True).as_matrix()
    points = points @ turn.T + rng.normal(size=3) * 10
    pixels = np.float32((points - points.min(axis=0)) * [1, -1, 1] + [0, np.ptp(points[:, 1]), 0])
    size = int(np.ptp(points[:, :2], axis=0).max()) + 2
    points = points[rasterizer.visible_vertices(pixels, np.asarray(model.triangles), size, size)]
    scan = rng.permutation(points) + rng.normal(size=points.shape) * 0.3
    found = scan_eyes.interocular_distance(model, icp.Target(scan), 95.0)
    assert found == pytest.approx(np.linalg.norm(eyes[0] - eyes[1]), rel=0.03)


def test_annotated_distances_are_preferred_and_the_origin_is_reported(model, target):
    found = evaluate_florence.interocular_distances({"a": target, "b": target}, {"a": 88.0}, model, 95.0, [])
    assert found["a"] == (88.0, "landmarks.csv")
    assert found["b"][0] == pytest.approx(90.0, rel=0.03) and found["b"][1] == "fitted morphable model"
    text = evaluate_florence.about(found)
    assert "landmarks.csv for 1 of 2 subjects, fitted morphable model for 1 of 2 subjects" in text


@pytest.mark.parametrize("collapsed", [0.0, np.nan, np.inf])
def test_a_scan_without_a_fit_is_named_and_not_measured(monkeypatch, target, collapsed):
    monkeypatch.setattr(scan_eyes, "interocular_distance", lambda *_: collapsed)
    problems = []
    found = evaluate_florence.interocular_distances({"a": target}, {}, None, 95.0, problems)
    assert np.isnan(found["a"][0]) and "a: not measured: no face could be fitted" in problems[0]


def test_predicted_eyes_too_far_apart_do_not_lower_the_error(tmp_path, head, target, model):
    """Both eye corners are moved by 15 mm; they are two of thousands of vertices, so the error hardly changes."""
    rng = np.random.default_rng(0)
    camera = scan_protocol.make_camera(head[0], 20.0, 40.0, 95.0)
    renderings = [evaluate_florence.Rendering(key, "s", 40.0, camera, np.zeros(4)) for key in ("right", "wide")]
    right = head[0] + rng.choice([-1.0, 1.0], (len(head[0]), 1)) * target.normals
    wide = right.copy()
    wide[np.asarray(model.landmark_indices)[[36, 45]]] += [[-15.0, 0.0, 0.0], [15.0, 0.0, 0.0]]
    pixels = np.stack([camera.project(points).T for points in (right, wide)]).astype(np.float32)
    np.savez(tmp_path / "m.npz", name=np.array(["right", "wide"]), vertices=pixels)
    interocular = evaluate_florence.interocular_distances({"s": target}, {}, model, 95.0, [])
    found = read_predictions(tmp_path / "m.npz")
    errors = evaluate_florence.measure(found, renderings, {"s": target}, interocular, model, [])
    assert errors[0] == pytest.approx(100 / 90.0, rel=0.05) and errors[1] == pytest.approx(errors[0], rel=0.01)


def test_detected_landmarks_of_renderings_are_converted_to_crop_pixels(tmp_path):
    camera = scan_protocol.Camera(np.eye(3), 1.0, np.zeros(3))
    box = np.array([100, 120, 340, 360], np.float32)
    renderings = [evaluate_florence.Rendering(f"s_p+20_y{yaw}", "s", 0.0, camera, box) for yaw in ("-40", "+40")]
    points = np.random.default_rng(0).uniform(120, 320, (68, 2)).round(2)
    path = tmp_path / "detected.csv"
    path.write_text("s_p+20_y+40.png," + ",".join(map(str, points.ravel())) + "\n")
    images = [np.zeros((450, 450, 3), np.uint8)] * 2
    faces = evaluate_florence.network_inputs(renderings, images, path, False)
    np.testing.assert_array_equal(faces.detected_visible.any(axis=1), [False, True])
    np.testing.assert_allclose(faces.detected[1, 13], (points[30] - box[:2] + 0.5) / 2 - 0.5, atol=0.3)  # nose tip
    assert not evaluate_florence.network_inputs(renderings, images, None, False).detected_visible.any()


@pytest.mark.slow
def test_the_command_renders_and_measures(tmp_path, head):
    write_obj(tmp_path / "data" / "subject_01" / "a.obj", *head)
    write_vrml(tmp_path / "data" / "subject_02" / "scan.wrl", head[0] * [1.02, 1.0, 0.98], head[1])
    (tmp_path / "data" / "subject_03").mkdir()
    (tmp_path / "data" / "subject_03" / "broken.wrl").write_text("nothing")

    folders = f"--data_dir={tmp_path / 'data'}", f"--output_dir={tmp_path / 'out'}"

    def command(*arguments):
        process = run_python("-m", "scripts.evaluate_florence", *folders, *arguments)
        assert process.returncode == 0, process.stderr[-2000:]

    command("--render_only")
    pictures = sorted(path.stem for path in (tmp_path / "out" / "renders").iterdir())
    assert len(pictures) == 30 and "subject_01_p+20_y-80" in pictures
    names, vertices = [], []
    for pitch, yaw in scan_protocol.poses("paper"):
        camera = scan_protocol.make_camera(head[0], pitch, yaw, 95.0)
        names.append(f"subject_01_p{pitch:+.0f}_y{yaw:+.0f}.png")
        vertices.append(camera.project(head[0]).T)
    np.savez(tmp_path / "m.npz", name=np.array(names), vertices=np.stack(vertices).astype(np.float32))
    command(f"--predictions={tmp_path / 'm.npz'}", "--morphable_model=builtin")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    row = found["nme_reconstruction"]
    assert row["count"] == 15 and row["excluded"] == 15 and row["mean_of_images"] < 0.05
    assert found["interocular"]["subject_01"]["distance"] == pytest.approx(90.0, rel=0.03)
    assert "fitted morphable model for 2 of 2 subjects" in found["about"]["nme_reconstruction"]
    assert any("subject_03" in problem for problem in found["problems"])
    assert (tmp_path / "out" / "cumulative_by_yaw_nme_reconstruction.svg").is_file()


@pytest.mark.parametrize("line", [b"s,1,2", b"s,1,2,3,4,5,six", b"Jos\xe9,1,2,3,4,5,6"])
def test_a_broken_landmarks_csv_is_one_message(tmp_path, line):
    (tmp_path / "landmarks.csv").write_bytes(b"subject,x36,y36,z36,x45,y45,z45\n" + line + b"\n")
    with pytest.raises(SourceError, match="landmarks.csv: needs the columns subject, x36"):
        evaluate_florence.read_corners(tmp_path)
