"""Colour, blur, occluders and noise: drawn for a batch as for its faces one by one."""

import jax
import numpy as np
import pytest

from twodal_jax.training import augmentation


@pytest.mark.parametrize("blur, struck", [(0.0, [0]), (0.4, [1, 2, 3, 4, 5]), (1.0, [6])])
def test_a_batch_looks_as_its_faces_do_one_by_one(blur, struck):
    settings = augmentation.AugmentationSettings(blur=blur, brightness=0.2, noise=0.02, occlusion=0.5)
    drawn = jax.random.split(jax.random.key(1), 6)
    images = np.random.default_rng(1).uniform(0, 255, (6, 120, 120, 3)).astype(np.float32)
    one = jax.jit(lambda key, image: augmentation.random_appearance(key, image, settings))
    together = np.asarray(jax.jit(jax.vmap(one))(drawn, images))
    alone = np.stack([one(key, image) for key, image in zip(drawn, images)])
    same_image = np.asarray(jax.jit(jax.vmap(one, in_axes=(0, None)))(drawn, images[0]))
    np.testing.assert_allclose(together, alone, atol=1e-3)
    np.testing.assert_allclose(same_image[0], alone[0], atol=1e-3)
    plain = jax.jit(jax.vmap(lambda k, i: augmentation.random_appearance(k, i, settings.replace(blur=0.0))))
    changed = np.abs(np.asarray(plain(drawn, images)) - together).max(axis=(1, 2, 3)) > 1
    assert changed.sum() in struck
