"""twodal_jax.viewer: the page is self-contained and escapes all text; its arrays decode to those of the face."""

import base64
import hashlib
import html.parser
import importlib.resources
import json
import re
import zlib

import cv2
import numpy as np
import pytest
from helpers_model import random_alpha, tiny_model
from helpers_viewer import grey_photo, head, HOSTILE, image_vertices, textured

from twodal_jax.detection.types import Face, Pose
from twodal_jax.geometry import coefficients, projection
from twodal_jax.viewer import packing, page, viewer_face

WEB = importlib.resources.files("twodal_jax.viewer") / "web"


class Elements(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]


def decode(text, dtype, shape):
    """Decodes a blob as the page does, in Python's integers."""
    data, size = zlib.decompress(base64.b64decode(text)), np.dtype(dtype).itemsize
    count = shape[0] * shape[1]
    values = [sum(data[p * count + i] << (8 * p) for p in range(size)) for i in range(count)]
    for row in range(shape[0]):
        for i in range(row * shape[1] + 1, (row + 1) * shape[1]):
            values[i] = (values[i] + values[i - 1]) % 256**size
    return np.array(values, f"u{size}").view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32"])
def test_packed_integers_of_every_type_are_restored(dtype):
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max, (3, 40), dtype, endpoint=True)
    values[0, :2] = limits.max, limits.min
    np.testing.assert_array_equal(decode(packing.encode(values), dtype, values.shape), values)


def test_quantisation_is_exact_to_half_a_step_and_keeps_zeros():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 500)) * np.repeat([1e5, 1e-3], 3)[:, None]
    values[:, 7] = 0
    for group, centre in ((3, False), (1, True)):
        q, scale, offset = packing.quantise(values, group, centre)
        scale, offset = (np.repeat(x, group)[:, None] for x in (scale, offset))
        assert (np.abs(q * scale + offset - values) <= 0.5001 * scale).all()
        if not centre:
            assert (q[:, 7] == 0).all()
    zeros, scale, _ = packing.quantise(np.zeros((3, 5)), 3)
    assert (zeros == 0).all() and np.isfinite(scale).all()


def test_the_page_loads_nothing_and_its_policy_allows_its_own_scripts_only():
    text = page.viewer_page([head(), textured()], grey_photo(), "photo.jpg")
    elements = Elements(text)
    for tag, name, value in elements.attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith("data:"), (tag, name)
    policy = re.search(r'Policy" content="([^"]*)"', text)[1]
    policy = dict(part.split(" ", 1) for part in policy.split("; "))
    assert policy["default-src"] == "'none'" and policy["img-src"] == "data:"
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert policy["script-src"] == " ".join(f"'sha256-{h}'" for h in hashes) and len(scripts) == 2


def test_hostile_text_is_escaped_everywhere():
    face = head(name=HOSTILE, expression_names=[HOSTILE] * 10, facts={HOSTILE: HOSTILE})
    plain = Elements(page.viewer_page([head(), head()], grey_photo(), "photo.jpg"))
    hostile = Elements(page.viewer_page([face, face], grey_photo(), HOSTILE))
    assert hostile.tags == plain.tags
    assert [a[:2] for a in hostile.attributes] == [a[:2] for a in plain.attributes]


def test_faces_of_one_model_share_triangles_and_directions():
    sizes = [len(page.viewer_page([head()] * n, grey_photo(), "x")) for n in (1, 2)]
    assert sizes[1] - sizes[0] < 8000
    blobs = {}
    first, second = (page._describe(f, blobs) for f in (head(), head(pose_image=np.eye(3, 4))))
    assert first["directions"] == second["directions"] and len(blobs) == 4


def test_a_large_photo_is_reduced_and_keeps_its_coordinates():
    text = page.viewer_page([head()], grey_photo(1000, 4000), "x")
    assert '"photo":{"width":4000,"height":1000}' in text
    data = re.search(r'src="data:image/jpeg;base64,([^"]*)"', text)[1]
    shape = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).shape
    assert shape == (page.MAX_PHOTO_SIDE // 4, page.MAX_PHOTO_SIDE, 3)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("vertices_model", np.zeros((4, 2)), "vertices_model"),
        ("pose_image", np.full((3, 4), np.nan), "pose_image.*finite"),
        ("landmark_indices", np.full(68, 10**6), "landmark_indices.*must lie in"),
        ("colours", np.zeros((2475, 3)), "uint8"),
        ("uv", np.zeros((2475, 2)), "both `uv` and `texture`"),
        ("expression_directions", np.zeros((10, 2475, 3)), "expression_directions"),
    ],
)
def test_an_invalid_field_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        page.viewer_page([head(**{field: value})], grey_photo(), "x")


def test_a_page_that_cannot_be_made_keeps_the_old_one(tmp_path):
    path = tmp_path / "viewer.html"
    assert page.write_viewer(path, [head()], grey_photo(), "x") == path
    old = path.read_bytes()
    assert old.startswith(b"<!doctype html>")
    with pytest.raises(ValueError, match="BGR uint8"):
        page.write_viewer(path, [head()], np.zeros((4, 4, 3)), "x")
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["viewer.html"]


def test_the_bundle_agrees_with_its_sources_and_pinned_versions():
    bundle = (WEB / "three.bundle.js").read_text(encoding="utf-8")
    notice, body = bundle.split("*/\n", 1)
    root = WEB.parent
    wanted = json.loads((root / "package.json").read_text())
    lock_text = (root / "package-lock.json").read_text()
    lock = json.loads(lock_text)["packages"]
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert re.fullmatch(r"[\d.]+", version) and lock[f"node_modules/{name}"]["version"] == version
        assert lock[f"node_modules/{name}"]["integrity"].startswith("sha512-")
    assert "resolved" not in lock_text  # no registry's address
    assert f"three.js {wanted['dependencies']['three']}," in notice, "run twodal_jax/viewer/build.sh"
    entry = (WEB / "three_entry.js").read_text(encoding="utf-8")
    for what, text in (("three_entry.js", entry), ("this comment", body)):
        digest = re.search(rf"{re.escape(what)}: (\w+)", notice)[1]
        assert digest == hashlib.sha256(text.encode()).hexdigest(), f"{what}: run twodal_jax/viewer/build.sh"
    assert "Permission is hereby granted" in notice and "three.js authors" in notice
    assert len(bundle) < 800_000 and "</script" not in bundle.lower()


def reconstructed(model, seed=0, moved=0.0):
    """A reconstructed Face; `moved`: standard deviations added to its fourth expression coefficient."""
    alpha = random_alpha(np.random.default_rng(seed), 1)[0]
    alpha[52 + 3] += moved * model.alpha_std[52 + 3]
    box = np.array([30, 50, 150, 170], np.float32) * 1.7
    vertices = np.asarray(projection.crop_to_image(projection.vertices_crop(model, alpha), box))
    landmarks = vertices[np.asarray(model.landmark_indices)]
    return Face(alpha, box, landmarks, vertices, Pose(-12.4, 3.0, 0.6), 0.875)


def test_a_reconstruction_keeps_its_place_and_its_models_expressions():
    model = tiny_model()
    face = reconstructed(model)
    shown = viewer_face.viewer_face(face, model, name="a", expression_names=["mouth_open"])
    shown.check()
    np.testing.assert_allclose(image_vertices(shown), face.vertices, atol=1e-3)
    again = viewer_face.viewer_face(reconstructed(model, moved=2.0), model)
    np.testing.assert_allclose(
        again.vertices_model, shown.vertices_model + 2 * shown.expression_directions[3].T, atol=1e-5
    )
    pose = np.asarray(coefficients.decompose_pose(coefficients.split(face.alpha)[0]).rotation)
    np.testing.assert_allclose(shown.rotation, pose, atol=1e-4)
    assert shown.facts == {"Yaw": "−12°", "Pitch": "+3°", "Roll": "+1°", "Confidence": "0.88"}
    assert list(shown.expression_names) == ["Mouth open"]


def test_a_reconstruction_of_another_model_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="another face model"):
        viewer_face.viewer_face(reconstructed(tiny_model(seed=5)), model)
    with pytest.raises(ValueError, match="shape"):
        viewer_face.viewer_face(reconstructed(tiny_model(num_vertices=300)), model)
