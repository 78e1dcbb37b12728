"""Augmentation: alpha, landmarks and image content move together; appearance moves nothing."""

import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_augmentation import compiled, GEOMETRY, keys, MIRRORED, symmetric

from twodal_jax.geometry import heatmap, projection
from twodal_jax.training import augmentation, batch as training_batch
from twodal_jax.training.augmentation import AugmentationSettings

APPEARANCE = AugmentationSettings(
    brightness=0.2, contrast=0.3, saturation=0.4, grey=0.2, blur=0.5, noise=0.05, occlusion=0.5
)
EVERYTHING = APPEARANCE.replace(
    rotation_degrees=30.0,
    scale=0.2,
    shift_pixels=8.0,
    mirror=0.5,
    landmark_jitter=1.5,
    landmark_dropout=0.1,
    heatmap_dropout=0.3,
)


@pytest.fixture(scope="module")
def model():
    return helpers_model.tiny_model()


def dots_image(points, size):
    """[size, size, 3] float: a Gaussian dot of width 2 at each point (image pixels, x, y)."""
    grid = np.arange(size, dtype=np.float64)
    image = np.zeros((size, size))
    for x, y in points:
        image += 255 * np.exp(-((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2) / 8)
    return np.repeat(image[..., None], 3, axis=-1).astype(np.float32)


def found_dot(image, near):
    """Centre of gravity of what is bright within 9 pixels of `near`."""
    grid = np.arange(120)
    window = (np.abs(grid[None] - near[0]) < 9) & (np.abs(grid[:, None] - near[1]) < 9)
    mass = image.mean(-1) * window
    return np.array([(mass.sum(0) * grid).sum(), (mass.sum(1) * grid).sum()]) / mass.sum()


def inside(point, border=10):
    return border < point[0] < 119 - border and border < point[1] < 119 - border


def test_matrix_is_a_similarity_within_the_settings():
    matrices = np.asarray(jax.vmap(lambda k: augmentation.random_similarity(k, GEOMETRY))(keys(300)), np.float64)
    scale = np.sqrt(np.linalg.det(matrices[:, :, :2]))
    angle = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    gram = np.einsum("nij,nkj->nik", matrices[:, :, :2], matrices[:, :, :2])
    np.testing.assert_allclose(gram, scale[:, None, None] ** 2 * np.eye(2), atol=1e-5)
    assert scale.min() >= 1 / 1.2 - 1e-6 and scale.max() <= 1.2 + 1e-6 and scale.std() > 0.05
    assert np.abs(angle).max() <= 30.001 and np.abs(angle).max() > 25
    centre = matrices @ [59.5, 59.5, 1.0] - 59.5
    assert np.abs(centre).max() <= 8.001 and np.abs(centre).max() > 6


def test_settings_of_zero_change_nothing():
    rng = np.random.default_rng(0)
    alpha, images = helpers_model.random_alpha(rng, 2), helpers_model.smooth_images(rng, 2, 160)
    annotated, _ = compiled(AugmentationSettings())
    image, moved = annotated(keys(2), images, alpha)
    np.testing.assert_allclose(moved, alpha, atol=1e-4)
    np.testing.assert_allclose(image, augmentation.centre_crop(images), atol=0.05)


def test_alpha_projects_where_the_landmarks_of_the_image_went(model):
    """Dots painted on the landmarks of alpha are found where the moved alpha projects them."""
    rng = np.random.default_rng(1)
    alpha = helpers_model.random_alpha(rng, 6)
    checked = 0
    for margin in (0, 20):
        points = np.asarray(projection.landmarks_crop(model, alpha))[:, :, :2]
        chosen = [next(p for p in range(68) if inside(row[p], 20)) for row in points]
        images = np.stack([dots_image([row[c] + margin], 120 + 2 * margin) for row, c in zip(points, chosen)])
        moved_images, moved_alpha = compiled(GEOMETRY)[0](keys(6, margin), images, alpha)
        moved = np.asarray(projection.landmarks_crop(model, moved_alpha))[:, :, :2]
        for image, row, c in zip(np.asarray(moved_images), moved, chosen):
            if inside(row[c]):
                np.testing.assert_allclose(found_dot(image, row[c]), row[c], atol=0.6)
                checked += 1
    assert checked >= 6


@pytest.mark.parametrize("settings", [GEOMETRY, MIRRORED], ids=["moved", "mirrored"])
@pytest.mark.parametrize("margin", [0, 20])
def test_wild_landmarks_stay_on_the_same_image_content(settings, margin):
    rng = np.random.default_rng(2)
    spots = rng.uniform(25, 95, (6, 2))
    landmarks = np.repeat(spots[:, None], 18, axis=1).astype(np.float32)
    images = np.stack([dots_image([spot + margin], 120 + 2 * margin) for spot in spots])
    visible = np.ones((6, 18), np.float32)
    moved_images, moved, _ = compiled(settings)[1](keys(6, 3), images, landmarks, visible)
    checked = 0
    for image, point in zip(np.asarray(moved_images), np.asarray(moved)[:, 0]):
        if inside(point):
            np.testing.assert_allclose(found_dot(image, point), point, atol=0.6)
            checked += 1
    assert checked >= 4


def test_content_of_the_margin_enters_a_shifted_crop():
    image = np.zeros((160, 160, 3), np.uint8)
    image[:, :20] = 200  # left margin only
    matrix = np.array([[1, 0, 10], [0, 1, 0]], np.float32)
    crop = np.asarray(augmentation.warp_image(image, matrix))
    np.testing.assert_array_equal(crop[:, :10], 200)
    np.testing.assert_array_equal(crop[:, 10:], 0)


def test_a_mirrored_annotated_face_keeps_its_landmarks_on_the_image_content():
    """Dots painted on the vertices of alpha are found where the mirrored, moved alpha has a vertex."""
    model = symmetric()
    rng = np.random.default_rng(5)
    alpha = helpers_model.random_alpha(rng, 6)
    vertices = np.asarray(projection.vertices_crop(model, alpha))[:, :, :2]
    chosen = [next(v for v in row if inside(v, 25)) for row in vertices]
    images = np.stack([dots_image([spot + 20], 160) for spot in chosen])
    settings = GEOMETRY.replace(mirror_annotated=1.0)
    moved_images, moved_alpha = compiled(settings)[0](keys(6, 5), images, alpha)
    moved = np.asarray(projection.vertices_crop(model, moved_alpha))[:, :, :2]
    plain = np.asarray(projection.vertices_crop(model, compiled(GEOMETRY)[0](keys(6, 5), images, alpha)[1]))
    assert np.abs(plain[..., :2] - moved).max() > 5  # mirroring did something
    checked = 0
    for image, row in zip(np.asarray(moved_images), moved):
        brightest = np.array(np.unravel_index(image.mean(-1).argmax(), (120, 120)))[::-1]
        if inside(brightest):
            found = found_dot(image, brightest)
            assert np.linalg.norm(row - found, axis=-1).min() < 0.6
            checked += 1
    assert checked >= 4


def test_edges_are_repeated_where_there_is_no_margin():
    image = np.zeros((120, 120, 3), np.uint8)
    image[:, 0] = 77
    crop = np.asarray(augmentation.warp_image(image, np.array([[1, 0, 15], [0, 1, 0]], np.float32)))
    np.testing.assert_array_equal(crop[:, :16], 77)


def test_warp_is_bilinear():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (120, 120, 3)).astype(np.uint8)
    crop = augmentation.warp_image(image, np.array([[1, 0, -0.25], [0, 1, -0.5]], np.float32))
    pixels = image.astype(np.float64)
    across = 0.75 * pixels[:, :-1] + 0.25 * pixels[:, 1:]
    expected = 0.5 * across[:-1] + 0.5 * across[1:]
    np.testing.assert_allclose(crop[:-1, :-1], expected, atol=1e-2)


def test_mirror_alone_reflects_image_and_swaps_left_and_right():
    rng = np.random.default_rng(4)
    images = helpers_model.smooth_images(rng, 2)
    landmarks = rng.uniform(0, 119, (2, 18, 2)).astype(np.float32)
    visible = (rng.uniform(size=(2, 18)) > 0.3).astype(np.float32)
    _, wild = compiled(AugmentationSettings(mirror=1.0))
    image, moved, moved_visible = wild(keys(2), images, landmarks, visible)
    np.testing.assert_allclose(image, images[:, :, ::-1], atol=0.05)
    expected = landmarks[:, heatmap.MIRROR_18] * [-1, 1] + [119, 0]
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    np.testing.assert_array_equal(moved_visible, visible[:, heatmap.MIRROR_18])


def test_mirror_keeps_left_eyes_left_of_right_ones():
    names = heatmap.LANDMARK_NAMES
    landmarks = np.full((1, 18, 2), 60.0, np.float32)
    for place, name in enumerate(names):
        landmarks[0, place, 0] += -20 if "left" in name else 20 if "right" in name else 0
    for settings in (AugmentationSettings(), AugmentationSettings(mirror=1.0)):
        images, visible = np.zeros((1, 120, 120, 3), np.uint8), np.ones((1, 18), np.float32)
        moved = np.asarray(compiled(settings)[1](keys(1), images, landmarks, visible)[1])[0]
        assert moved[names.index("left eye centre"), 0] < moved[names.index("right eye centre"), 0]
        assert moved[names.index("mouth left"), 0] < moved[names.index("mouth right"), 0]


def test_mirror_strikes_as_often_as_asked():
    count = 400
    landmarks = np.zeros((count, 18, 2), np.float32)
    images, visible = np.zeros((count, 120, 120, 3), np.uint8), np.ones((count, 18), np.float32)
    _, wild = compiled(AugmentationSettings(mirror=0.25))
    share = (np.asarray(wild(keys(count), images, landmarks, visible)[1])[:, 0, 0] > 60).mean()
    assert 0.17 < share < 0.33


def test_appearance_leaves_alpha_and_landmarks_and_keeps_the_range():
    rng = np.random.default_rng(5)
    alpha, images = helpers_model.random_alpha(rng, 8), helpers_model.smooth_images(rng, 8)
    landmarks, visible = rng.uniform(0, 119, (8, 18, 2)).astype(np.float32), np.ones((8, 18))
    annotated, wild = compiled(APPEARANCE)
    image, moved_alpha = annotated(keys(8), images, alpha)
    np.testing.assert_allclose(moved_alpha, alpha, atol=1e-4)
    assert image.shape == (8, 120, 120, 3) and image.dtype == jnp.float32
    assert image.min() >= 0 and image.max() <= 255
    assert np.abs(np.asarray(image) - images).mean() > 5
    _, moved, moved_visible = wild(keys(8), images, landmarks, visible)
    np.testing.assert_allclose(moved, landmarks, atol=1e-4)
    np.testing.assert_array_equal(moved_visible, visible)


def test_the_same_key_gives_the_same_face():
    rng = np.random.default_rng(6)
    alpha, images = helpers_model.random_alpha(rng, 2), helpers_model.smooth_images(rng, 2)
    annotated, _ = compiled(EVERYTHING)
    once, again = annotated(keys(2, 7), images, alpha), annotated(keys(2, 7), images, alpha)
    helpers_model.assert_identical(once, again)
    assert not helpers_model.identical(once, annotated(keys(2, 8), images, alpha))


def test_a_face_depends_neither_on_its_neighbours_nor_on_the_batch():
    rng = np.random.default_rng(7)
    alpha, images = helpers_model.random_alpha(rng, 4), helpers_model.smooth_images(rng, 4)
    positions = np.stack([np.zeros(4), np.arange(40, 44)], axis=1).astype(np.uint32)
    drawn = augmentation.sample_keys(3, 0, positions)
    annotated, _ = compiled(EVERYTHING)
    together = annotated(drawn, images, alpha)
    order = [2, 0, 3, 1]
    shuffled = annotated(drawn[jnp.array(order)], images[order], alpha[order])
    alone = annotated(drawn[2:3], images[2:3], alpha[2:3])
    for whole, part, single in zip(together, shuffled, alone):
        np.testing.assert_array_equal(np.asarray(part), np.asarray(whole)[order])
        np.testing.assert_allclose(single[0], whole[2], atol=1e-3)


def test_keys_differ_by_position_word_stream_and_seed():
    positions = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.uint32)
    drawn = [
        jax.random.key_data(augmentation.sample_keys(seed, stream, positions)) for seed in (0, 1) for stream in (0, 1)
    ]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 16


def test_detector_noise_off_changes_nothing_and_dropout_empties_the_heatmap():
    rng = np.random.default_rng(8)
    landmarks = rng.uniform(0, 119, (18, 2)).astype(np.float32)
    visible = np.ones(18, np.float32)
    points, seen = augmentation.detector_noise(keys(1)[0], landmarks, visible, AugmentationSettings())
    np.testing.assert_array_equal(points, landmarks)
    np.testing.assert_array_equal(seen, visible)
    empty = AugmentationSettings(heatmap_dropout=1.0)
    points, seen = augmentation.detector_noise(keys(1)[0], landmarks, visible, empty)
    np.testing.assert_array_equal(heatmap.heatmap(points, seen), np.full((120, 120, 1), -1.0))


def test_detector_noise_is_as_strong_and_as_frequent_as_asked():
    settings = AugmentationSettings(landmark_jitter=2.0, landmark_dropout=0.2, heatmap_dropout=0.3)
    landmarks, visible = np.full((18, 2), 60.0, np.float32), np.ones(18, np.float32)
    visible[0] = 0
    points, seen = jax.vmap(lambda k: augmentation.detector_noise(k, landmarks, visible, settings))(keys(2000))
    points, seen = np.asarray(points), np.asarray(seen)
    assert 1.5 < np.linalg.norm(points - landmarks, axis=-1).mean() < 3.5
    np.testing.assert_allclose((~seen.any(axis=1)).mean(), 0.3, atol=0.05)
    np.testing.assert_allclose(seen[seen.any(axis=1)][:, 1:].mean(), 0.8, atol=0.05)
    np.testing.assert_array_equal(seen[:, 0], 0)  # hidden stays hidden


def test_a_margin_is_seen_up_to_what_is_stored_and_no_further():
    images = np.arange(2 * 160 * 160 * 3).reshape(2, 160, 160, 3)
    np.testing.assert_array_equal(augmentation.with_margin(images, 0), images[:, 20:140, 20:140])
    np.testing.assert_array_equal(augmentation.with_margin(images, 5), images[:, 15:145, 15:145])
    for margin in (20, 50):
        np.testing.assert_array_equal(augmentation.with_margin(images, margin), images)
    crops = images[:, :120, :120]
    for margin in (0, 20):
        np.testing.assert_array_equal(augmentation.with_margin(crops, margin), crops)


def test_a_batch_without_margin_is_filled_from_the_crop_alone():
    """What lies in the margin of stored faces, of either set, makes no difference to the network's input."""
    model, rng = helpers_model.tiny_model(), np.random.default_rng(9)
    batch = helpers_model.tiny_batch(model)
    stored = {name: dict(part) for name, part in batch.items()}
    for part in stored.values():
        frame = rng.integers(0, 255, (len(part["image"]), 160, 160, 3)).astype(np.uint8)
        frame[:, 20:140, 20:140] = part["image"]
        part["image"] = frame

    def images(batch, margin):
        spec = helpers_model.tiny_spec(augmentation=GEOMETRY.replace(margin=margin))
        annotated = training_batch.prepare_annotated(batch["annotated"], model, spec).image
        return np.asarray(annotated), np.asarray(training_batch.prepare_wild(batch["wild"], spec).image)

    for without, crops, filled in zip(images(stored, 0), images(batch, 0), images(stored, 20)):
        np.testing.assert_array_equal(without, crops)
        assert not np.array_equal(filled, without)


def test_centre_crop_is_the_middle():
    images = np.arange(2 * 160 * 160 * 3).reshape(2, 160, 160, 3)
    np.testing.assert_array_equal(augmentation.centre_crop(images), images[:, 20:140, 20:140])
    np.testing.assert_array_equal(augmentation.centre_crop(images[:, :120, :120]), images[:, :120, :120])
