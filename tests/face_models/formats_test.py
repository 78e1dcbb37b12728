"""Face models of other projects, read from small files in their true formats."""

import pickle

import helpers_model_files
import numpy as np
import pytest

from scripts import convert_model
from twodal_jax.face_models import load
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
