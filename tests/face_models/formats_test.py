"""Face models of other projects, read from small files in their true formats."""

import json
import pickle
import shutil

import h5py
import helpers_model_files
import numpy as np
import pytest
import scipy.io

from scripts import convert_model
from twodal_jax.face_models import formats, load
from twodal_jax.face_models.load import AssetError, load_morphable_model


@pytest.fixture(scope="module", params=helpers_model_files.WRITERS)
def made(request, tmp_path_factory):
    """(kind, path, units in a metre)."""
    return request.param, *helpers_model_files.WRITERS[request.param](tmp_path_factory.mktemp(request.param))


def test_a_model_has_the_vertices_directions_and_triangles_of_its_file(made):
    kind, path, unit = made
    mean, shape, expression, triangles, _ = helpers_model_files.head()
    model = load_morphable_model(path)
    np.testing.assert_allclose(model.mean.T / unit, mean, atol=1e-6)
    np.testing.assert_allclose(model.basis[:40].transpose(0, 2, 1) / unit, shape[:40], atol=1e-6)
    found = model.basis[40:].transpose(0, 2, 1) / unit
    if kind == "ict":  # principal components of the expressions: their covariance without the smallest ones
        flat, whole = found.reshape(10, -1), expression.reshape(len(expression), -1)
        sizes = np.linalg.svd(whole, compute_uv=False)[:10] / np.sqrt(len(whole))
        np.testing.assert_allclose(np.linalg.norm(flat, axis=1), sizes, rtol=1e-3)
    elif kind == "surrey":
        np.testing.assert_allclose(found[:6], expression[:6], atol=1e-6)
        assert not found[6:].any()
    else:
        np.testing.assert_allclose(found, expression[:10], atol=1e-6)
    assert {frozenset(row) for row in model.triangles.tolist()} == {frozenset(row) for row in triangles.tolist()}


def test_stated_landmarks_are_kept_and_the_others_found_by_alignment(made):
    kind, path, unit = made
    mean, *_, landmarks = helpers_model_files.head()
    found = load_morphable_model(path).landmark_indices
    off = 1000 * np.linalg.norm(mean[found] - mean[landmarks], axis=1)
    assert off.max() < (1e-9 if kind in ("deep3d", "ict") else 6.0), off


def test_landmarks_of_a_file_replace_all(made, tmp_path):
    _, path, _ = made
    (tmp_path / "all.txt").write_text("\n".join(map(str, range(100, 168))))
    np.testing.assert_array_equal(
        load_morphable_model(path, landmarks=tmp_path / "all.txt").landmark_indices, range(100, 168)
    )
    (tmp_path / "wrong.txt").write_text("1 2 3")
    with pytest.raises(AssetError, match="expected 68 vertices"):
        load_morphable_model(path, landmarks=tmp_path / "wrong.txt")


def test_the_command_converts_any_number_of_directions_and_draws_the_landmarks(made, tmp_path):
    kind, path, _ = made
    arguments = [str(path), f"--output={tmp_path}/model.npz", f"--picture={tmp_path}/model.png"]
    convert_model.convert(convert_model.parse([*arguments, "--shape=42", "--expression=12"]))
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        assert file["basis"].shape[0] == 54
    direct, converted = load_morphable_model(path), load_morphable_model(tmp_path / "model.npz")
    for name in ("mean", "basis", "triangles", "landmark_indices"):
        np.testing.assert_array_equal(getattr(direct, name), getattr(converted, name))
    assert (tmp_path / "model.png").stat().st_size > 10_000


def test_a_truncated_or_foreign_file_is_one_message_with_its_name(made, tmp_path):
    kind, path, _ = made
    source = path / "generic_neutral_mesh.obj" if kind == "ict" else path
    folder = tmp_path / "FaceXModel" if kind == "ict" else tmp_path
    folder.mkdir(exist_ok=True)
    broken = folder / source.name
    for content in (source.read_bytes()[: source.stat().st_size // 3], b"", b"v_template, but no model"):
        broken.write_bytes(content)
        with pytest.raises(AssetError) as error:
            load_morphable_model(folder if kind == "ict" else broken)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_pickle_that_names_a_function_is_refused_without_a_call(tmp_path):
    class Forged:
        def __reduce__(self):
            return print, ("called",)

    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps({"v_template": Forged()}, 2))
    with pytest.raises(AssetError, match="print"):
        load_morphable_model(path)


def test_old_and_new_versions_of_eos_are_read(tmp_path):
    for version in (1, 2, 4):
        path, _ = helpers_model_files.write_surrey(tmp_path, version=version)
        assert len(load.read_raw(path).shape) == helpers_model_files.SHAPES
    path.write_bytes(b"\0\0\0\0" + path.read_bytes()[4:])
    with pytest.raises(AssetError, match="version 0"):
        load.read_raw(path)


def test_expressions_inside_a_model_of_eos_are_read_in_both_forms(tmp_path):
    mean, _, expression, *_ = helpers_model_files.head()
    path, unit = helpers_model_files.write_surrey(tmp_path, version=4, embedded="pca")
    raw = load.read_raw(path)
    np.testing.assert_allclose(raw.mean / unit, mean + 1e-3, atol=1e-6)
    np.testing.assert_allclose(raw.expression / unit, expression, atol=1e-6)
    path, _ = helpers_model_files.write_surrey(tmp_path, version=4, embedded="blendshapes")
    np.testing.assert_allclose(load.read_raw(path).expression / unit, expression[:6], atol=1e-6)


@pytest.mark.parametrize(
    "key, value",
    [
        ("metadata/landmarks/json", json.dumps({"a": 1})),
        ("metadata/landmarks/json", json.dumps([{"id": "center.nose.tip"}])),
        ("shape/model/pcaBasis", np.zeros(45)),
        ("shape/model/mean", np.zeros(100)),
    ],
)
def test_an_h5_with_parts_of_another_shape_is_one_message(tmp_path, key, value):
    path, _ = helpers_model_files.write_bfm_h5(tmp_path)
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = value
    with pytest.raises(AssetError, match="model2017") as error:
        load_morphable_model(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "part", [{"meanshape": np.zeros(100)}, {"idBase": np.zeros((100, 80))}, {"keypoints": np.arange(5) + 1.0}]
)
def test_a_mat_with_parts_of_another_shape_is_one_message(tmp_path, part):
    path, _ = helpers_model_files.write_deep3d(tmp_path)
    content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("_")}
    scipy.io.savemat(path, content | part)
    with pytest.raises(AssetError, match="BFM_model_front"):
        load_morphable_model(path)


def test_landmark_mappings_of_eos_are_read(tmp_path):
    (tmp_path / "new.txt").write_text(
        "# 68-point\n[landmark_mappings] # of 2\n 9 = 478 # chin\n#18 = # none\n31 = 81\n"
        "[contour_landmarks]\nright = [ 1,\n 2 ]\n"
    )
    (tmp_path / "old.txt").write_text(
        "; the 68-point\nlandmarkMappings ;\n{\n\t 9   478 ; (3)\n\t31 81\n}\ncontour_landmarks\n{\n1\n}\n"
    )
    for name in ("new.txt", "old.txt"):
        assert formats.read_landmarks(tmp_path / name, np.zeros((0, 3), int)) == {8: 478, 30: 81}


@pytest.mark.parametrize("count", [51, 68])
@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_the_embedding_of_flame_gives_the_vertices_of_most_weight(tmp_path, count, suffix):
    path, _ = helpers_model_files.write_flame(tmp_path)
    *_, triangles, _ = helpers_model_files.head()
    rng = np.random.default_rng(0)
    faces, corner = rng.choice(len(triangles), count, replace=False), rng.integers(3, size=count)
    wanted = triangles[faces, corner]
    weights = np.where(np.arange(3) == corner[:, None], 0.6, 0.2)
    content = {"lmk_face_idx": faces, "lmk_b_coords": weights}
    file = tmp_path / f"embedding{suffix}"
    file.write_bytes(pickle.dumps(content, 2)) if suffix == ".pkl" else np.savez(file, **content)
    found = load_morphable_model(path, landmarks=file).landmark_indices
    np.testing.assert_array_equal(found[68 - count :], wanted)


def test_only_the_listed_expressions_of_ict_facekit_count(tmp_path):
    helpers_model_files.write_ict(tmp_path)
    shutil.copy(tmp_path / "browDown_0.obj", tmp_path / "PupilDilate_L.obj")
    (tmp_path / "mine.obj").write_text("v 0 0 0\n")
    indices = tmp_path / "vertex_indices.json"
    stated = json.loads(indices.read_text()) | {"expressions": [f"browDown_{number}" for number in range(12)]}
    indices.write_text(json.dumps(stated))
    assert len(load.read_raw(tmp_path).expression) == 12


def test_negative_numbers_of_an_obj_count_from_its_last_vertex(tmp_path):
    path = tmp_path / "mesh.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf -4 -3 -2\nf 1 2 4\n")
    np.testing.assert_array_equal(formats.read_obj(path)[1], [[0, 1, 2], [0, 1, 3]])
    path.write_text("v 0 0 0\nv 1 0 0\nf 1 2 3\n")
    with pytest.raises(formats.BrokenFileError, match="does not exist"):
        formats.read_obj(path)
