"""Spatial-softmax head with unsupervised keypoints: maps of a residual network -> keypoint coordinates.

A spatial softmax (Levine et al. 2016, Finn et al. 2016) reduces each score map to its mean position, which moves with
the face by construction. A dense layer on a flattened map has to learn that separately for every cell, and learns it
badly from 1,000 faces.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.models.layers import BatchNorm, Conv

OUTPUT_SCALE = 2.0  # keypoints lie about half a map from its centre; a layer learns best from inputs of order 1


def spatial_softmax(scores: jax.Array) -> jax.Array:
    """Mean position weighted by exp(score): [B, H, W, K] -> [B, 2 K] float32, first every x, then every y.

    Coordinates run from -1 (centre of the first column or row) to 1 (that of the last), y down.
    """
    batch, height, width, count = scores.shape
    share = jax.nn.softmax(scores.reshape(batch, height * width, count).astype(jnp.float32), axis=1)
    ys, xs = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    positions = jnp.asarray(np.stack([xs.ravel(), ys.ravel()]), jnp.float32)
    means = jnp.einsum("an,bnk->bak", positions, share, precision=jax.lax.Precision.HIGHEST)
    return means.reshape(batch, 2 * count)


class SpatialSoftmaxHead(nn.Module):
    """Coordinates of `count` keypoints from maps ordered from fine to coarse, each half as large as the previous one.

    Coarse maps are added to finer ones as in a feature pyramid (Lin et al. 2017), so that each keypoint is located on
    the finest map with the information of all. Returns [B, 2 `count`] float32 in [-`OUTPUT_SCALE`, `OUTPUT_SCALE`].

    Attributes:
      features: width of the pyramid.
      count: number of keypoints.
      axis_name, dtype, folded: as in `Regressor`.
    """

    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    folded: bool = False
    features: int = 48
    count: int = 64

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], *, train: bool) -> jax.Array:
        """Maps [B, H, W, C] -> [B, 2 `count`] float32."""
        merged = None
        for level, x in reversed(list(enumerate(maps, start=1))):
            x = Conv(self.features, 1, 1, self.dtype, self.folded, name=f"conv_level{level}")(x)
            if not self.folded:
                x = BatchNorm(self.axis_name, name=f"norm_level{level}")(x, train=train)
            if merged is not None:
                upsampled = merged.repeat(2, axis=1).repeat(2, axis=2)
                x = x + upsampled[:, : x.shape[1], : x.shape[2]]
            merged = nn.relu(x)
        scores = Conv(self.count, 3, 1, self.dtype, name="conv_scores")(merged)
        return OUTPUT_SCALE * spatial_softmax(scores)
