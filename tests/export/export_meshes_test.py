"""twodal_jax.export.meshes and .frames, checked with trimesh, by hand and with the Khronos glTF validator."""

import errno
import functools
import io
import json
import os
import pathlib
import struct

import helpers_gltf
import helpers_model
import numpy as np
import PIL.Image
import pytest
import trimesh

from twodal_jax.export import frames, glb, meshes
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import projection

NOSE_TIP = 30
NAMES = ("plain", "with a space", "ümlaut 顔", "#1 'a' \"b\"", "-dash")


@functools.cache
def builtin():
    return load_morphable_model("builtin")


@functools.cache
def sphere() -> tuple[np.ndarray, np.ndarray]:
    """trimesh's unit sphere of 163 shuffled vertices, counter-clockwise from outside; two vertices coincide."""
    made = trimesh.creation.icosphere(subdivisions=2)
    order = np.random.default_rng(0).permutation(len(made.vertices))
    vertices, triangles = made.vertices[order], np.argsort(order)[made.faces].astype(np.int32)
    split = int(triangles[0, 0])
    triangles[0, 0] = len(vertices)
    return np.concatenate([vertices, vertices[split : split + 1]]).astype(np.float32), triangles


def with_loose_vertex() -> tuple[np.ndarray, np.ndarray]:
    """The sphere with an additional vertex without triangles."""
    vertices, triangles = sphere()
    return np.concatenate([vertices[:1] * 2, vertices]), triangles + 1


def picture(height: int = 6, width: int = 10) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def texel_of_vertices(count: int, texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uv [count, 2], v up, of the centre of a random pixel for each vertex; the pixel's colour [count, 3]."""
    height, width = texture.shape[:2]
    rng = np.random.default_rng(2)
    row, column = rng.integers(0, height, count), rng.integers(0, width, count)
    return np.stack([(column + 0.5) / width, 1 - (row + 0.5) / height], axis=1), texture[row, column]


def read(path: pathlib.Path) -> trimesh.Trimesh:
    loaded = trimesh.load(path, process=False, maintain_order=True)
    if isinstance(loaded, trimesh.Scene):
        (loaded,) = loaded.geometry.values()
    return loaded


def read_glb(path: pathlib.Path) -> tuple[dict, bytes]:
    """JSON and buffer of a GLB, read by its specification."""
    data = path.read_bytes()
    magic, version, length, json_length, json_type = struct.unpack("<4sII I4s", data[:20])
    assert (magic, version, length, json_type) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + json_length]), data[28 + json_length :]


def accessor(tree: dict, buffer: bytes, index: int) -> np.ndarray:
    found = tree["accessors"][index]
    view = tree["bufferViews"][found["bufferView"]]
    columns = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[found["type"]]
    dtype = {5126: "<f4", 5125: "<u4", 5123: "<u2"}[found["componentType"]]
    start = view.get("byteOffset", 0) + found.get("byteOffset", 0)
    return np.frombuffer(buffer, dtype, found["count"] * columns, start).reshape(-1, columns)


def outwardness(vertices: np.ndarray, triangles: np.ndarray) -> float:
    """Share of a sphere's triangles with a right-handed normal that points outward."""
    corners = np.asarray(vertices, np.float64)[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float((np.einsum("ti,ti->t", normals, corners.mean(axis=1)) > 0).mean())


WRITERS = {"obj": meshes.write_obj, "ply": meshes.write_ply, "glb": glb.write_glb}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", NAMES)
def test_vertices_and_triangles_keep_value_and_order(tmp_path, kind, name):
    vertices, triangles = sphere()
    WRITERS[kind](tmp_path / f"{name}.{kind}", vertices, triangles, comment="frame\nof the mesh")
    found = read(tmp_path / f"{name}.{kind}")
    np.testing.assert_array_equal(np.float32(found.vertices), vertices)
    np.testing.assert_array_equal(found.faces, triangles)
    assert outwardness(found.vertices, found.faces) == 1.0


@pytest.mark.parametrize("kind", WRITERS)
def test_a_vertex_without_a_triangle_is_kept(tmp_path, kind):
    vertices, triangles = with_loose_vertex()
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, vertices, triangles)
    if kind == "obj":  # trimesh's reader drops such vertices
        words = [line.split() for line in path.read_text().splitlines()]
        found = np.array([word[1:] for word in words if word[:1] == ["v"]], np.float32)
        faces = [[corner.split("/")[0] for corner in word[1:]] for word in words if word[:1] == ["f"]]
        np.testing.assert_array_equal(np.array(faces, int) - 1, triangles)
    else:
        found = np.float32(read(path).vertices)
    np.testing.assert_array_equal(found, vertices)


@pytest.mark.parametrize("name", NAMES)
def test_an_objs_texture_is_beside_it_with_v_up(tmp_path, name):
    vertices, triangles = sphere()
    texture = picture()
    uv, expected = texel_of_vertices(len(vertices), texture)
    written = meshes.write_obj(tmp_path / f"{name}.obj", vertices, triangles, uv=uv, texture=texture)
    assert {path.suffix for path in written} == {".obj", ".mtl", ".png"}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in written:  # all names in the files are relative
        path.rename(moved / path.name)
    lines = (moved / f"{name}.obj").read_text(encoding="utf-8").splitlines()
    (mtl,) = [line.split()[1:] for line in lines if line.startswith("mtllib")]
    lines = (moved / mtl[0]).read_text(encoding="utf-8").splitlines()
    (png,) = [line.split()[1:] for line in lines if line.startswith("map_Kd")]
    assert len(mtl) == len(png) == 1, "a space ends a name"
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(moved / png[0]))[..., ::-1], texture)
    found = read(moved / f"{name}.obj")
    np.testing.assert_array_equal(np.float32(found.vertices), vertices)
    np.testing.assert_array_equal(found.faces, triangles)
    np.testing.assert_array_equal(found.visual.to_color().vertex_colors[:, 2::-1], expected)


def test_names_that_obj_cannot_hold_never_share_a_texture(tmp_path):
    vertices, triangles = sphere()
    uv, _ = texel_of_vertices(len(vertices), picture())
    files = [
        path
        for name in ("a b", "a_b", "a\tb", "a#b")
        for path in meshes.write_obj(tmp_path / f"{name}.obj", vertices, triangles, uv=uv, texture=picture())
    ]
    assert len(set(files)) == 12


def test_a_glb_embeds_the_texture_with_v_down(tmp_path):
    vertices, triangles = sphere()
    texture = picture()
    uv, expected = texel_of_vertices(len(vertices), texture)
    path = tmp_path / "a b.glb"
    glb.write_glb(path, vertices, triangles, uv=uv, texture=texture, comment="unit m")
    tree, buffer = read_glb(path)
    (material,), (image,) = tree["materials"], tree["images"]
    assert "uri" not in image and tree["asset"]["extras"] == {"comment": "unit m"}
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 1.0 and material["doubleSided"]
    view = tree["bufferViews"][image["bufferView"]]
    data = buffer[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    stored = np.asarray(PIL.Image.open(io.BytesIO(data)))[..., ::-1]
    np.testing.assert_array_equal(stored, texture)
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    found = accessor(tree, buffer, attributes["TEXCOORD_0"])
    # glTF: v from the first row down.
    pixel = np.floor(found * [texture.shape[1], texture.shape[0]]).astype(int)
    np.testing.assert_array_equal(stored[pixel[:, 1], pixel[:, 0]], expected)
    normals = accessor(tree, buffer, attributes["NORMAL"])
    used = np.unique(triangles)
    assert np.einsum("ni,ni->n", normals[used], vertices[used]).min() > 0.95
    np.testing.assert_array_equal(np.float32(read(path).vertices), vertices)


def test_colours_of_a_glb_are_linear(tmp_path):
    vertices, triangles = sphere()
    colours = np.zeros((len(vertices), 3), np.uint8)
    colours[:] = (255, 188, 12)  # blue, green, red
    tree, buffer = read_glb(glb.write_glb(tmp_path / "a.glb", vertices, triangles, colours=colours))
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    assert tree["accessors"][attributes["COLOR_0"]]["normalized"] is True
    found = accessor(tree, buffer, attributes["COLOR_0"]) / 65535
    # By the standard's table: 188 is 0.5029, 12 is 0.003677.
    np.testing.assert_allclose(found, np.tile([0.003677, 0.50289, 1.0, 1.0], (len(vertices), 1)), atol=1e-5)


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_colours_of_obj_and_ply_are_restored(tmp_path, kind):
    vertices, triangles = sphere()
    colours = np.random.default_rng(3).integers(0, 256, (len(vertices), 3), np.uint8)
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, vertices, triangles, colours=colours, comment="says\nso")
    np.testing.assert_array_equal(read(path).visual.vertex_colors[:, 2::-1], colours)
    assert b"says so" in path.read_bytes()[:200] and b"trimesh" not in path.read_bytes()[:400]


@pytest.mark.parametrize("frame", frames.FRAMES)
@pytest.mark.parametrize("kind", WRITERS)
def test_the_face_looks_at_the_viewer_in_every_format_and_frame(tmp_path, frame, kind):
    model = builtin()
    surface = np.asarray(model.mean).T
    if frame == frames.IMAGE:
        alpha = np.zeros(62, np.float32)
        alpha[:12] = (0.5, 0, 0, 60, 0, 0.5, 0, 60, 0, 0, 0.5, 0)
        surface = np.asarray(projection.vertices_crop(model, alpha))
    points = frames.to_export_frame(surface, frame, image_height=120, unit=1e-3)
    path = tmp_path / f"face.{kind}"
    WRITERS[kind](path, points, np.asarray(model.triangles))
    found = read(path)
    tip = int(np.asarray(model.landmark_indices)[NOSE_TIP])
    nose = np.asarray(found.vertex_normals)[tip]
    assert nose[2] > 0.7
    corners = found.vertices[found.faces]
    at_tip = (found.faces == tip).any(axis=1)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[at_tip]
    assert normals[:, 2].sum() > 0 and found.volume > 0
    chin, brow = (found.vertices[int(np.asarray(model.landmark_indices)[n])] for n in (8, 27))
    assert chin[1] < brow[1], "y is up"


def test_the_image_frame_lies_on_the_picture():
    """By hand: the first pixel's centre is half a pixel right of and below the top left corner."""
    corners = np.array([[0, 0, 7], [-0.5, -0.5, 0], [639.5, 479.5, 0], [639, 0, -1]])
    found = frames.to_export_frame(corners, "image", image_height=480)
    np.testing.assert_allclose(found, [[0.5, 479.5, 7], [0, 480, 0], [640, 0, 0], [639.5, 479.5, -1]])


def test_the_image_frame_is_the_rotated_and_scaled_model_without_mirroring():
    model, rng = helpers_model.tiny_model(), np.random.default_rng(0)
    for alpha in helpers_model.random_alpha(rng, 5):
        surface = np.asarray(model.mean).T
        flat = alpha.copy()
        flat[12:] = 0
        found = frames.to_export_frame(projection.vertices_crop(model, flat), "image", image_height=120)
        linear = np.linalg.lstsq(np.c_[surface, np.ones(len(surface))], found, rcond=None)[0][:3].T
        assert np.linalg.det(linear) > 0
        np.testing.assert_allclose(linear, alpha[:12].reshape(3, 4)[:, :3], rtol=1e-3, atol=1e-3)


def test_the_model_frame_is_in_metres():
    model = builtin()
    unit = frames.metres_per_unit(np.asarray(model.landmark_mean).T)
    found = frames.to_export_frame(np.asarray(model.mean).T, "model", unit=unit)
    assert unit == 1 and 0.2 < np.ptp(found[:, 1]) < 0.4, "a head and neck are some 30 cm high"


@pytest.mark.parametrize("unit", frames.KNOWN_UNITS)
def test_the_unit_follows_from_the_size_of_the_face(unit):
    landmarks = np.random.default_rng(0).normal(0, 0.03 / unit, (68, 3))
    landmarks[[36, 45]] = [[-0.045 / unit, 0, 0], [0.045 / unit, 0, 0]]
    assert frames.metres_per_unit(landmarks) == unit
    assert frames.metres_per_unit(landmarks * 3.2) is None
    assert "not known" in frames.describe("model", None) and "metre" in frames.describe("model", unit)


def test_the_unit_of_the_real_model_is_the_micrometre():
    folder = os.environ.get("TWODAL_DATA_DIR")
    if not folder or not (pathlib.Path(folder) / "bfm_3ddfa").is_dir():
        pytest.skip("needs TWODAL_DATA_DIR with bfm_3ddfa")
    model = load_morphable_model(pathlib.Path(folder) / "bfm_3ddfa")
    assert frames.metres_per_unit(np.asarray(model.landmark_mean).T) == 1e-6


@pytest.mark.parametrize("full_at", [".obj.", ".mtl.", ".png."])
def test_a_full_disk_keeps_the_old_files(tmp_path, monkeypatch, full_at):
    vertices, triangles = sphere()
    uv, _ = texel_of_vertices(len(vertices), picture())
    make = functools.partial(meshes.write_obj, tmp_path / "a.obj", uv=uv, texture=picture())
    make(vertices, triangles)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = pathlib.Path.write_bytes

    def write_until_full(path, data):
        if full_at in path.name:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_until_full)
    with pytest.raises(OSError, match=rf"No space left on device.*a\.{full_at[1:4]}'"):
        make(2 * vertices, triangles)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_of_the_files_name_is_reported_and_nothing_is_written(tmp_path):
    vertices, triangles = sphere()
    uv, _ = texel_of_vertices(len(vertices), picture())
    (tmp_path / "a.obj").mkdir()
    with pytest.raises(OSError, match=r"a folder has this name.*a\.obj"):
        meshes.write_obj(tmp_path / "a.obj", vertices, triangles, uv=uv, texture=picture())
    assert [path.name for path in tmp_path.iterdir()] == ["a.obj"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vertices": np.zeros((5, 2))}, "`vertices` of shape"),
        ({"vertices": np.full((163, 3), np.nan)}, "not finite"),
        ({"triangles": np.zeros((0, 3), int)}, "integer `triangles`"),
        ({"triangles": np.array([[0, 1, 163]])}, "must index the 163 vertices"),
        ({"triangles": np.array([[0, 1, -1]])}, "must index the 163 vertices"),
        ({"triangles": np.array([[0.0, 1.0, 2.0]])}, "integer `triangles`"),
        ({"texture": picture()}, "together with `uv`"),
        ({"uv": np.zeros((3, 2))}, "`uv` of shape"),
        ({"uv": np.zeros((163, 2)), "texture": picture()[..., 0]}, "`texture` of shape"),
        ({"uv": np.zeros((163, 2)), "texture": picture() / 255}, "`texture` as uint8"),
        ({"colours": np.zeros((163, 3))}, "`colours` as uint8"),
        ({"colours": np.zeros((162, 3), np.uint8)}, "`colours` of shape"),
    ],
)
@pytest.mark.parametrize("kind", ["obj", "glb"])
def test_invalid_meshes_are_refused_and_nothing_is_written(tmp_path, kind, change, message):
    vertices, triangles = sphere()
    with pytest.raises(meshes.MeshError, match=message):
        WRITERS[kind](tmp_path / f"a.{kind}", **{"vertices": vertices, "triangles": triangles} | change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"targets": np.zeros((2, 5, 3))}, "`targets` of shape"),
        ({"targets": np.full((2, 163, 3), np.nan)}, "finite `targets`"),
        ({"target_names": ("a",)}, "2 `target_names`"),
        ({"motion": glb.Motion.still(np.zeros((2, 3)), np.arange(2))}, "`motion.weights` of shape"),
        ({"motion": glb.Motion.still(np.zeros((2, 2)))}, "increasing `motion.times`"),
        ({"motion": glb.Motion.still(np.zeros((2, 2)), np.zeros(2))}, "increasing `motion.times`"),
    ],
)
def test_invalid_targets_and_motions_are_refused(tmp_path, change, message):
    vertices, triangles = sphere()
    good = {"targets": np.zeros((2, 163, 3)), "target_names": ("a", "b")}
    with pytest.raises(meshes.MeshError, match=message):
        glb.write_scene(tmp_path / "a.glb", [glb.GlbMesh("a", vertices, triangles, **good | change)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frame, given, message",
    [("photo", {}, "Unknown frame 'photo'; expected one of image, model"), ("image", {}, "needs `image_height`")],
)
def test_unknown_frames_and_missing_arguments_are_named(frame, given, message):
    with pytest.raises(frames.FrameError, match=message):
        frames.to_export_frame(np.zeros((1, 3)), frame, **given)


@pytest.fixture(scope="session")
def validator() -> pathlib.Path:
    return helpers_gltf.node_modules()


def test_the_khronos_validator_reports_no_issue(tmp_path, validator):
    model = builtin()
    texture = picture(64, 64)
    face = frames.to_export_frame(np.asarray(model.mean).T, "model", unit=1e-3), np.asarray(model.triangles)
    for name, (vertices, triangles) in {"sphere": with_loose_vertex(), "face": face}.items():
        uv, _ = texel_of_vertices(len(vertices), texture)
        colours = np.resize(texture.reshape(-1, 3), (len(vertices), 3))
        glb.write_glb(tmp_path / f"{name} plain.glb", vertices, triangles)
        glb.write_glb(tmp_path / f"{name} textured.glb", vertices, triangles, uv=uv, texture=texture)
        glb.write_glb(tmp_path / f"{name} ü.glb", vertices, triangles, colours=colours, comment="metre")
    found = helpers_gltf.issues(validator, sorted(tmp_path.iterdir()))
    assert len(found) == 6
    for path, issues in found.items():
        assert issues["numErrors"] == issues["numWarnings"] == 0, f"{path}: {issues['messages'][:3]}"


def test_the_khronos_validator_reports_an_invalid_normal(tmp_path, validator):
    path = glb.write_glb(tmp_path / "a.glb", *sphere())
    tree, buffer = read_glb(path)
    index = tree["meshes"][0]["primitives"][0]["attributes"]["NORMAL"]
    data = path.read_bytes()
    view = tree["bufferViews"][tree["accessors"][index]["bufferView"]]
    start = len(data) - len(buffer) + view["byteOffset"]
    path.write_bytes(data[:start] + bytes(12) + data[start + 12 :])
    assert helpers_gltf.issues(validator, [path])[str(path)]["numErrors"] > 0
