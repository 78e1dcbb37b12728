"""UV coordinates: unwrapping without folds, the seam behind the head, third-party files."""

import os
import pathlib
import pickle

import numpy as np
import pytest
import scipy.io
from helpers_mesh import ball, sheet

from twodal_jax.face_models import cc0_head
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.rendering import uv

needs_data = pytest.mark.skipif("TWODAL_DATA_DIR" not in os.environ, reason="TWODAL_DATA_DIR is not set")


def signed_areas(flat: uv.UvMap) -> np.ndarray:
    a, b, c = (flat.uv[flat.triangles[:, corner]].astype(np.float64) for corner in range(3))
    (ax, ay), (bx, by) = (b - a).T, (c - a).T
    return 0.5 * (ax * by - ay * bx)


def num_inverted(flat: uv.UvMap) -> int:
    return int((signed_areas(flat) <= 0).sum())


def bent_strip(bulge: float = 0.0):
    """Strip bent by 240 degrees, 2 high; with a bulge its middle overhangs its surroundings."""
    points, triangles = sheet(61, 81)
    angle, y = np.radians(240) * (points[:, 0] - 0.5), 2 * points[:, 1]
    inner = np.exp(-(((points[:, 0] - 0.5) / 0.05) ** 2 + ((points[:, 1] - 0.5) / 0.07) ** 2))
    away = inner * (1 - inner) * 4 * bulge
    angle = angle + away * np.sign(points[:, 0] - 0.5) * 0.5
    radius = 1 + bulge * inner
    return np.stack([radius * np.sin(angle), y, radius * np.cos(angle)]), triangles


def test_a_cylinder_is_unwrapped_without_distortion():
    mean, triangles = bent_strip()
    found = uv.cylinder_uv(mean, triangles)
    expected = sheet(61, 81)[0]
    for axis in (0, 1):
        slope, offset = np.polyfit(expected[:, axis], found[:, axis], 1)
        assert 0.95 < slope <= 1
        np.testing.assert_allclose(slope * expected[:, axis] + offset, found[:, axis], atol=0.02)
    assert num_inverted(uv.split_seam(found, triangles)) == 0


def test_an_overhang_is_unfolded():
    mean, triangles = bent_strip(bulge=0.9)
    x, _, z = mean
    angle = np.arctan2(x, z)
    bare = np.stack([angle / 6, mean[1] / 2], axis=1).astype(np.float32)
    assert num_inverted(uv.UvMap(bare, triangles, np.arange(len(bare)))) > 0
    assert num_inverted(uv.split_seam(uv.cylinder_uv(mean, triangles), triangles)) == 0


def test_coordinates_at_corners_become_a_map_of_the_same_surface():
    head = cc0_head.load()
    triangles = head.model.triangles
    flat = uv.of_corners(head.uv, triangles)
    np.testing.assert_array_equal(flat.vertex[: head.model.num_vertices], np.arange(head.model.num_vertices))
    np.testing.assert_array_equal(flat.vertex[flat.triangles], triangles)
    np.testing.assert_allclose(flat.uv[flat.triangles], head.uv, atol=1e-7)
    assert len(flat.vertex) < 1.05 * head.model.num_vertices  # repeated along seams only
    assert uv.as_map(flat, triangles) is flat


def test_splitting_the_seam_keeps_the_triangles_of_the_surface():
    points, triangles = ball()
    around = 0.5 + np.arctan2(points[:, 0], points[:, 2]) / (2 * np.pi)
    flat = uv.split_seam(np.stack([around, 0.5 + 0.4 * points[:, 1]], axis=1), triangles)
    assert len(flat.vertex) > len(points) and len(flat.uv) == len(flat.vertex)
    np.testing.assert_array_equal(flat.vertex[: len(points)], np.arange(len(points)))
    np.testing.assert_array_equal(flat.vertex[flat.triangles], triangles)
    assert np.ptp(flat.uv[flat.triangles, 0], axis=1).max() < 0.5
    assert flat.uv.min() >= 0 and flat.uv.max() <= 1 and num_inverted(flat) == 0
    again = uv.split_seam(flat.uv, flat.triangles)
    assert len(again.vertex) == len(flat.vertex)


def test_a_mask_has_no_seam():
    points, triangles = sheet(4, 5)
    flat = uv.split_seam(points, triangles)
    np.testing.assert_array_equal(flat.triangles, triangles)
    np.testing.assert_array_equal(flat.vertex, np.arange(20))


@needs_data
def test_bfm_is_unwrapped_without_folds_and_fills_the_square():
    model = load_morphable_model(pathlib.Path(os.environ["TWODAL_DATA_DIR"], "bfm_3ddfa"))
    found = uv.cylinder_uv(np.asarray(model.mean), np.asarray(model.triangles))
    flat = uv.split_seam(found, model.triangles)
    assert num_inverted(flat) == 0 and len(flat.vertex) == model.num_vertices
    np.testing.assert_allclose([found.min(axis=0), found.max(axis=0)], [[0.008] * 2, [0.992] * 2], atol=1e-6)
    assert signed_areas(flat).sum() > 0.7


def test_third_party_files_are_read(tmp_path):
    made = np.random.default_rng(0).uniform(0, 1, (7, 2)).astype(np.float32)
    np.save(tmp_path / "uv.npy", made)
    scipy.io.savemat(tmp_path / "uv.mat", {"UV": made.astype(np.float64)})
    scipy.io.savemat(tmp_path / "turned.mat", {"UV": made.T})
    for name in ("uv.npy", "uv.mat", "turned.mat"):
        read = uv.read_uv(tmp_path / name, 7)
        np.testing.assert_array_equal(read, made)
        assert read.dtype == np.float32
    np.testing.assert_array_equal(uv.read_uv(tmp_path / "uv.npy", 3, np.array([5, 0, 2])), made[[5, 0, 2]])


def test_errors_name_the_file_and_the_reason(tmp_path):
    def refused(name, match, count=4, **options):
        with pytest.raises(ValueError, match=match) as caught:
            uv.read_uv(tmp_path / name, count, **options)
        assert name in str(caught.value)

    good = np.full((4, 2), 0.5)
    np.save(tmp_path / "good.npy", good)
    np.save(tmp_path / "texels.npy", good * 1024)
    np.save(tmp_path / "nan.npy", good * np.nan)
    np.save(tmp_path / "flat.npy", good.ravel())
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    (tmp_path / "broken.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    (tmp_path / "pickled.npy").write_bytes(pickle.dumps(good))
    scipy.io.savemat(tmp_path / "other.mat", {"tri": good})
    refused("good.npy", "of 4 vertices, the morphable model has 5", count=5)
    refused("good.npy", "indices reach to 9", indices=np.array([0, 9]))
    refused("texels.npy", "expected 0 to 1")
    refused("nan.npy", "expected 0 to 1")
    refused("flat.npy", r"expected UV coordinates \[N, 2\]")
    refused("objects.npy", "not a readable .npy")
    refused("pickled.npy", "not a readable .npy")
    refused("broken.mat", "not a readable .mat")
    refused("other.mat", "`UV` in it; it holds tri")
    refused("missing.mat", "no such file")
    refused("uv.txt", r"expected a \.npy file")


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: uv.cylinder_uv(np.zeros((5, 3)), np.zeros((1, 3), int)), "mean"),
        (lambda: uv.split_seam(np.zeros((5, 3)), np.zeros((1, 3), int)), "uv"),
    ],
)
def test_errors_name_the_argument_of_wrong_shape(call, name):
    with pytest.raises(ValueError, match=name):
        call()
