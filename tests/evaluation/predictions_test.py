"""Prediction files: every form is read, problems are named, nothing is unpickled."""

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
    [("image1.jpg", "image1"), ("images/a.b.png", "a.b"), ("AFW\\x_1.mat", "AFW/x_1"), (" x ", "x"), ("1.5", "1.5")],
)
def test_names_match_with_or_without_folder_and_suffix(name, key):
    assert predictions.image_key(name) == key


def test_landmarks_are_transposed_and_alpha_is_read(tmp_path):
    landmarks = np.arange(3 * 3 * 68, dtype=np.float64).reshape(3, 3, 68)
    path = write(tmp_path / "m.npz", name=names(3), landmarks68=landmarks, alpha=np.ones((3, 62)), pixel_origin=0)
    found = read_predictions(path)
    assert found.label == "m" and found.keys == ("face0", "face1", "face2")
    np.testing.assert_array_equal(found.landmarks68, np.swapaxes(landmarks, 1, 2))
    assert found.alpha.shape == (3, 62) and not found.whitened and found.vertices is None


def test_whitened_coefficients_are_unwhitened_with_the_models_whitening(tmp_path):
    whitened = np.arange(2.0)[:, None] * np.ones(62)
    found = read_predictions(write(tmp_path / "m.npz", name=names(2), alpha_whitened=whitened, pixel_origin=0))
    whitening = np.full(62, 1.0, np.float32), np.full(62, 3.0, np.float32)
    alpha = predictions.crop_alpha(found, np.array([1, 0, 1]), np.zeros((3, 4), np.float32), *whitening)
    np.testing.assert_allclose(alpha, np.array([4.0, 1.0, 4.0])[:, None] * np.ones(62))


@pytest.mark.parametrize("dims", [2, 3])
def test_pixels_count_from_1_by_default_and_are_converted_in_x_and_y(tmp_path, dims):
    rng = np.random.default_rng(1)
    content = {
        "name": names(3),
        "landmarks68": rng.uniform(0, 400, (3, dims, 68)),
        "vertices": rng.uniform(0, 400, (3, 3, 20)),
    }
    from_1, from_0, default = (
        read_predictions(write(tmp_path / "m.npz", **content, **origin))
        for origin in ({"pixel_origin": 1}, {"pixel_origin": np.int64(0)}, {})
    )
    for found in (from_1, default):
        shift = np.array([1.0, 1.0, 0.0])
        np.testing.assert_allclose(from_0.landmarks68 - found.landmarks68, np.tile(shift[:dims], (3, 68, 1)), atol=1e-4)
    ((_, one),), ((_, zero),) = from_1.vertices.batches(3), from_0.vertices.batches(3)
    np.testing.assert_allclose(zero, content["vertices"], rtol=1e-6)
    np.testing.assert_allclose(zero - one, np.tile([[1.0], [1.0], [0.0]], (3, 1, 20)), atol=1e-4)


def test_alpha_of_origin_1_is_converted_from_3ddfas_frame(tmp_path):
    """3DDFA's formula, x = x_crop s + sx in pixels from 1, compared with ours for the converted alpha."""
    rng = np.random.default_rng(2)
    alpha = rng.normal(0, 30, (2, 62)).astype(np.float32)
    roi_box = np.array([[10.25, 20.5, 250.25, 260.5], [-7.0, 3.0, 53.0, 63.0]], np.float32)
    whitening = np.zeros(62, np.float32), np.ones(62, np.float32)
    theirs, ours = (
        predictions.crop_alpha(
            read_predictions(write(tmp_path / "m.npz", name=names(2), alpha=alpha, pixel_origin=origin)),
            np.arange(2),
            roi_box,
            *whitening,
        )
        for origin in (1, 0)
    )
    np.testing.assert_array_equal(ours, alpha)
    scale = (roi_box[:, 2:] - roi_box[:, :2]) / 120
    for axis, place in ((0, 3), (1, 7)):  # t_x, and t_y with y up
        crop = alpha[:, place] if axis == 0 else 121 - alpha[:, place]
        in_image = crop * scale[:, axis] + roi_box[:, axis] - 1
        found = theirs[:, place] if axis == 0 else 121 - theirs[:, place]
        np.testing.assert_allclose((found + 0.5) * scale[:, axis] - 0.5 + roi_box[:, axis], in_image, atol=1e-3)
    others = np.delete(np.arange(62), [3, 7])
    np.testing.assert_array_equal(theirs[:, others], alpha[:, others])


@pytest.mark.parametrize("origin", [2, -1, 0.5, np.nan, "one", [0, 1], None])
def test_an_invalid_origin_is_an_error_that_names_file_and_field(tmp_path, origin):
    value = np.array([{}], object) if origin is None else np.array(origin)
    path = write(tmp_path / "m.npz", name=names(2), alpha=np.zeros((2, 62)), pixel_origin=value)
    message = "plain arrays" if origin is None else "pixel_origin. must be 0 or 1"
    with pytest.raises(PredictionsError, match=message) as error:
        read_predictions(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_vertices_are_read_a_few_rows_at_a_time(tmp_path, compressed):
    vertices = np.random.default_rng(0).standard_normal((7, 3, 50))
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "m.npz", name=names(7), vertices=vertices, pixel_origin=0)
    found = read_predictions(tmp_path / "m.npz").vertices
    blocks = list(found.batches(3))
    assert [start for start, _ in blocks] == [0, 3, 6] and found.shape == (7, 3, 50)
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), vertices.astype(np.float32))


def test_missing_repeated_and_unknown_images_are_named(tmp_path):
    keys = np.array(["a.jpg", "b.jpg", "a.jpg", "other.jpg"])
    path = write(tmp_path / "m.npz", name=keys, alpha=np.zeros((4, 62)))
    problems = []
    rows = read_predictions(path).rows_of(["a", "b", "c"], problems)
    assert rows.tolist() == [0, 1, -1]
    text = "\n".join(problems)
    assert "1 image (c): no prediction" in text
    assert "1 image (a): predicted more than once" in text
    assert "1 image (other): predicted, but not in the test set" in text


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
def test_wrong_shapes_and_dtypes_are_errors_that_name_the_file(tmp_path, arrays, message):
    path = write(tmp_path / "m.npz", name=names(2), **arrays)
    with pytest.raises(PredictionsError, match=message) as error:
        read_predictions(path)
    assert str(path) in str(error.value)


def test_missing_broken_pickled_and_incomplete_files_are_errors(tmp_path):
    with pytest.raises(PredictionsError, match="no such file"):
        read_predictions(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(PredictionsError, match="broken.npz"):
        read_predictions(tmp_path / "broken.npz")
    path = write(tmp_path / "pickled.npz", name=names(2), alpha=np.array([{}, {}], object))
    with pytest.raises(PredictionsError, match="plain arrays"):
        read_predictions(path)
    path = write(tmp_path / "m.npz", name=names(4), vertices=np.zeros((4, 3, 1000)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PredictionsError):
        read_predictions(path)
