"""Predictions files: every form is read, what is odd is named, nothing is unpickled."""

import numpy as np
import pytest

from twodal_jax.evaluation import predictions
from twodal_jax.evaluation.predictions import PredictionsError, read_predictions


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def names(count):
    return np.array([f"images/face{i}.jpg" for i in range(count)])


@pytest.mark.parametrize(
    "name, key",
    [("image1.jpg", "image1"), ("images/a.b.png", "a.b"), ("AFW\\x_1.mat", "AFW/x_1"), (" x ", "x"),
     ("1.5", "1.5")],
)  # fmt: skip
def test_names_match_with_or_without_folder_and_suffix(name, key):
    assert predictions.image_key(name) == key


def test_landmarks_and_alpha_come_out_point_by_point(tmp_path):
    landmarks = np.arange(3 * 3 * 68, dtype=np.float64).reshape(3, 3, 68)
    path = write(tmp_path / "m.npz", name=names(3), landmarks68=landmarks, alpha=np.ones((3, 62)))
    found = read_predictions(path)
    assert found.label == "m" and found.keys == ("face0", "face1", "face2")
    np.testing.assert_array_equal(found.landmarks68, np.swapaxes(landmarks, 1, 2))
    assert found.alpha.shape == (3, 62) and not found.whitened and found.vertices is None


def test_whitened_coefficients_are_unwhitened_with_the_models(tmp_path):
    path = write(tmp_path / "m.npz", name=names(2), alpha_whitened=np.full((2, 62), 2.0))
    found = read_predictions(path)
    alpha = predictions.unwhitened(found, np.full(62, 1.0, np.float32), np.full(62, 3.0, np.float32))
    np.testing.assert_allclose(alpha, 7.0)


@pytest.mark.parametrize("compressed", [False, True])
def test_vertices_are_read_a_few_rows_at_a_time(tmp_path, compressed):
    vertices = np.random.default_rng(0).standard_normal((7, 3, 50))
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "m.npz", name=names(7), vertices=vertices)
    found = read_predictions(tmp_path / "m.npz").vertices
    blocks = list(found.batches(3))
    assert [start for start, _ in blocks] == [0, 3, 6] and found.shape == (7, 3, 50)
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), vertices.astype(np.float32))


def test_missing_doubled_and_unknown_images_are_named(tmp_path):
    path = write(
        tmp_path / "m.npz", name=np.array(["a.jpg", "b.jpg", "a.jpg", "stranger.jpg"]),
        alpha=np.zeros((4, 62)),
    )  # fmt: skip
    problems = []
    rows = read_predictions(path).rows_of(["a", "b", "c"], problems)
    assert rows.tolist() == [0, 1, -1]
    text = "\n".join(problems)
    assert "1 image (c): no prediction" in text
    assert "1 image (a): predicted more than once" in text
    assert "1 image (stranger): predicted, but not in the benchmark" in text


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"alpha": np.zeros((2, 61))}, r"`alpha` has shape \[2, 61\], expected \[2, 62\]"),
        ({"alpha": np.zeros((3, 62))}, r"`alpha` has shape \[3, 62\]"),
        ({"landmarks68": np.zeros((2, 68, 2))}, r"`landmarks68`.*expected \[2, 2 or 3, 68\]"),
        ({"vertices": np.zeros((2, 2, 10))}, r"`vertices`.*expected \[2, 3, N\]"),
        ({"alpha": np.zeros((2, 62)), "roi_box": np.zeros((2, 3))}, "`roi_box`"),
        ({"alpha": np.full((2, 62), "x")}, "must hold numbers"),
        ({"something": np.zeros(2)}, "needs `name` and one of alpha.*it holds name, something"),
    ],
)
def test_wrong_shapes_and_contents_are_one_message_with_the_file(tmp_path, arrays, message):
    path = write(tmp_path / "m.npz", name=names(2), **arrays)
    with pytest.raises(PredictionsError, match=message) as error:
        read_predictions(path)
    assert str(path) in str(error.value)


def test_missing_broken_and_pickled_files_are_refused(tmp_path):
    with pytest.raises(PredictionsError, match="no such file"):
        read_predictions(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(PredictionsError, match="broken.npz"):
        read_predictions(tmp_path / "broken.npz")
    path = write(tmp_path / "pickled.npz", name=names(2), alpha=np.array([{}, {}], object))
    with pytest.raises(PredictionsError, match="plain arrays"):
        read_predictions(path)


def test_a_file_cut_short_is_an_error_not_a_short_result(tmp_path):
    path = write(tmp_path / "m.npz", name=names(4), vertices=np.zeros((4, 3, 1000)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PredictionsError):
        read_predictions(path)
