"""Morphable model files of all formats give the same model; errors name the bad file."""

import os
import pathlib
import pickle

import numpy as np
import pytest
import scipy.io

from tests.helpers_face_files import tiny_model
from twodal_jax.face_models.load import AssetError, load_morphable_model, orient_outward, save_morphable_model
from twodal_jax.geometry import morphable_model

needs_data = pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")
RANDOM = np.random.default_rng(0)
WHITENING = {
    "param_mean": RANDOM.normal(size=62).astype(np.float32),
    "param_std": RANDOM.uniform(1, 2, 62).astype(np.float32),
}


def dome():
    """Mean [3, N] and triangles [T, 3], counter-clockwise seen from +z, of a domed grid."""
    x, y = np.meshgrid(np.linspace(-1, 1, 12), np.linspace(-1, 1, 11))
    mean = 5e4 * np.stack([x, y, 1.5 - x**2 - y**2]).reshape(3, -1)
    index = np.arange(132).reshape(11, 12)
    a, b, c, d = (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1])
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return mean.astype(np.float32), triangles


def model(whitening=True):
    mean, triangles = dome()
    basis = np.random.default_rng(1).normal(size=(50, 3, 132)).astype(np.float32)
    pair = (WHITENING["param_mean"], WHITENING["param_std"]) if whitening else (None, None)
    return morphable_model.create(mean, basis, triangles, np.arange(68) + 20, *pair)


def interleaved(planes):
    """Array [K, 3, N] -> [3N, K], xyz interleaved."""
    return np.ascontiguousarray(planes.transpose(2, 1, 0).reshape(-1, len(planes)))


def keypoints(source):
    return (3 * source.landmark_indices[:, None] + np.arange(3)).ravel().astype(np.int64)


def write_3ddfa(folder, source, flip=False):
    folder.mkdir(parents=True, exist_ok=True)
    mean = interleaved(source.mean[None])
    np.save(folder / "u_shp.npy", mean - 7)
    np.save(folder / "u_exp.npy", np.full_like(mean, 7))
    np.save(folder / "w_shp_sim.npy", interleaved(source.basis[:40]))
    np.save(folder / "w_exp_sim.npy", interleaved(source.basis[40:]))
    np.save(folder / "keypoints_sim.npy", keypoints(source))
    triangles = source.triangles[:, ::-1] if flip else source.triangles
    scipy.io.savemat(folder / "tri.mat", {"tri": (triangles.T + 1).astype(np.uint16)})
    (folder / "param_whitening.pkl").write_bytes(pickle.dumps(WHITENING, 2))
    return folder


def write_v2(folder, source):
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "u": interleaved(source.mean[None]),
        "w_shp": interleaved(source.basis[:40]),
        "w_exp": interleaved(source.basis[40:]),
        "keypoints": keypoints(source),
        "tri": np.ascontiguousarray(source.triangles.T),
        "u_tex": np.zeros((9, 1)),
    }
    (folder / "bfm_noneck_v3.pkl").write_bytes(pickle.dumps(content, 3))
    (folder / "param_mean_std_62d_120x120.pkl").write_bytes(
        pickle.dumps({"mean": WHITENING["param_mean"], "std": WHITENING["param_std"]}, 3)
    )
    return folder / "bfm_noneck_v3.pkl"


def write_bfm_mat(folder, source):
    folder.mkdir(parents=True, exist_ok=True)
    mean = interleaved(source.mean[None])
    pad = np.random.default_rng(2).normal(size=(mean.size, 9))
    scipy.io.savemat(
        folder / "Model_Shape.mat",
        {
            "mu_shape": mean - 3,
            "w": np.hstack([interleaved(source.basis[:40]), pad]),
            "sigma": np.ones((49, 1)),
            "tri": source.triangles.T + 1.0,
            "keypoints": source.landmark_indices[None] + 1.0,
        },
    )
    scipy.io.savemat(
        folder / "Model_Expression.mat",
        {
            "mu_exp": np.full_like(mean, 3),
            "w_exp": np.hstack([interleaved(source.basis[40:]), pad]),
            "sigma_exp": np.ones((19, 1)),
        },
    )
    return folder


def assert_same_model(found, expected, atol=0.0):
    for name in ("mean", "basis"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=atol)
    for name in ("landmark_indices", "alpha_mean", "alpha_std"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.has_whitening == expected.has_whitening
    assert _cycles(found.triangles) == _cycles(expected.triangles)


def _cycles(triangles):
    """Set of triangles, independent of their first corner but not of their winding."""
    start = np.argmin(triangles, axis=1)
    rows = np.arange(len(triangles))
    return set(zip(*(triangles[rows, (start + k) % 3].tolist() for k in range(3))))


@pytest.mark.parametrize("flip", [False, True])
def test_3ddfa_folders_are_read_and_oriented_outward(tmp_path, flip):
    found = load_morphable_model(write_3ddfa(tmp_path / "configs", model(), flip))
    assert_same_model(found, model(), atol=0.01)
    assert found.mean.dtype == np.float32 and found.triangles.dtype == np.int32


def test_3ddfa_v2_pickles_are_read(tmp_path):
    path = write_v2(tmp_path, model())
    assert_same_model(load_morphable_model(path), model())
    (tmp_path / "tri.pkl").write_bytes(pickle.dumps(model().triangles[:50].T, 2))
    assert len(load_morphable_model(path).triangles) == 50


def test_bfm_mat_files_are_read_without_whitening(tmp_path):
    found = load_morphable_model(write_bfm_mat(tmp_path, model()))
    assert_same_model(found, model(whitening=False), atol=0.01)
    assert not found.has_whitening


@pytest.mark.parametrize("whitening", [False, True])
def test_a_saved_model_is_read_back_unchanged(tmp_path, whitening):
    path = tmp_path / "deep" / "model.npz"
    save_morphable_model(path, model(whitening))
    assert_same_model(load_morphable_model(path), model(whitening))
    assert [entry.name for entry in path.parent.iterdir()] == ["model.npz"]


def test_a_whitening_file_replaces_that_of_the_model(tmp_path):
    folder = write_3ddfa(tmp_path / "configs", model())
    np.savez(tmp_path / "w.npz", alpha_mean=np.ones(62), alpha_std=np.full(62, 2.0))
    found = load_morphable_model(folder, whitening=tmp_path / "w.npz")
    np.testing.assert_array_equal(found.alpha_std, np.full(62, 2.0))
    (folder / "param_whitening.pkl").unlink()
    assert not load_morphable_model(folder).has_whitening
    other = tmp_path / "other.pkl"
    other.write_bytes(pickle.dumps(WHITENING))
    np.testing.assert_array_equal(load_morphable_model(folder, whitening=other).alpha_mean, WHITENING["param_mean"])


def test_the_built_in_face_is_read_by_its_name():
    found = load_morphable_model("builtin")
    assert found.has_whitening and found.num_vertices > 10_000
    np.testing.assert_array_equal(orient_outward(np.asarray(found.mean), np.asarray(found.triangles)), found.triangles)


class RunsCommand:
    def __reduce__(self):
        return os.system, ("touch {}".format(os.devnull),)


def _whitening(content):
    return lambda f: (f / "param_whitening.pkl").write_bytes(
        content if isinstance(content, bytes) else pickle.dumps(content)
    )


@pytest.mark.parametrize(
    "damage, message",
    [
        (_whitening({"param_mean": RunsCommand()}), "param_whitening.pkl: contains posix.system"),
        (_whitening({"mu": 1}), "param_whitening.pkl: contains mu; expected `param_mean`"),
        (_whitening([1]), "param_whitening.pkl: contains a list"),
        (_whitening({"param_mean": np.ones(60), "param_std": np.ones(60)}), "param_whitening.pkl: .*62"),
        (_whitening({"param_mean": np.ones(62), "param_std": np.zeros(62)}), "positive"),
        (_whitening({"param_mean": "a", "param_std": "b"}), "param_whitening.pkl: "),
        (_whitening(b""), "param_whitening.pkl: the pickle ends early"),
        (lambda f: (f / "tri.mat").unlink(), "tri.mat: missing; .*visualize/tri.mat"),
        (lambda f: (f / "tri.mat").write_bytes(b"x"), "tri.mat: not a readable"),
        (lambda f: scipy.io.savemat(f / "tri.mat", {"faces": 1}), "tri.mat: lacks tri; it contains faces"),
        (lambda f: scipy.io.savemat(f / "tri.mat", {"tri": np.full((3, 4), 999)}), "vertices 999 to 999"),
        (lambda f: scipy.io.savemat(f / "tri.mat", {"tri": np.ones((4, 5))}), "expected 3 x T"),
        (lambda f: (f / "w_exp_sim.npy").unlink(), "w_exp_sim.npy: missing"),
        (lambda f: np.save(f / "w_exp_sim.npy", np.zeros((396, 9))), r"w_exp_sim.npy: .*\[3N, 10\]"),
        (lambda f: np.save(f / "w_exp_sim.npy", np.zeros((393, 10))), "differ in the number"),
        (lambda f: np.save(f / "u_shp.npy", np.array([{}])), "u_shp.npy: not a readable"),
        (lambda f: np.save(f / "u_shp.npy", np.full(396, np.nan)), "must be finite"),
        (lambda f: (f / "u_exp.npy").write_bytes(b"\x93NUMPY"), "u_exp.npy: not a readable"),
        (lambda f: np.save(f / "keypoints_sim.npy", np.arange(10)), "landmark_indices"),
    ],
)
def test_errors_name_the_bad_file(tmp_path, damage, message):
    folder = write_3ddfa(tmp_path / "configs", model())
    damage(folder)
    with pytest.raises(AssetError, match=message) as error:
        load_morphable_model(folder)
    assert str(folder) in str(error.value)


def test_errors_name_bad_paths_and_archives(tmp_path):
    for path, message in [
        (tmp_path / "no", "no such morphable model"),
        (tmp_path, "contains neither u_shp.npy"),
        (tmp_path / "a.obj", "unknown kind"),
    ]:
        (tmp_path / "a.obj").write_text("v 0 0 0")
        with pytest.raises(AssetError, match=message):
            load_morphable_model(path)
    path = tmp_path / "m.npz"
    path.write_bytes(b"junk")
    with pytest.raises(AssetError, match="m.npz: not a readable"):
        load_morphable_model(path)
    np.savez(path, mean=np.array([{}]), basis=1, triangles=1, landmark_indices=1)
    with pytest.raises(AssetError, match="m.npz: not a readable"):
        load_morphable_model(path)
    np.savez(path, mean=np.zeros((3, 4)))
    with pytest.raises(AssetError, match="lacks basis, triangles, landmark_indices; it contains mean"):
        load_morphable_model(path)
    save_morphable_model(path, tiny_model())
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **content | {"triangles": np.array([[0, 1, 5000]])})
    with pytest.raises(AssetError, match="m.npz"):
        load_morphable_model(path)
    v2 = tmp_path / "bfm.pkl"
    v2.write_bytes(pickle.dumps({"u": RunsCommand()}))
    with pytest.raises(AssetError, match="bfm.pkl: contains posix.system"):
        load_morphable_model(v2)


@needs_data
def test_the_real_bfm_is_read_with_outward_triangles():
    found = load_morphable_model(pathlib.Path(os.environ["TWODAL_DATA_DIR"]) / "bfm_3ddfa")
    assert found.mean.shape == (3, 53_215) and found.triangles.shape == (105_840, 3)
    assert found.has_whitening and found.alpha_std.min() > 0
    corners = np.asarray(found.mean).T[found.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert normals[:, 2].mean() > 0 and (normals[:, 2] > 0).mean() > 0.75, "all but ears and lips"
    chin, nose = found.landmark_mean[:, 8], found.landmark_mean[:, 30]
    right_eye, left_eye = found.landmark_mean[:, 36], found.landmark_mean[:, 45]
    assert chin[1] < nose[1] < right_eye[1] and nose[2] > right_eye[2]
    assert right_eye[0] < 0 < left_eye[0]
