"""The forward pass: image and landmarks -> heatmap -> coefficients -> landmarks. Pure.

    network_input(images, landmarks, visible)   image and heatmap, the regressor's input
    reconstruct(whitened, model)                coefficients and landmarks of its output

`forward` is both with the regressor between them. Cycle consistency is a second call of it. Evaluation and
reconstruction call `predict_batch`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from twodal_jax.distributed.platforms import by_platform
from twodal_jax.geometry import coefficients, heatmap, projection
from twodal_jax.geometry.morphable_model import MorphableModel


@flax.struct.dataclass
class HeatmapSettings:
    """Settings of the heatmap (static).

    Attributes:
      kind: "gaussian", the paper's; "points", the authors' code, whose mouth centre lies between the inner lips.
      sigma: pixels.
      enabled: False leaves the heatmap empty, for the paper's variants that see the image only.
    """

    kind: str = flax.struct.field(pytree_node=False, default="gaussian")
    sigma: float = flax.struct.field(pytree_node=False, default=2.0)
    enabled: bool = flax.struct.field(pytree_node=False, default=True)

    @property
    def authors_mouth(self) -> bool:
        """Whether the mouth centre of 68 points is the authors' (`heatmap.landmarks_18_from_68`)."""
        return self.kind == "points"

    def landmarks_18(self, landmarks68: jax.Array) -> jax.Array:
        """[..., 68, 2 or 3] -> [..., 18, 2], the landmarks of the heatmap; the losses compare the paper's."""
        return heatmap.landmarks_18_from_68(landmarks68[..., :2], authors_mouth=self.authors_mouth)


@flax.struct.dataclass
class Reconstruction:
    """Result of a forward pass.

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


def trim_margin(images: jax.Array, margin: int = 0) -> jax.Array:
    """The crop with at most `margin` pixels around it: [..., S, S, 3] -> [..., S', S', 3]; S' = 120 by default."""
    start = max((images.shape[-2] - projection.CROP_SIZE) // 2 - margin, 0)
    return images[..., start : images.shape[-3] - start, start : images.shape[-2] - start, :]


def network_input(images: jax.Array, landmarks: jax.Array, visible: jax.Array, settings: HeatmapSettings) -> jax.Array:
    """Input [B, 120, 120, 4] of the regressor.

    images: [B, 120, 120, 3], BGR 0..255. landmarks: [B, 18, 2], crop pixels, y down. visible: [B, 18].
    """
    pixels = normalize_image(images)
    empty = jnp.full_like(pixels[..., :1], -1.0)  # jax2onnx does not support `full` with a symbolic batch size
    if not settings.enabled:
        return jnp.concatenate([pixels, empty], axis=-1)

    def draw():
        return heatmap.heatmap(landmarks, visible, sigma=settings.sigma, kind=settings.kind)

    # Fused into the concatenation, the heatmap takes a third longer on a CPU; XLA fuses nothing into a conditional.
    channel = by_platform(lambda: jax.lax.cond((visible > 0).any(), draw, lambda: empty), draw)
    return jnp.concatenate([pixels, channel], axis=-1)


def reconstruct(whitened: jax.Array, model: MorphableModel) -> Reconstruction:
    """Reconstruction from whitened coefficients [B, 62]."""
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
    """One pass. regressor: [B, 120, 120, 4] -> whitened [B, 62]; other arguments as in `network_input`."""
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
    """`forward` repeated: each further pass gets the heatmap of the previous pass's landmarks.

    This is the paper's self-mapping at test time. With no visible landmark, two passes let the network supply its own
    heatmap.
    """
    result = forward(regressor, images, landmarks, visible, model, settings)
    for _ in range(passes - 1):
        landmarks = settings.landmarks_18(result.landmarks)
        result = forward(regressor, images, landmarks, jnp.ones_like(visible), model, settings)
    return result


@functools.partial(jax.jit, static_argnames=("network", "settings", "passes", "mirror"))
def predict_batch(
    variables: Mapping[str, Any],
    images: jax.Array,
    landmarks: jax.Array,
    visible: jax.Array,
    model: MorphableModel,
    *,
    network: nn.Module,
    settings: HeatmapSettings,
    passes: int = 1,
    mirror: bool = False,
) -> Reconstruction:
    """`forward_passes` of a trained network, compiled once for each batch size.

    variables: {"params", "batch_stats"} of `network`. images: [B, S, S, 3] uint8 BGR, crops with any margin; other
    arguments as in `network_input`. mirror: average alpha with that of the mirrored crop, at twice the cost; needs
    `model.mirror_map`.
    """
    regressor = functools.partial(network.apply, variables)

    def reconstructed(crops: jax.Array, landmarks: jax.Array, visible: jax.Array) -> Reconstruction:
        return forward_passes(regressor, crops, landmarks, visible, model, settings, passes=passes)

    crops = trim_margin(images).astype(jnp.float32)
    result = reconstructed(crops, landmarks, visible)
    if not mirror:
        return result
    swapped = landmarks[:, heatmap.MIRROR_18] * jnp.array([-1.0, 1.0]) + jnp.array([projection.CROP_SIZE - 1.0, 0.0])
    other = reconstructed(crops[:, :, ::-1], swapped, visible[:, heatmap.MIRROR_18])
    alpha = (result.alpha + projection.mirror_alpha(other.alpha, model.mirror_map)) / 2
    return reconstruct(coefficients.whiten(alpha, model.alpha_mean, model.alpha_std), model)
