"""The NME and its summaries compared with loops, worked examples and the authors' predictions."""

import os

import jax
import numpy as np
import pytest

from twodal_jax.evaluation import metrics
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry import coefficients, projection

DATA_DIR = os.environ.get("TWODAL_DATA_DIR")


def random_clouds(seed=0, images=5, points=68, dimensions=3):
    rng = np.random.default_rng(seed)
    true = rng.uniform(10, 110, (images, points, dimensions))
    return true + rng.normal(0, 3, true.shape), true


def nme_by_loop(predicted, true, box):
    """The definition, computed point by point."""
    errors = []
    for p, t, b in zip(predicted, true, box):
        if p.shape[1] == 3:
            p, t = p.copy(), t.copy()
            p[:, 2] -= min(p[:, 2])
            t[:, 2] -= min(t[:, 2])
        total = sum(np.sqrt(sum((a - c) ** 2 for a, c in zip(x, y))) for x, y in zip(p, t))
        width, height = max(b[:, 0]) - min(b[:, 0]), max(b[:, 1]) - min(b[:, 1])
        errors.append(100 * total / len(p) / np.sqrt(width * height))
    return np.array(errors)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("points", [68, 18])
def test_nme_equals_its_definition(dimensions, points):
    predicted, true = random_clouds(dimensions=dimensions, points=points)
    _, box = random_clouds(seed=1)
    np.testing.assert_allclose(metrics.nme(predicted, true, box), nme_by_loop(predicted, true, box), rtol=1e-12)


def test_a_shift_of_three_and_four_pixels_in_a_known_box_is_a_known_error():
    true = np.zeros((1, 68, 2))
    true[0, 0], true[0, 1] = (0, 0), (200, 50)  # box 200 x 50, normaliser 100
    np.testing.assert_allclose(metrics.nme(true + [3.0, 4.0], true, true), [5.0])


def test_nme_does_not_depend_on_the_unit_of_length():
    predicted, true = random_clouds()
    np.testing.assert_allclose(metrics.nme(predicted, true, true), metrics.nme(7 * predicted, 7 * true, 7 * true))


def test_nme_in_3d_ignores_a_shift_of_depth_but_not_of_x():
    predicted, true = random_clouds()
    deeper, aside = predicted + [0, 0, 1000.0], predicted + [10.0, 0, 0]
    np.testing.assert_allclose(metrics.nme(deeper, true, true), metrics.nme(predicted, true, true), rtol=1e-9)
    assert np.all(metrics.nme(aside, true, true) > metrics.nme(predicted, true, true))


def test_jax_arrays_inside_jit_agree_with_numpy():
    predicted, true = random_clouds()
    on_device = jax.jit(metrics.nme)(*(np.float32(a) for a in (predicted, true, true)))
    np.testing.assert_allclose(on_device, metrics.nme(predicted, true, true), rtol=1e-4)


def test_only_images_that_cannot_be_measured_are_nan():
    predicted, true = random_clouds(images=4)
    expected = metrics.nme(predicted, true, true)
    predicted[1, 5, 0] = np.nan
    box = true.copy()
    box[3] = 7.0  # no area
    errors = metrics.nme(predicted, true, box)
    assert np.isnan(errors[[1, 3]]).all()
    np.testing.assert_array_equal(errors[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 68, 2), (3, 68, 3), (3, 68, 2)),
        ((3, 68, 2), (1, 68, 2), (3, 68, 2)),
        ((3, 68, 2), (3, 68, 2), (1, 68, 2)),
        ((68, 2), (68, 2), (68, 2)),
        ((3, 68, 4), (3, 68, 4), (3, 68, 4)),
    ],
)
def test_shapes_that_would_broadcast_silently_are_errors(shapes):
    with pytest.raises(ValueError, match=r"\(.*\)"):
        metrics.nme(*(np.ones(shape) for shape in shapes))


def test_yaw_bins_include_their_upper_edge_and_ignore_the_sign():
    bins = metrics.yaw_bin_index([0, -30, 30.001, -60, 60.001, 90, np.nan])
    assert bins.tolist() == [0, 0, 1, 1, 2, 2, -1]
    assert metrics.count_by_bin([0, -30, 31, 89]) == {"0-30": 2, "30-60": 1, "60-90": 1}


def test_the_mean_of_bins_weights_bins_equally_and_the_mean_of_images_images():
    row = metrics.summarize([1, 2, 3, 10, 20], [0, 10, -20, 45, -80])
    assert (row["0-30"], row["30-60"], row["60-90"]) == (2.0, 10.0, 20.0)
    assert row["mean_of_bins"] == pytest.approx(32 / 3)
    assert row["mean_of_images"] == pytest.approx(36 / 5)
    assert (row["count"], row["excluded"]) == (5, 0)


def test_an_empty_bin_is_none_and_left_out_of_the_mean_of_bins():
    row = metrics.summarize([1.0, 3.0], [0.0, 80.0])
    assert row["30-60"] is None and row["mean_of_bins"] == 2.0
    nothing = metrics.summarize([], [])
    assert nothing["mean_of_bins"] is None and nothing["mean_of_images"] is None


def test_unmeasured_images_are_excluded_and_counted():
    row = metrics.summarize([1.0, np.nan, 3.0, np.inf], [0.0, 0.0, 0.0, 80.0])
    assert row["mean_of_images"] == 2.0 and row["60-90"] is None
    assert (row["count"], row["excluded"]) == (2, 2)


def test_an_image_of_unknown_yaw_is_in_the_mean_of_images_but_in_no_bin():
    row = metrics.summarize([1.0, 5.0], [0.0, np.nan])
    assert row["mean_of_images"] == 3.0 and row["mean_of_bins"] == 1.0 and row["count"] == 2


def test_the_twenty_worst_are_dropped():
    errors = np.concatenate([np.full(80, 2.0), np.full(20, 50.0)])
    shuffled = np.random.default_rng(0).permutation(errors)
    assert metrics.summarize(shuffled, np.zeros(100))["mean_without_20_worst"] == 2.0
    assert metrics.summarize(shuffled[:20], np.zeros(20))["mean_without_20_worst"] is None


def test_the_cumulative_distribution_ends_below_100_when_images_failed():
    errors, share = metrics.cumulative_error([3.0, 1.0, np.nan, 2.0])
    assert errors.tolist() == [1.0, 2.0, 3.0] and share.tolist() == [25.0, 50.0, 75.0]


def test_examples_run_from_the_best_over_the_median_to_the_worst():
    errors = np.array([5.0, np.nan, 1.0, 9.0, np.inf, 3.0, 7.0])
    assert errors[metrics.best_to_worst(errors, 3)].tolist() == [1.0, 5.0, 9.0]
    assert errors[metrics.best_to_worst(errors, 99)].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert metrics.best_to_worst([np.nan], 3).tolist() == []


@pytest.mark.skipif(not DATA_DIR, reason="TWODAL_DATA_DIR is not set")
@pytest.mark.parametrize(
    "truth, dimensions, expected",
    [
        ("pts68", 2, (2.658, 3.478, 4.835, 3.657, 3.144)),
        ("pts68_reannotated", 2, (2.422, 2.729, 4.091, 3.081, 2.733)),
        ("pts68", 3, (4.565, 5.658, 7.786, 6.003, 5.261)),
    ],
)
def test_the_authors_coefficients_have_their_known_errors(truth, dimensions, expected):
    model = load_morphable_model(os.path.join(DATA_DIR, "bfm_3ddfa"))
    folder = os.path.join(DATA_DIR, "aflw2000")
    with np.load(os.path.join(folder, "annotations.npz")) as annotations:
        columns = {name: annotations[name] for name in annotations.files}
    with np.load(os.path.join(folder, "authors_alpha.npz")) as predictions:
        names, whitened = predictions["name"], predictions["alpha_whitened"]
    row_of = {name: row for row, name in enumerate(columns["name"])}
    rows = np.array([row_of[name] for name in names])

    alpha = coefficients.unwhiten(whitened, model.alpha_mean, model.alpha_std)
    landmarks_crop = np.asarray(projection.landmarks_crop(model, alpha))
    # 3DDFA's own formula; its pixels count from 1 like those of the truth here; z is scaled by the mean scale.
    corner, scale = columns["roi_box"][rows, :2], np.ptp(columns["roi_box"][rows].reshape(-1, 2, 2), axis=1) / 120
    flat = landmarks_crop[..., :2] * scale[:, None] + corner[:, None]
    deep = landmarks_crop[..., 2:] * scale.mean(axis=1)[:, None, None]
    predicted = np.concatenate([flat, deep], axis=-1)[..., :dimensions]
    true = np.swapaxes(columns[truth][rows], 1, 2)
    errors = metrics.nme(predicted, true[..., :dimensions], true)
    row = metrics.summarize(errors, columns["yaw_deg"][rows])
    measured = [row[name] for name in (*metrics.YAW_BINS, "mean_of_bins", "mean_of_images")]
    assert row["count"] == 1197
    assert np.round(measured, 3).tolist() == list(expected)
