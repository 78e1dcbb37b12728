"""Colour, blur, occluders and noise: the same in a batch as for single images."""

import jax
import numpy as np
import pytest

from twodal_jax.training import augmentation


@pytest.mark.parametrize("blur, num_blurred", [(0.0, [0]), (0.4, [1, 2, 3, 4, 5]), (1.0, [6])])
def test_random_appearance_is_the_same_in_a_batch_as_for_single_images(blur, num_blurred):
    settings = augmentation.AugmentationSettings(blur=blur, brightness=0.2, noise=0.02, occlusion=0.5)
    keys = jax.random.split(jax.random.key(1), 6)
    images = np.random.default_rng(1).uniform(0, 255, (6, 120, 120, 3)).astype(np.float32)
    single = jax.jit(lambda key, image: augmentation.random_appearance(key, image, settings))
    batch = np.asarray(jax.jit(jax.vmap(single))(keys, images))
    singles = np.stack([single(key, image) for key, image in zip(keys, images)])
    same_image = np.asarray(jax.jit(jax.vmap(single, in_axes=(0, None)))(keys, images[0]))
    np.testing.assert_allclose(batch, singles, atol=1e-3)
    np.testing.assert_allclose(same_image[0], singles[0], atol=1e-3)
    unblurred = jax.jit(jax.vmap(lambda k, i: augmentation.random_appearance(k, i, settings.replace(blur=0.0))))
    blurred = np.abs(np.asarray(unblurred(keys, images)) - batch).max(axis=(1, 2, 3)) > 1
    assert blurred.sum() in num_blurred
