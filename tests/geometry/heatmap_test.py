"""The heatmap against loops, its custom gradient, and conversions between landmark sets."""

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
    """Heatmap of one face, pixel by pixel in float64."""
    out = np.full((size, size), -1.0)
    for row in range(size):
        for column in range(size):
            for (x, y), seen in zip(landmarks.astype(np.float64), visible):
                if seen > 0:
                    squared = (column - x) ** 2 + (row - y) ** 2
                    out[row, column] = max(out[row, column], 2 * np.exp(-squared / (2 * sigma**2)) - 1)
    return out


def points_loop(landmarks, visible, size):
    """Heatmap of the authors' code: single pixels, floor, clipped."""
    out = np.full((size, size), -1.0)
    for (x, y), seen in zip(landmarks, visible):
        if seen > 0:
            column, row = (int(min(max(np.floor(v), 0), size - 1)) for v in (x, y))
            out[row, column] = 1.0
    return out


def plain_heatmap(landmarks, visible, sigma, size, xp=jnp):
    """The formula of one face, for automatic differentiation (jnp) or evaluation in float64 (np)."""
    grid = xp.arange(size)
    squared = (grid - landmarks[:, 0, None, None]) ** 2 + (grid[:, None] - landmarks[:, 1, None, None]) ** 2
    values = xp.where(visible[:, None, None] > 0, xp.exp(-squared / (2 * sigma**2)), 0.0)
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
    by_default = heatmap.heatmap(landmarks, visible)
    np.testing.assert_array_equal(by_default, heatmap.heatmap(landmarks, visible, sigma=2.0, size=120))


def test_points_equal_a_loop_over_landmarks():
    landmarks = random_landmarks()
    visible = np.ones((2, 18), np.float32)
    visible[0, ::2] = 0
    found = heatmap.heatmap(landmarks, visible, kind="points")
    expected = [points_loop(x, v, 120) for x, v in zip(landmarks, visible)]
    np.testing.assert_array_equal(found[..., 0], expected)


def test_heatmap_is_one_on_a_landmark_and_minus_one_far_away():
    landmarks = np.full((18, 2), 30.0, np.float32)
    landmarks[4] = [70, 20]  # x, y
    found = np.asarray(heatmap.heatmap(landmarks, np.ones(18, np.float32)))[..., 0]
    assert found[20, 70] == 1 and found[30, 30] == 1 and found[100, 100] == -1
    np.testing.assert_allclose(found[22, 70], 2 * np.exp(-0.5) - 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "points"])
@pytest.mark.parametrize("hidden", [slice(0, 5), slice(0, 18)])
def test_hidden_nan_landmarks_have_no_value_and_no_gradient(kind, hidden):
    landmarks, visible = random_landmarks(1, low=10, high=110)[0], np.ones(18, np.float32)
    landmarks[hidden], visible[hidden] = np.nan, 0
    value, gradient = jax.value_and_grad(lambda x: (heatmap.heatmap(x, visible, kind=kind, size=120) ** 2).sum())(
        jnp.asarray(landmarks)
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[hidden], 0)
    if hidden.stop == 18:
        np.testing.assert_array_equal(heatmap.heatmap(landmarks, visible, kind=kind), -1.0)
    if kind == "gaussian" and hidden.stop == 5:
        assert np.abs(gradient[5:]).max() > 0


def test_gradient_equals_the_plain_formulas_and_finite_differences():
    size, sigma, step = 50, 2.0, 1e-4
    rng = np.random.default_rng(3)
    landmarks = random_landmarks(1, seed=3, low=0, high=50)[0]
    visible = (rng.uniform(size=18) > 0.2).astype(np.float32)
    weights = rng.normal(size=(size, size)).astype(np.float32)

    def own(x):
        return (weights * heatmap.heatmap(x, visible, sigma=sigma, size=size)[..., 0]).sum()

    def plain(x, xp=jnp):
        return (weights * plain_heatmap(x, visible, sigma, size, xp)).sum()

    gradient = jax.grad(own)(jnp.asarray(landmarks))
    np.testing.assert_allclose(gradient, jax.grad(plain)(jnp.asarray(landmarks)), atol=1e-4)
    for k, axis in ((0, 0), (7, 1), (17, 0)):
        up, down = landmarks.astype(np.float64), landmarks.astype(np.float64)
        up[k, axis] += step
        down[k, axis] -= step
        np.testing.assert_allclose(
            gradient[k, axis], (plain(up, np) - plain(down, np)) / (2 * step), rtol=1e-3, atol=1e-4
        )


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
def test_wrong_arguments_raise_an_error(landmarks, visible, kind, message):
    with pytest.raises(ValueError, match=message):
        heatmap.heatmap(landmarks, visible, kind=kind)


def test_landmarks_18_from_68_are_the_papers():
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


def test_authors_mouth_centre_lies_between_the_inner_lips():
    points = np.random.default_rng(7).normal(size=(3, 68, 3))
    paper = heatmap.landmarks_18_from_68(points)
    authors = np.asarray(heatmap.landmarks_18_from_68(points, authors_mouth=True))
    np.testing.assert_allclose(authors[:, 16], (points[:, 62] + points[:, 66]) / 2)
    np.testing.assert_array_equal(np.delete(authors, 16, axis=1), np.delete(paper, 16, axis=1))


def test_landmarks_18_from_21_omit_ears_and_chin():
    kept = heatmap.landmarks_18_from_21(np.arange(21.0)[:, None].repeat(2, 1))[:, 0]
    np.testing.assert_array_equal(kept, [i for i in range(21) if i not in (12, 16, 20)])
    np.testing.assert_array_equal(heatmap.JAW_OF_21, [12, 16, 20])


def test_jaw_points_follow_the_18_and_are_mirrored_like_the_68():
    points = np.random.default_rng(9).normal(size=(2, 68, 3))
    found = np.asarray(heatmap.with_jaw_from_68(points))
    np.testing.assert_allclose(found[:, :18], heatmap.landmarks_18_from_68(points), rtol=1e-5)
    np.testing.assert_allclose(found[:, 18:], points[:, [2, 14, 8]], rtol=1e-6)
    jaw = np.asarray(heatmap.with_jaw_from_68(points[:, MIRROR_68]))[:, 18:]
    np.testing.assert_array_equal(jaw, found[:, heatmap.MIRROR_WITH_JAW][:, 18:])
    np.testing.assert_array_equal(heatmap.MIRROR_WITH_JAW[:18], heatmap.MIRROR_18)


@pytest.mark.parametrize("function", [heatmap.landmarks_18_from_68, heatmap.landmarks_18_from_21])
def test_another_number_of_landmarks_raises_an_error(function):
    with pytest.raises(ValueError, match="got"):
        function(np.zeros((20, 2)))


def test_mirroring_18_landmarks_agrees_with_mirroring_68():
    assert sorted(MIRROR_68) == list(range(68))
    points = np.random.default_rng(8).normal(size=(68, 2))
    mirrored = points[MIRROR_68] * [-1, 1]
    found = heatmap.landmarks_18_from_68(mirrored)
    expected = np.asarray(heatmap.landmarks_18_from_68(points))[heatmap.MIRROR_18] * [-1, 1]
    # The paper's eye centres lie on one diagonal of the lids; a mirror image has the other diagonal.
    eye_centres = [heatmap.LANDMARK_NAMES.index(f"{side} eye centre") for side in ("left", "right")]
    others = np.setdiff1d(np.arange(18), eye_centres)
    np.testing.assert_allclose(found[others], expected[others], atol=1e-6)
    assert heatmap.MIRROR_18[eye_centres].tolist() == eye_centres[::-1]


def test_mirroring_swaps_left_and_right_landmarks():
    for place, other in enumerate(heatmap.MIRROR_18):
        name = heatmap.LANDMARK_NAMES[place]
        swapped = ("left", "right") if "left" in name else ("right", "left")
        assert heatmap.LANDMARK_NAMES[other] == name.replace(*swapped)


def test_weight_mask_equals_the_authors_code():
    weights = dict(zip(heatmap.LANDMARK_NAMES, heatmap.weight_mask(4, 2, 1)))
    high = {"nose tip", "mouth centre"}
    medium = {"left eye centre", "right eye centre", "mouth left", "mouth right"}
    for name, weight in weights.items():
        assert weight == (4 if name in high else 2 if name in medium else 1), name
    np.testing.assert_array_equal(heatmap.weight_mask(1, 1, 1), np.ones(18))
    assert heatmap.weight_mask(2, 1, 0).sum() == 2 * 2 + 4
    assert heatmap.weight_mask(4, 2, 1).sum() == 28
