"""Augmentation settings and compiled functions shared by tests."""

import functools

import helpers_model
import jax

from twodal_jax.geometry import symmetry
from twodal_jax.training import augmentation
from twodal_jax.training.augmentation import AugmentationSettings

GEOMETRY = AugmentationSettings(rotation_degrees=30.0, scale=0.2, shift_pixels=8.0)
MIRRORED = GEOMETRY.replace(mirror=1.0)


@functools.cache
def symmetric():
    """The symmetric tiny model with its mirror map."""
    return symmetry.with_mirror(helpers_model.symmetric_model())


@functools.cache
def compiled(settings):
    """(augment_annotated, augment_wild) over a batch of keys, compiled once for all tests."""
    annotated = jax.vmap(lambda k, i, a: augmentation.augment_annotated(k, i, a, symmetric().mirror_map, settings))
    wild = jax.vmap(lambda k, i, x, v: augmentation.augment_wild(k, i, x, v, settings))
    return jax.jit(annotated), jax.jit(wild)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)
