"""Light by spherical harmonics."""

import numpy as np

from twodal_jax.rendering import shading


def test_harmonics_are_the_light_that_matt_surfaces_reflect():
    """Reference: Monte-Carlo sum of clamped cosines of an environment without frequencies above degree 2."""
    rng = np.random.default_rng(0)
    lights = rng.normal(size=(200_000, 3))
    lights /= np.linalg.norm(lights, axis=1, keepdims=True)
    environment = np.stack([1 + 0.6 * lights[:, 1], 0.8 + 0.3 * lights[:, 0] * lights[:, 2], 0 * lights[:, 0] + 0.5], 1)
    share = 4 / len(lights)  # solid angle over pi: a white surface reflects 1 of a uniform environment of 1
    harmonics = shading.harmonics_of(lights, environment * share)
    normals = np.eye(3)
    expected = np.stack([(np.maximum(lights @ n, 0)[:, None] * environment).sum(axis=0) * share for n in normals])
    light = shading.Light(colour=(0, 0, 0), specular=0.0, harmonics=harmonics)
    np.testing.assert_allclose(shading.shade(normals, np.ones((3, 3)), light), expected, rtol=0.02)
