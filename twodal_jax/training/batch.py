"""From a batch of arrays to augmented faces for the regressor. Pure; part of the jitted step.

A batch is {"annotated": {...}, "wild": {...}} of arrays with a leading batch axis:
  annotated: image uint8 [A, S, S, 3] BGR, alpha [A, 62] raw, position uint32 [A, 2]
  wild:      image uint8 [W, S, S, 3] BGR, landmarks [W, 18, 2], visible [W, 18], position uint32 [W, 2];
             optionally jaw [W, 3, 2] and jaw_visible [W, 3], the points of `heatmap.JAW_NAMES`
`image_rgb` may replace `image`: the same in RGB, as file decoders return it.
Landmarks and alpha are in the frame of the 120-pixel crop. `position` is the sample's global position in the training
stream as (high, low) words; it determines the sample's augmentation.
"""

import flax.struct
import jax
import jax.numpy as jnp

from twodal_jax import forward
from twodal_jax.geometry import coefficients, heatmap, projection
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.training import augmentation
from twodal_jax.training.state import TrainSpec

ANNOTATED_STREAM, WILD_STREAM = 0, 1
JAW_FIELDS = {"landmarks": "jaw", "visible": "jaw_visible"}  # {field: its continuation with the jaw points}


@flax.struct.dataclass
class AugmentedBatch:
    """Augmented faces. Crop pixels, y down.

    Attributes:
      image: [B, 120, 120, 3] float 0..255, BGR.
      landmarks: [B, P, 2], true (annotated) or given (wild); P is 18, or 21 with jaw points, which come last.
      visible: [B, P].
      heatmap_landmarks, heatmap_visible: [B, 18, 2] and [B, 18], with a detector's noise, for the heatmap. Annotated
        faces have the mouth centre of the heatmap's kind (`forward.HeatmapSettings`).
      critic_key: [B] keys of the noise on the critic's inputs.
      whitened: [B, 62] true whitened coefficients, None for wild faces.
    """

    image: jax.Array
    landmarks: jax.Array
    visible: jax.Array
    heatmap_landmarks: jax.Array
    heatmap_visible: jax.Array
    critic_key: jax.Array
    whitened: jax.Array | None = None


def prepare_annotated(
    batch: dict[str, jax.Array], model: MorphableModel, spec: TrainSpec, seed: jax.Array | int = 0
) -> AugmentedBatch:
    """Augment annotated faces; their 18 landmarks are projected from the transformed alpha."""
    keys = augmentation.sample_keys(seed, ANNOTATED_STREAM, batch["position"])

    def one(key, image, alpha):
        key_face, key_noise, key_critic = jax.random.split(key, 3)
        image, alpha = augmentation.augment_annotated(key_face, image, alpha, model.mirror_map, spec.augmentation)
        points_68 = projection.landmarks_crop(model, alpha)[:, :2]
        points, shown = heatmap.landmarks_18_from_68(points_68), spec.heatmap.landmarks_18(points_68)
        visible = jnp.ones(heatmap.NUM_LANDMARKS)
        noisy = augmentation.detector_noise(key_noise, shown, visible, spec.augmentation)
        whitened = coefficients.whiten(alpha, model.alpha_mean, model.alpha_std)
        return AugmentedBatch(image, points, visible, *noisy, key_critic, whitened)

    return jax.vmap(one)(keys, _images(batch, spec.augmentation), batch["alpha"])


def prepare_wild(batch: dict[str, jax.Array], spec: TrainSpec, seed: jax.Array | int = 0) -> AugmentedBatch:
    """Augment wild faces."""
    landmarks, visible = (
        jnp.concatenate([batch[name], batch[jaw]], axis=1) if jaw in batch else batch[name]
        for name, jaw in JAW_FIELDS.items()
    )
    keys = augmentation.sample_keys(seed, WILD_STREAM, batch["position"])

    def one(key, image, landmarks, visible):
        key_face, key_noise, key_critic = jax.random.split(key, 3)
        landmarks = jnp.where(visible[:, None] > 0, landmarks, 0.0)
        image, landmarks, visible = augmentation.augment_wild(key_face, image, landmarks, visible, spec.augmentation)
        shown = landmarks[: heatmap.NUM_LANDMARKS], visible[: heatmap.NUM_LANDMARKS]
        noisy = augmentation.detector_noise(key_noise, *shown, spec.augmentation)
        return AugmentedBatch(image, landmarks, visible, *noisy, key_critic)

    return jax.vmap(one)(keys, _images(batch, spec.augmentation), landmarks, visible)


def _images(batch: dict[str, jax.Array], settings: augmentation.AugmentationSettings) -> jax.Array:
    """[B, S, S, 3] uint8 BGR, with the stored margin limited to `AugmentationSettings.margin`."""
    images = batch["image"] if "image" in batch else batch["image_rgb"][..., ::-1]
    return forward.trim_margin(images, settings.margin)


def network_inputs(faces: AugmentedBatch, spec: TrainSpec) -> jax.Array:
    """Inputs [B, 120, 120, 4] of the regressor, with the heatmap of the noisy landmarks."""
    points = faces.heatmap_landmarks, faces.heatmap_visible
    return forward.network_input(faces.image, *points, spec.heatmap)
