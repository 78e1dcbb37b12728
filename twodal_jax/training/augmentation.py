"""Augmentation of a batch on the device: a pure function of (seed, sample position, sample).

Pipelines ship uint8 images and landmarks; a face's random numbers come from `sample_keys`, so that they
depend neither on its neighbours nor on the number of devices. Geometry is applied exactly and alike to
image, landmarks and alpha; appearance to the image alone. Pixel frame: the 120-pixel crop, y down. An
image may carry a margin around the crop (size 120 + 2 margin), from which moved crops are filled.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.distributed.platforms import by_platform
from twodal_jax.geometry import heatmap, projection

CROP_SIZE = projection.CROP_SIZE
CENTRE = (CROP_SIZE - 1) / 2.0


@flax.struct.dataclass
class AugmentationSettings:
    """How strong each augmentation is; 0 turns it off. All are choices of ours (none is in the paper).

    Attributes (static):
      rotation_degrees: in-plane rotation, uniform in +- this.
      scale: log-uniform in [1 / (1 + scale), 1 + scale].
      shift_pixels: uniform in +- this, each axis.
      mirror: probability of a mirrored wild face (left and right landmarks are swapped).
      mirror_annotated: the same for annotated faces; needs a symmetric morphable model.
      brightness, contrast, saturation: uniform in +- this (fractions of the full range).
      grey: probability of a grey image.
      blur: probability of a 3x3 or wider binomial blur.
      noise: largest standard deviation of pixel noise (fraction of the range).
      occlusion: probability of each of two occluding patches.
      landmark_jitter: mean size in pixels of the noise on the landmarks that enter the heatmap.
      landmark_dropout: probability that a single landmark is missing in the heatmap.
      heatmap_dropout: probability of an empty heatmap.
      margin: most pixels around the crop that moved crops are filled from. The self-critic compares annotated with
        wild crops, so it must be what both sets have: else repeated edges tell them apart.
    """

    rotation_degrees: float = flax.struct.field(pytree_node=False, default=0.0)
    scale: float = flax.struct.field(pytree_node=False, default=0.0)
    shift_pixels: float = flax.struct.field(pytree_node=False, default=0.0)
    mirror: float = flax.struct.field(pytree_node=False, default=0.0)
    mirror_annotated: float = flax.struct.field(pytree_node=False, default=0.0)
    brightness: float = flax.struct.field(pytree_node=False, default=0.0)
    contrast: float = flax.struct.field(pytree_node=False, default=0.0)
    saturation: float = flax.struct.field(pytree_node=False, default=0.0)
    grey: float = flax.struct.field(pytree_node=False, default=0.0)
    blur: float = flax.struct.field(pytree_node=False, default=0.0)
    noise: float = flax.struct.field(pytree_node=False, default=0.0)
    occlusion: float = flax.struct.field(pytree_node=False, default=0.0)
    landmark_jitter: float = flax.struct.field(pytree_node=False, default=0.0)
    landmark_dropout: float = flax.struct.field(pytree_node=False, default=0.0)
    heatmap_dropout: float = flax.struct.field(pytree_node=False, default=0.0)
    margin: int = flax.struct.field(pytree_node=False, default=20)


def sample_keys(seed: jax.Array | int, stream: int, positions: jax.Array) -> jax.Array:
    """One PRNG key a sample: [B] keys.

    Args:
      seed, stream: of the run, and of the kind of sample.
      positions: [B, 2] uint32, the sample's 64-bit position in the training stream as (high, low) words.
    """
    base = jax.random.fold_in(jax.random.key(seed), stream)
    return jax.vmap(lambda p: jax.random.fold_in(jax.random.fold_in(base, p[0]), p[1]))(positions)


def random_similarity(key: jax.Array, settings: AugmentationSettings) -> jax.Array:
    """[2, 3] similarity of crop pixels (y down): rotation and scale about the crop's centre, shift."""
    key_angle, key_scale, key_shift = jax.random.split(key, 3)
    limit = settings.rotation_degrees * np.pi / 180.0
    angle = jax.random.uniform(key_angle, (), minval=-limit, maxval=limit)
    scale = jnp.exp(jax.random.uniform(key_scale, (), minval=-1.0, maxval=1.0) * np.log1p(settings.scale))
    shift = jax.random.uniform(key_shift, (2,), minval=-1.0, maxval=1.0) * settings.shift_pixels
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    linear = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    centre = jnp.full((2,), CENTRE)
    return jnp.concatenate([linear, (centre + shift - _product(linear, centre))[:, None]], axis=1)


# Pixel positions in full precision: some devices multiply float32 matrices in less.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def mirror_matrix() -> np.ndarray:
    """[2, 3]: x -> 119 - x, the crop's mirror."""
    return np.array([[-1.0, 0.0, CROP_SIZE - 1.0], [0.0, 1.0, 0.0]], np.float32)


def _inverse_2x2(matrix: jax.Array) -> jax.Array:
    """In closed form: `jnp.linalg.inv` calls a solver."""
    (a, b), (c, d) = matrix
    return jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)


def _compose(second: jax.Array, first: jax.Array) -> jax.Array:
    """The affine map `second` after `first`, both [2, 3]."""
    linear = _product(second[:, :2], first[:, :2])
    shift = _product(second[:, :2], first[:, 2]) + second[:, 2]
    return jnp.concatenate([linear, shift[:, None]], axis=1)


def warp_image(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """The crop of `image` after its content is moved by `matrix`, bilinear, edges repeated.

    Args:
      image: [S, S, 3] uint8 or float, the crop with a margin of (S - 120) / 2 pixels.
      matrix: [2, 3], moves points of the crop (y down); must be invertible.

    Returns:
      [120, 120, 3] float32, in the image's range.
    """
    size = image.shape[0]
    margin = (size - CROP_SIZE) / 2.0
    inverse = _inverse_2x2(matrix[:, :2])
    grid = jnp.arange(CROP_SIZE, dtype=jnp.float32)
    target = jnp.stack(jnp.meshgrid(grid, grid, indexing="xy"), axis=-1)
    source = _product(target - matrix[:, 2], inverse.T) + margin
    source = jnp.clip(source, 0.0, size - 1.0)
    corner = jnp.minimum(jnp.floor(source), size - 2.0)
    fraction = source - corner
    x0, y0 = corner[..., 0].astype(jnp.int32), corner[..., 1].astype(jnp.int32)
    flat = image.reshape(-1, image.shape[-1])
    start = y0 * size + x0
    fx, fy = fraction[..., :1], fraction[..., 1:]

    def pixel(offset):
        return flat[start + offset].astype(jnp.float32)

    top = pixel(0) * (1 - fx) + pixel(1) * fx
    bottom = pixel(size) * (1 - fx) + pixel(size + 1) * fx
    return top * (1 - fy) + bottom * fy


def _shifted_sum(image: jax.Array, axis: int) -> jax.Array:
    padded = jnp.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
    size = image.shape[axis]
    left, right = (jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2))
    return 0.25 * left + 0.5 * image + 0.25 * right


def _random_patch(key: jax.Array, probability: float) -> tuple[jax.Array, jax.Array]:
    """Mask [120, 120, 1] and colour [3] of one occluder: a box or an ellipse, 15-60 pixels wide."""
    keys = jax.random.split(key, 5)
    half = jax.random.uniform(keys[0], (2,), minval=7.0, maxval=30.0)
    centre = jax.random.uniform(keys[1], (2,), minval=0.0, maxval=CROP_SIZE)
    grid = jnp.arange(CROP_SIZE, dtype=jnp.float32)
    dx, dy = jnp.abs(grid - centre[0]) / half[0], jnp.abs(grid - centre[1]) / half[1]
    ellipse = dx[None, :] ** 2 + dy[:, None] ** 2 < 1.0
    box = (dx[None, :] < 1.0) & (dy[:, None] < 1.0)
    mask = jnp.where(jax.random.bernoulli(keys[2]), ellipse, box)
    mask = mask & jax.random.bernoulli(keys[3], probability)
    return mask[..., None], jax.random.uniform(keys[4], (3,), maxval=255.0)


@jax.custom_batching.custom_vmap
def random_appearance(key: jax.Array, image: jax.Array, settings: AugmentationSettings) -> jax.Array:
    """Colour, blur, occluders and noise on a crop [120, 120, 3], float in 0..255 (BGR)."""
    return _appearance(key, image, settings, blur=bool(settings.blur))


@random_appearance.def_vmap
def _batch_appearance(axis_size, in_batched, keys, images, settings):
    """Of a batch [B, 120, 120, 3] with a key each; without the blur where it strikes no face.

    On a CPU alone: of a large batch the blur nearly always strikes some face. There
    the branch has a second use: the compiler writes down what goes in and what comes out. Fused with its
    neighbours, a CPU would warp every image nine times, once for each tap of the blur, and compute the three
    channels' common part three times (half the time of all augmentation).
    """
    keys, images = (
        values if batched else jnp.broadcast_to(values, (axis_size, *values.shape))
        for values, batched in zip((keys, images), in_batched)
    )

    def all_faces(blur):
        return jax.vmap(functools.partial(_appearance, settings=settings, blur=blur))

    if not settings.blur:
        return all_faces(False)(keys, images), True

    def where_needed(keys, images):
        strikes = jax.vmap(functools.partial(_blur_strength, settings=settings))(keys) > 0
        return jax.lax.cond(strikes.any(), all_faces(True), all_faces(False), keys, images)

    return by_platform(where_needed, all_faces(True), keys, images), True


def _blur_strength(key: jax.Array, settings: AugmentationSettings) -> jax.Array:
    """[] share of the blurred image, 0 for most faces; key is the face's."""
    keys = jax.random.split(key, 9)
    return jax.random.bernoulli(keys[3], settings.blur) * jax.random.uniform(keys[4], ())


def _appearance(key: jax.Array, image: jax.Array, settings: AugmentationSettings, blur: bool) -> jax.Array:
    """`random_appearance` of one face; blur: whether it may strike."""
    keys = jax.random.split(key, 9)
    brightness, contrast, saturation = (
        jax.random.uniform(k, (), minval=-limit, maxval=limit)
        for k, limit in zip(keys, (settings.brightness, settings.contrast, settings.saturation))
    )
    if blur:
        blurred = _shifted_sum(_shifted_sum(image, 0), 1)
        image = image + _blur_strength(key, settings) * (blurred - image)
    grey = image @ jnp.array([0.114, 0.587, 0.299])
    keep = (1.0 + saturation) * (1.0 - jax.random.bernoulli(keys[5], settings.grey))
    image = grey[..., None] + keep * (image - grey[..., None])
    image = (image - 127.5) * (1.0 + contrast) + 127.5 * (1.0 + 2.0 * brightness)
    if settings.occlusion:
        for patch_key in jax.random.split(keys[6], 2):
            mask, colour = _random_patch(patch_key, settings.occlusion)
            image = jnp.where(mask, colour, image)
    if settings.noise:
        level = 255.0 * settings.noise * jax.random.uniform(keys[7], ())
        # One 32-bit word a pixel, ten bits a channel: uniform noise at a third of the random numbers.
        words = jax.random.bits(keys[8], image.shape[:2], jnp.uint32)[..., None]
        uniform = ((words >> jnp.array([0, 10, 20], jnp.uint32)) & 1023).astype(jnp.float32) / 1024.0
        image = image + level * np.sqrt(12.0) * (uniform - 0.5)
    return jnp.clip(image, 0.0, 255.0)


def detector_noise(
    key: jax.Array, landmarks: jax.Array, visible: jax.Array, settings: AugmentationSettings
) -> tuple[jax.Array, jax.Array]:
    """Landmarks as a detector might give them: (landmarks [18, 2], visible [18]) for the heatmap.

    A face's noise level is exponential with mean `landmark_jitter`; it has a common shift and a part
    for each landmark. Single landmarks, or all of them, may be missing.
    """
    keys = jax.random.split(key, 5)
    level = settings.landmark_jitter * jax.random.exponential(keys[0])
    common = 0.5 * jax.random.normal(keys[1], (2,))
    single = 0.8 * jax.random.normal(keys[2], landmarks.shape)
    kept = jax.random.bernoulli(keys[3], 1.0 - settings.landmark_dropout, visible.shape)
    kept = kept & jax.random.bernoulli(keys[4], 1.0 - settings.heatmap_dropout)
    return landmarks + level * (common + single), visible * kept


def _augment_image(key, image, matrix, settings):
    return random_appearance(key, warp_image(image, matrix), settings)


def augment_annotated(
    key: jax.Array, image: jax.Array, alpha: jax.Array, mirror_map: jax.Array, settings: AugmentationSettings
) -> tuple[jax.Array, jax.Array]:
    """One annotated face: image [S, S, 3] uint8, alpha [62] raw -> crop [120, 120, 3] float, alpha [62].

    mirror_map: [53, 51], of the morphable model; not looked at while `settings.mirror_annotated` is 0.
    """
    key_geometry, key_appearance, key_mirror = jax.random.split(key, 3)
    matrix = random_similarity(key_geometry, settings)
    moved = matrix
    if settings.mirror_annotated:
        mirrored = jax.random.bernoulli(key_mirror, settings.mirror_annotated)
        alpha = jnp.where(mirrored, projection.mirror_alpha(alpha, mirror_map), alpha)
        moved = jnp.where(mirrored, _compose(matrix, mirror_matrix()), matrix)
    image = _augment_image(key_appearance, image, moved, settings)
    return image, projection.transform_alpha(alpha, matrix)


def augment_wild(
    key: jax.Array, image: jax.Array, landmarks: jax.Array, visible: jax.Array, settings: AugmentationSettings
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One wild face: image [S, S, 3] uint8, landmarks [P, 2] crop pixels, visible [P] -> the same,
    moved, and mirrored with probability `settings.mirror` (left and right landmarks swapped).

    P is 18, or 21 with the jaw points (`heatmap.JAW_NAMES`) after them.
    """
    key_geometry, key_appearance, key_mirror = jax.random.split(key, 3)
    mirrored = jax.random.bernoulli(key_mirror, settings.mirror)
    matrix = random_similarity(key_geometry, settings)
    matrix = jnp.where(mirrored, _compose(matrix, mirror_matrix()), matrix)
    landmarks = projection.transform_points(landmarks, matrix)
    order = heatmap.MIRROR_WITH_JAW[: len(landmarks)]  # begins with that of the 18
    swapped = landmarks[order], visible[order]
    landmarks, visible = (jnp.where(mirrored, a, b) for a, b in zip(swapped, (landmarks, visible)))
    return _augment_image(key_appearance, image, matrix, settings), landmarks, visible


def with_margin(images: jax.Array, margin: int) -> jax.Array:
    """The crop with at most `margin` pixels around it: [..., S, S, 3] -> [..., S', S', 3]."""
    start = max((images.shape[-2] - CROP_SIZE) // 2 - margin, 0)
    return images[..., start : images.shape[-3] - start, start : images.shape[-2] - start, :]


def centre_crop(images: jax.Array) -> jax.Array:
    """The crop inside its margin: [..., S, S, 3] -> [..., 120, 120, 3]."""
    return with_margin(images, 0)
