"""Augmentation: geometry, appearance, detector noise and random keys.

`geometry/pixel_convention_test` checks that alpha and landmarks follow the image content.
"""

import cv2
import helpers_model
import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
from helpers_augmentation import compiled, GEOMETRY, keys

from twodal_jax import forward
from twodal_jax.geometry import heatmap
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


def test_both_forms_of_the_warp_give_the_same_image():
    """That of accelerators is lowered only there; here both run on the CPU, on a photo."""
    photo = cv2.resize(skimage.data.astronaut()[:400, 60:460], (160, 160), interpolation=cv2.INTER_AREA)
    matrices = jax.vmap(lambda key: augmentation.random_similarity(key, GEOMETRY))(keys(40))
    mirrored = [augmentation._compose(matrix, augmentation.mirror_matrix()) for matrix in matrices[::2]]
    differences = []
    for matrix in [*matrices, *mirrored]:
        one, other = (form(photo, matrix) for form in (augmentation._warp_by_gathers, augmentation._warp_by_products))
        differences.append(np.abs(np.asarray(one) - other).mean())
    assert max(differences) < 4 and np.mean(differences) < 1
    same = augmentation._warp_by_products(photo, np.eye(2, 3, dtype=np.float32))
    np.testing.assert_array_equal(same, photo[20:140, 20:140])


def test_random_similarity_is_a_similarity_within_the_settings():
    matrices = np.asarray(jax.vmap(lambda k: augmentation.random_similarity(k, GEOMETRY))(keys(300)), np.float64)
    scale = np.sqrt(np.linalg.det(matrices[:, :, :2]))
    angle = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    gram = np.einsum("nij,nkj->nik", matrices[:, :, :2], matrices[:, :, :2])
    np.testing.assert_allclose(gram, scale[:, None, None] ** 2 * np.eye(2), atol=1e-5)
    assert scale.min() >= 1 / 1.2 - 1e-6 and scale.max() <= 1.2 + 1e-6 and scale.std() > 0.05
    assert np.abs(angle).max() <= 30.001 and np.abs(angle).max() > 25
    centre = matrices @ [59.5, 59.5, 1.0] - 59.5
    assert np.abs(centre).max() <= 8.001 and np.abs(centre).max() > 6


def test_zero_settings_change_nothing():
    rng = np.random.default_rng(0)
    alpha, images = helpers_model.random_alpha(rng, 2), helpers_model.smooth_images(rng, 2, 160)
    annotated, _ = compiled(AugmentationSettings())
    image, moved = annotated(keys(2), images, alpha)
    np.testing.assert_allclose(moved, alpha, atol=1e-4)
    np.testing.assert_allclose(image, forward.trim_margin(images), atol=0.05)


def test_a_shifted_crop_is_filled_from_the_margin_or_by_repeated_edges():
    image = np.zeros((160, 160, 3), np.uint8)
    image[:, :20] = 200  # left margin only
    matrix = np.array([[1, 0, 10], [0, 1, 0]], np.float32)
    crop = np.asarray(augmentation.warp_image(image, matrix))
    np.testing.assert_array_equal(crop[:, :10], 200)
    np.testing.assert_array_equal(crop[:, 10:], 0)
    without_margin = np.asarray(augmentation.warp_image(image[20:140, 10:130], matrix))
    np.testing.assert_array_equal(without_margin[:, :20], 200)
    np.testing.assert_array_equal(without_margin[:, 20:], 0)


def test_warp_is_bilinear():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (120, 120, 3)).astype(np.uint8)
    crop = augmentation.warp_image(image, np.array([[1, 0, -0.25], [0, 1, -0.5]], np.float32))
    pixels = image.astype(np.float64)
    across = 0.75 * pixels[:, :-1] + 0.25 * pixels[:, 1:]
    expected = 0.5 * across[:-1] + 0.5 * across[1:]
    np.testing.assert_allclose(crop[:-1, :-1], expected, atol=1e-2)


def test_mirror_reflects_the_image_and_swaps_left_and_right_landmarks():
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


def test_mirror_has_the_probability_of_the_settings():
    count = 400
    landmarks = np.zeros((count, 18, 2), np.float32)
    images, visible = np.zeros((count, 120, 120, 3), np.uint8), np.ones((count, 18), np.float32)
    _, wild = compiled(AugmentationSettings(mirror=0.25))
    share = (np.asarray(wild(keys(count), images, landmarks, visible)[1])[:, 0, 0] > 60).mean()
    assert 0.17 < share < 0.33


def test_appearance_keeps_alpha_landmarks_and_the_value_range():
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


def test_a_face_depends_on_its_key_alone():
    rng = np.random.default_rng(7)
    alpha, images = helpers_model.random_alpha(rng, 4), helpers_model.smooth_images(rng, 4)
    positions = np.stack([np.zeros(4), np.arange(40, 44)], axis=1).astype(np.uint32)
    drawn = augmentation.sample_keys(3, 0, positions)
    annotated, _ = compiled(EVERYTHING)
    batch = annotated(drawn, images, alpha)
    helpers_model.assert_identical(batch, annotated(drawn, images, alpha))
    assert not helpers_model.identical(batch, annotated(keys(4, 8), images, alpha))
    order = np.array([2, 0, 3, 1])
    shuffled = annotated(drawn[order], images[order], alpha[order])
    single = annotated(drawn[2:3], images[2:3], alpha[2:3])
    for whole, permuted, alone in zip(batch, shuffled, single):
        np.testing.assert_array_equal(np.asarray(permuted), np.asarray(whole)[order])
        np.testing.assert_allclose(alone[0], whole[2], atol=1e-3)


def test_keys_differ_by_position_stream_and_seed():
    positions = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.uint32)
    drawn = [
        jax.random.key_data(augmentation.sample_keys(seed, stream, positions)) for seed in (0, 1) for stream in (0, 1)
    ]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 16


def test_zero_detector_noise_changes_nothing_and_heatmap_dropout_empties_the_heatmap():
    rng = np.random.default_rng(8)
    landmarks = rng.uniform(0, 119, (18, 2)).astype(np.float32)
    visible = np.ones(18, np.float32)
    points, seen = augmentation.detector_noise(keys(1)[0], landmarks, visible, AugmentationSettings())
    np.testing.assert_array_equal(points, landmarks)
    np.testing.assert_array_equal(seen, visible)
    empty = AugmentationSettings(heatmap_dropout=1.0)
    points, seen = augmentation.detector_noise(keys(1)[0], landmarks, visible, empty)
    np.testing.assert_array_equal(heatmap.heatmap(points, seen), np.full((120, 120, 1), -1.0))


def test_detector_noise_has_the_strength_and_frequency_of_the_settings():
    settings = AugmentationSettings(landmark_jitter=2.0, landmark_dropout=0.2, heatmap_dropout=0.3)
    landmarks, visible = np.full((18, 2), 60.0, np.float32), np.ones(18, np.float32)
    visible[0] = 0
    points, seen = jax.vmap(lambda k: augmentation.detector_noise(k, landmarks, visible, settings))(keys(2000))
    points, seen = np.asarray(points), np.asarray(seen)
    assert 1.5 < np.linalg.norm(points - landmarks, axis=-1).mean() < 3.5
    np.testing.assert_allclose((~seen.any(axis=1)).mean(), 0.3, atol=0.05)
    np.testing.assert_allclose(seen[seen.any(axis=1)][:, 1:].mean(), 0.8, atol=0.05)
    np.testing.assert_array_equal(seen[:, 0], 0)  # hidden landmarks stay hidden


def test_the_stored_margin_is_used_only_up_to_the_setting():
    model, rng = helpers_model.tiny_model(), np.random.default_rng(9)
    batch = helpers_model.tiny_batch(model)
    stored = {name: dict(part) for name, part in batch.items()}
    for part in stored.values():
        with_margin = rng.integers(0, 255, (len(part["image"]), 160, 160, 3)).astype(np.uint8)
        with_margin[:, 20:140, 20:140] = part["image"]
        part["image"] = with_margin

    def images(batch, margin):
        spec = helpers_model.tiny_spec(augmentation=GEOMETRY.replace(margin=margin))
        annotated = training_batch.prepare_annotated(batch["annotated"], model, spec).image
        return np.asarray(annotated), np.asarray(training_batch.prepare_wild(batch["wild"], spec).image)

    for without, crops, filled in zip(images(stored, 0), images(batch, 0), images(stored, 20)):
        np.testing.assert_array_equal(without, crops)
        assert not np.array_equal(filled, without)
