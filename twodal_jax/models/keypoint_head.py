"""Where things are: a residual network's maps -> coordinates of keypoints nobody names.

A spatial softmax (Levine et al. 2016, Finn et al. 2016) turns each score map into the mean place of what it
marks. Places move with the face by construction; a dense layer on a flattened map has to learn that for
every cell anew, and from 1,000 faces learns it badly.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.models.layers import BatchNorm, Conv

SPREAD = 2.0  # places lie about half a map from its centre; a layer learns best from numbers of order 1


def spatial_softmax(scores: jax.Array) -> jax.Array:
    """Mean place under exp(score): [B, H, W, K] -> [B, 2 K] float32, first every x, then every y.

    Coordinates run from -1 (centre of the first column or row) to 1 (that of the last), y down.
    """
    batch, height, width, count = scores.shape
    share = jax.nn.softmax(scores.reshape(batch, height * width, count).astype(jnp.float32), axis=1)
    ys, xs = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    places = jnp.asarray(np.stack([xs.ravel(), ys.ravel()]), jnp.float32)
    means = jnp.einsum("an,bnk->bak", places, share, precision=jax.lax.Precision.HIGHEST)
    return means.reshape(batch, 2 * count)


class SpatialSoftmaxHead(nn.Module):
    """Maps from fine to coarse, each half as large as the one before -> coordinates of `count` keypoints.

    The coarse maps are added to the finer ones as in a feature pyramid (Lin et al. 2017), so that a keypoint
    is placed on the finest map by what all of them see. Out come [B, 2 `count`] float32, -`SPREAD` to `SPREAD`.

    Attributes:
      features: of the pyramid. count: of keypoints. Others as in `Regressor`.
    """

    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    folded: bool = False
    features: int = 48
    count: int = 64

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], *, train: bool) -> jax.Array:
        merged = None
        for level, x in reversed(list(enumerate(maps, start=1))):
            x = Conv(self.features, 1, 1, self.dtype, self.folded, name=f"conv_level{level}")(x)
            if not self.folded:
                x = BatchNorm(self.axis_name, name=f"norm_level{level}")(x, train=train)
            if merged is not None:
                x = x + _twice_as_large(merged)[:, : x.shape[1], : x.shape[2]]
            merged = nn.relu(x)
        scores = Conv(self.count, 3, 1, self.dtype, name="conv_scores")(merged)
        return SPREAD * spatial_softmax(scores)


def _twice_as_large(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)
