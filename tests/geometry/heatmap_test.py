"""The heatmap against loops, its hand-written gradient, and the maps between landmark sets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twodal_jax.geometry import heatmap

# iBUG landmark i of a mirrored face is landmark MIRROR_68[i] of the original (0-based).
MIRROR_68 = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)


def random_landmarks(count=2, seed=0, low=-10, high=130):
    return np.random.default_rng(seed).uniform(low, high, (count, 18, 2)).astype(np.float32)


def gaussian_loop(landmarks, visible, sigma, size):
    """One face, pixel by pixel in float64."""
    out = np.full((size, size), -1.0)
    for row in range(size):
        for column in range(size):
            for (x, y), seen in zip(landmarks.astype(np.float64), visible):
                if seen > 0:
                    squared = (column - x) ** 2 + (row - y) ** 2
                    out[row, column] = max(out[row, column], 2 * np.exp(-squared / (2 * sigma**2)) - 1)
    return out


def points_loop(landmarks, visible, size):
    """The authors' code: single pixels, floor, clipped."""
    out = np.full((size, size), -1.0)
    for (x, y), seen in zip(landmarks, visible):
        if seen > 0:
            column, row = (int(min(max(np.floor(v), 0), size - 1)) for v in (x, y))
            out[row, column] = 1.0
    return out


def plain_heatmap(landmarks, visible, sigma, size):
    """The formula for automatic differentiation; all landmarks of `visible` > 0."""
    grid = jnp.arange(size, dtype=jnp.float32)
    squared = (grid[None, None, :] - landmarks[:, 0, None, None]) ** 2 + (
        grid[None, :, None] - landmarks[:, 1, None, None]
    ) ** 2
    values = jnp.where(visible[:, None, None] > 0, jnp.exp(-squared / (2 * sigma**2)), 0.0)
    return 2 * values.max(axis=0) - 1


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_gaussian_equals_a_loop_over_pixels_and_landmarks(sigma):
    size = 40
    landmarks = random_landmarks(low=-5, high=45)
    visible = np.ones((2, 18), np.float32)
    visible[1, ::3] = 0
    found = heatmap.heatmap(landmarks, visible, sigma=sigma, size=size)
    assert found.shape == (2, size, size, 1) and found.dtype == jnp.float32
    expected = [gaussian_loop(x, v, sigma, size) for x, v in zip(landmarks, visible)]
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


def test_points_equal_a_loop_over_landmarks():
    landmarks = random_landmarks()
    visible = np.ones((2, 18), np.float32)
    visible[0, ::2] = 0
    found = heatmap.heatmap(landmarks, visible, kind="points")
    expected = [points_loop(x, v, 120) for x, v in zip(landmarks, visible)]
    np.testing.assert_array_equal(found[..., 0], expected)


def test_default_is_the_papers_sigma_and_size():
    landmarks, visible = random_landmarks(1), np.ones((1, 18), np.float32)
    found = heatmap.heatmap(landmarks, visible)
    np.testing.assert_array_equal(found, heatmap.heatmap(landmarks, visible, sigma=2.0, size=120))


def test_value_is_one_on_a_landmark_and_minus_one_far_away():
    landmarks = np.full((18, 2), 30.0, np.float32)
    landmarks[4] = [70, 20]  # x, y
    found = np.asarray(heatmap.heatmap(landmarks, np.ones(18, np.float32)))[..., 0]
    assert found[20, 70] == 1 and found[30, 30] == 1 and found[100, 100] == -1
    np.testing.assert_allclose(found[22, 70], 2 * np.exp(-0.5) - 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "points"])
def test_without_any_visible_landmark_it_is_empty(kind):
    landmarks = np.full((2, 18, 2), np.nan, np.float32)
    found = heatmap.heatmap(landmarks, np.zeros((2, 18), np.float32), kind=kind)
    np.testing.assert_array_equal(found, np.full((2, 120, 120, 1), -1.0))


@pytest.mark.parametrize("kind", ["gaussian", "points"])
@pytest.mark.parametrize("hidden", [slice(0, 5), slice(0, 18)])
def test_hidden_nan_landmarks_leave_values_and_gradients_finite(kind, hidden):
    landmarks, visible = random_landmarks(1, low=10, high=110)[0], np.ones(18, np.float32)
    landmarks[hidden], visible[hidden] = np.nan, 0
    value, gradient = jax.value_and_grad(lambda x: (heatmap.heatmap(x, visible, kind=kind, size=120) ** 2).sum())(
        jnp.asarray(landmarks)
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[hidden], 0)
    if kind == "gaussian" and hidden.stop == 5:
        assert np.abs(gradient[5:]).max() > 0


def test_gradient_equals_that_of_the_plain_formula():
    size, sigma = 50, 2.0
    rng = np.random.default_rng(3)
    landmarks = jnp.asarray(random_landmarks(1, seed=3, low=0, high=50)[0])
    visible = jnp.asarray((rng.uniform(size=18) > 0.2).astype(np.float32))
    weights = jnp.asarray(rng.normal(size=(size, size)).astype(np.float32))

    def own(x):
        return (weights * heatmap.heatmap(x, visible, sigma=sigma, size=size)[..., 0]).sum()

    def plain(x):
        return (weights * plain_heatmap(x, visible, sigma, size)).sum()

    np.testing.assert_allclose(jax.grad(own)(landmarks), jax.grad(plain)(landmarks), atol=1e-4)


def test_gradient_equals_finite_differences():
    size, sigma, step = 40, 2.0, 1e-4
    landmarks = random_landmarks(1, seed=4, low=3, high=37)[0]
    visible = np.ones(18, np.float32)
    weights = np.random.default_rng(4).normal(size=(size, size))

    def total(x):
        return (weights * heatmap.heatmap(x, visible, sigma=sigma, size=size)[..., 0]).sum()

    gradient = jax.grad(total)(jnp.asarray(landmarks))
    for k, axis in ((0, 0), (7, 1), (17, 0)):
        moved = [landmarks.astype(np.float64) for _ in range(2)]
        moved[0][k, axis] += step
        moved[1][k, axis] -= step
        up, down = ((weights * _gaussian_float64(m, sigma, size)).sum() for m in moved)
        np.testing.assert_allclose(gradient[k, axis], (up - down) / (2 * step), rtol=1e-3, atol=1e-4)


def _gaussian_float64(landmarks, sigma, size):
    grid = np.arange(size)
    squared = (grid[None, None] - landmarks[:, 0, None, None]) ** 2
    squared = squared + (grid[None, :, None] - landmarks[:, 1, None, None]) ** 2
    return 2 * np.exp(-squared.min(axis=0) / (2 * sigma**2)) - 1


def test_coinciding_landmarks_share_the_gradient():
    landmarks = np.full((18, 2), 20.3, np.float32)
    visible = np.zeros(18, np.float32)
    visible[:2] = 1
    weights = jnp.asarray(np.random.default_rng(5).normal(size=(40, 40)).astype(np.float32))

    def total(x, v):
        return (weights * heatmap.heatmap(x, v, size=40)[..., 0]).sum()

    pair = jax.grad(total)(jnp.asarray(landmarks), visible)
    visible[1] = 0
    single = jax.grad(total)(jnp.asarray(landmarks), visible)
    np.testing.assert_allclose(pair[0], pair[1], atol=1e-6)
    np.testing.assert_allclose(pair[0] + pair[1], single[0], atol=1e-5)


def test_jit_vmap_and_any_leading_dimensions_agree():
    landmarks, visible = random_landmarks(4), np.ones((4, 18), np.float32)
    draw = functools.partial(heatmap.heatmap, size=60)
    batch = jax.jit(draw)(landmarks, visible)
    np.testing.assert_allclose(jax.vmap(draw)(landmarks, visible), batch, atol=1e-6)
    shaped = draw(landmarks.reshape(2, 2, 18, 2), visible.reshape(2, 2, 18))
    np.testing.assert_allclose(shaped, batch.reshape(2, 2, 60, 60, 1), atol=1e-6)
    mapped_gradient = jax.vmap(jax.grad(lambda x, v: draw(x, v).sum()))(landmarks, visible)
    whole = jax.grad(lambda x: draw(x, visible).sum())(jnp.asarray(landmarks))
    np.testing.assert_allclose(mapped_gradient, whole, atol=1e-4)


@pytest.mark.parametrize(
    "landmarks, visible, kind, message",
    [
        (np.zeros((17, 2)), np.ones(17), "gaussian", "18, 2"),
        (np.zeros((18, 3)), np.ones(18), "gaussian", "18, 2"),
        (np.zeros((2, 18, 2)), np.ones(18), "gaussian", r"\[..., 18\]"),
        (np.zeros((18, 2)), np.ones(18), "gauss", "gaussian.*points"),
    ],
)
def test_wrong_arguments_are_errors(landmarks, visible, kind, message):
    with pytest.raises(ValueError, match=message):
        heatmap.heatmap(landmarks, visible, kind=kind)


def test_eighteen_of_sixty_eight_are_those_of_the_paper():
    points = np.random.default_rng(6).normal(size=(68, 2))
    single = {0: 17, 1: 19, 2: 21, 3: 22, 4: 24, 5: 26, 6: 36, 8: 39, 9: 42, 11: 45}
    single |= {12: 31, 13: 30, 14: 35, 15: 48, 17: 54}
    pairs = {7: (37, 40), 10: (43, 46), 16: (48, 54)}
    found = heatmap.landmarks_18_from_68(points)
    for place, index in single.items():
        np.testing.assert_allclose(found[place], points[index])
    for place, (a, b) in pairs.items():
        np.testing.assert_allclose(found[place], (points[a] + points[b]) / 2)
    assert len(single) + len(pairs) == 18 == len(heatmap.LANDMARK_NAMES)


def test_the_authors_mouth_centre_is_between_the_inner_lips():
    points = np.random.default_rng(7).normal(size=(3, 68, 3))
    paper = heatmap.landmarks_18_from_68(points)
    authors = np.asarray(heatmap.landmarks_18_from_68(points, authors_mouth=True))
    np.testing.assert_allclose(authors[:, 16], (points[:, 62] + points[:, 66]) / 2)
    rest = np.arange(18) != 16
    np.testing.assert_array_equal(authors[:, rest], paper[:, rest])


def test_eighteen_of_twenty_one_leave_out_ears_and_chin():
    kept = heatmap.landmarks_18_from_21(np.arange(21.0)[:, None].repeat(2, 1))[:, 0]
    np.testing.assert_array_equal(kept, [i for i in range(21) if i not in (12, 16, 20)])
    np.testing.assert_array_equal(heatmap.JAW_OF_21, [12, 16, 20])


def test_jaw_points_follow_the_18_and_agree_with_the_mirror_of_68():
    points = np.random.default_rng(9).normal(size=(2, 68, 3))
    found = np.asarray(heatmap.with_jaw_from_68(points))
    np.testing.assert_allclose(found[:, :18], heatmap.landmarks_18_from_68(points), rtol=1e-5)
    np.testing.assert_allclose(found[:, 18:], points[:, [2, 14, 8]], rtol=1e-6)
    jaw = np.asarray(heatmap.with_jaw_from_68(points[:, MIRROR_68]))[:, 18:]
    np.testing.assert_array_equal(jaw, found[:, heatmap.MIRROR_WITH_JAW][:, 18:])
    np.testing.assert_array_equal(heatmap.MIRROR_WITH_JAW[:18], heatmap.MIRROR_18)


@pytest.mark.parametrize("function", [heatmap.landmarks_18_from_68, heatmap.landmarks_18_from_21])
def test_another_number_of_landmarks_is_an_error(function):
    with pytest.raises(ValueError, match="got"):
        function(np.zeros((20, 2)))


def test_mirroring_eighteen_agrees_with_mirroring_sixty_eight():
    assert sorted(MIRROR_68) == list(range(68))
    points = np.random.default_rng(8).normal(size=(68, 2))
    mirrored = points[MIRROR_68] * [-1, 1]
    found = heatmap.landmarks_18_from_68(mirrored)
    expected = np.asarray(heatmap.landmarks_18_from_68(points))[heatmap.MIRROR_18] * [-1, 1]
    # The paper's eye centres are one diagonal of the lids; a mirror turns it into the other one.
    eye_centres = [heatmap.LANDMARK_NAMES.index(f"{side} eye centre") for side in ("left", "right")]
    others = np.setdiff1d(np.arange(18), eye_centres)
    np.testing.assert_allclose(found[others], expected[others], atol=1e-6)
    assert heatmap.MIRROR_18[eye_centres].tolist() == eye_centres[::-1]


def test_mirroring_swaps_the_names_left_and_right():
    for place, other in enumerate(heatmap.MIRROR_18):
        name = heatmap.LANDMARK_NAMES[place]
        swapped = ("left", "right") if "left" in name else ("right", "left")
        assert heatmap.LANDMARK_NAMES[other] == name.replace(*swapped)


def test_weight_mask_is_that_of_the_authors_code():
    weights = dict(zip(heatmap.LANDMARK_NAMES, heatmap.weight_mask(4, 2, 1)))
    heavy = {"nose tip", "mouth centre"}
    middle = {"left eye centre", "right eye centre", "mouth left", "mouth right"}
    for name, weight in weights.items():
        assert weight == (4 if name in heavy else 2 if name in middle else 1), name
    np.testing.assert_array_equal(heatmap.weight_mask(1, 1, 1), np.ones(18))
    assert heatmap.weight_mask(2, 1, 0).sum() == 2 * 2 + 4
    assert heatmap.weight_mask(4, 2, 1).sum() == 28
