"""Encoder (image -> latent code z) and critic (z, whitened alpha) -> logit of Section III-E."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from twodal_jax.models.layers import Conv, max_pool, scaled

ENCODER_FEATURES = (32, 64, 128, 256, 256, 256)  # ours: the paper names six layers, no widths
CRITIC_FEATURES = (512, 1024, 1024)


class Encoder(nn.Module):
    """Six layers of 3x3 convolution, ReLU and 2x2 max-pool: 120 -> 60 -> 30 -> 15 -> 7 -> 3 -> 1 pixel.

    Attributes:
      width: multiplies the features.
      downsample_input: ours, for small machines, at a quarter of the cost: the image is first averaged over 2x2 pixels,
        and maps of odd size are padded before pooling: 60 -> 30 -> 15 -> 8 -> 4 -> 2 -> 1.
    """

    width: float = 1.0
    dtype: jnp.dtype = jnp.float32
    downsample_input: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Latent codes z [B, 256 * width], float32, from images [B, 120, 120, 3], (BGR - 127.5) / 128."""
        x = images.astype(self.dtype)
        if self.downsample_input:
            batch, height, width, channels = x.shape
            x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        for index, features in enumerate(ENCODER_FEATURES):
            x = Conv(scaled(features, self.width), 3, 1, self.dtype, bias=True, name=f"conv{index + 1}")(x)
            x = nn.relu(x)
            if self.downsample_input and x.shape[1] % 2:
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # 0 is the minimum after a ReLU
            x = max_pool(x, window=2, stride=2)
        return x.reshape(x.shape[0], -1).astype(jnp.float32)


class Critic(nn.Module):
    """C of Section III-E: dense layers of 512, 1024, 1024 and 1 features.

    The paper's "softmax" of one number is interpreted as a sigmoid; the module returns its logit.
    """

    width: float = 1.0

    @nn.compact
    def __call__(self, latent: jax.Array, whitened: jax.Array) -> jax.Array:
        """Logits [B] from latent codes [B, Z] and whitened alpha [B, 62]."""
        x = jnp.concatenate([latent, whitened], axis=-1)
        for index, features in enumerate(CRITIC_FEATURES):
            x = nn.relu(nn.Dense(scaled(features, self.width), name=f"dense{index + 1}")(x))
        return nn.Dense(1, name="dense4")(x)[..., 0]


class EncoderCritic(nn.Module):
    """Encoder and critic as one module, because they are trained together by one optimiser."""

    width: float = 1.0
    dtype: jnp.dtype = jnp.float32
    downsample_input: bool = False

    def setup(self):
        """Create both modules."""
        self.encoder = Encoder(self.width, self.dtype, self.downsample_input)
        self.critic = Critic(self.width)

    def __call__(self, images: jax.Array, whitened: jax.Array) -> jax.Array:
        """Logits [B] from images [B, 120, 120, 3] and whitened alpha [B, 62]."""
        return self.critic(self.encode(images), whitened)

    def encode(self, images: jax.Array) -> jax.Array:
        """Latent codes; see `Encoder`."""
        return self.encoder(images)

    def criticize(self, latent: jax.Array, whitened: jax.Array) -> jax.Array:
        """Logits; see `Critic`."""
        return self.critic(latent, whitened)
