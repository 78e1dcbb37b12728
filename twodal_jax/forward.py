"""The walk: image and landmarks -> heatmap -> coefficients -> landmarks. Two verbs, both pure:

    network_input(images, landmarks, visible)   what the regressor sees
    reconstruct(whitened, model)                what its coefficients mean

`forward` does both with the regressor between them; cycle consistency is a second call of it.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from twodal_jax.distributed.platforms import by_platform
from twodal_jax.geometry import coefficients, heatmap, projection
from twodal_jax.geometry.morphable_model import MorphableModel


@flax.struct.dataclass
class HeatmapSettings:
    """How the heatmap is drawn (static).

    Attributes:
      kind: "gaussian", the paper's; "points", the authors' code, whose mouth centre lies between the inner lips.
      sigma: pixels.
      enabled: False leaves the heatmap empty: the paper's variants that see the image only.
    """

    kind: str = flax.struct.field(pytree_node=False, default="gaussian")
    sigma: float = flax.struct.field(pytree_node=False, default=2.0)
    enabled: bool = flax.struct.field(pytree_node=False, default=True)

    @property
    def authors_mouth(self) -> bool:
        """Whether the mouth centre of 68 points is the authors' (`heatmap.landmarks_18_from_68`)."""
        return self.kind == "points"

    def landmarks_18(self, landmarks68: jax.Array) -> jax.Array:
        """[..., 68, 2 or 3] -> [..., 18, 2], those that the heatmap shows; the losses compare the paper's."""
        return heatmap.landmarks_18_from_68(landmarks68[..., :2], authors_mouth=self.authors_mouth)


@flax.struct.dataclass
class Reconstruction:
    """What a forward pass gives.

    Attributes:
      whitened: [B, 62], the network's output.
      alpha: [B, 62], raw coefficients in the crop's frame.
      landmarks: [B, 68, 3], crop pixels, y down, z towards the viewer.
    """

    whitened: jax.Array
    alpha: jax.Array
    landmarks: jax.Array

    @property
    def landmarks_18(self) -> jax.Array:
        """[B, 18, 2], the paper's landmarks, crop pixels, y down."""
        return heatmap.landmarks_18_from_68(self.landmarks[..., :2])


def normalize_image(images: jax.Array) -> jax.Array:
    """BGR in 0..255 -> (x - 127.5) / 128, float32."""
    return (images.astype(jnp.float32) - 127.5) / 128.0


def network_input(images: jax.Array, landmarks: jax.Array, visible: jax.Array, settings: HeatmapSettings) -> jax.Array:
    """images [B, 120, 120, 3] BGR 0..255, landmarks [B, 18, 2], visible [B, 18] -> [B, 120, 120, 4]."""
    pixels = normalize_image(images)
    empty = jnp.full_like(pixels[..., :1], -1.0)  # jax2onnx knows no `full` of any batch size
    if not settings.enabled:
        return jnp.concatenate([pixels, empty], axis=-1)

    def draw():
        return heatmap.heatmap(landmarks, visible, sigma=settings.sigma, kind=settings.kind)

    # Fused into the concatenation the heatmap takes a CPU a third longer; nothing is fused into a condition.
    channel = by_platform(lambda: jax.lax.cond((visible > 0).any(), draw, lambda: empty), draw)
    return jnp.concatenate([pixels, channel], axis=-1)


def reconstruct(whitened: jax.Array, model: MorphableModel) -> Reconstruction:
    """whitened [B, 62] -> Reconstruction."""
    alpha = coefficients.unwhiten(whitened, model.alpha_mean, model.alpha_std)
    return Reconstruction(whitened=whitened, alpha=alpha, landmarks=projection.landmarks_crop(model, alpha))


def forward(
    regressor: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    landmarks: jax.Array,
    visible: jax.Array,
    model: MorphableModel,
    settings: HeatmapSettings,
) -> Reconstruction:
    """One pass. regressor: [B, 120, 120, 4] -> whitened [B, 62]; the rest as in `network_input`."""
    return reconstruct(regressor(network_input(images, landmarks, visible, settings)), model)


def forward_passes(
    regressor: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    landmarks: jax.Array,
    visible: jax.Array,
    model: MorphableModel,
    settings: HeatmapSettings,
    *,
    passes: int = 1,
) -> Reconstruction:
    """`forward`, repeated: each further pass sees the heatmap of the previous one's landmarks.

    The paper's self-mapping used at test time; with no visible landmark, two passes let the network
    supply its own heatmap.
    """
    result = forward(regressor, images, landmarks, visible, model, settings)
    for _ in range(passes - 1):
        seen = jnp.ones_like(visible)
        result = forward(regressor, images, settings.landmarks_18(result.landmarks), seen, model, settings)
    return result
