"""Augmentation of a batch on the device: a pure function of (seed, sample position, sample).

Pipelines ship uint8 images and landmarks. A face's random numbers come from `sample_keys`, so they depend neither on
the other faces of its batch nor on the number of devices. Geometry is applied exactly and identically to image,
landmarks and alpha; appearance to the image alone. Pixel frame: the 120-pixel crop, y down. An image may have a margin
around the crop (size 120 + 2 margin), from which moved crops are filled.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.distributed.platforms import by_platform
from twodal_jax.geometry import heatmap, projection

CROP_SIZE = projection.CROP_SIZE
CENTRE = (CROP_SIZE - 1) / 2.0
# Pixel positions need full precision; some devices multiply float32 matrices in less.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _static(default: float) -> Any:
    return flax.struct.field(pytree_node=False, default=default)


@flax.struct.dataclass
class AugmentationSettings:
    """Strength of each augmentation (static); 0 turns it off. All are ours (the paper has none)."""

    rotation_degrees: float = _static(0.0)  # in-plane rotation, uniform in +- this
    scale: float = _static(0.0)  # factor, log-uniform in [1 / (1 + scale), 1 + scale]
    shift_pixels: float = _static(0.0)  # uniform in +- this on each axis
    mirror: float = _static(0.0)  # probability of a mirrored wild face (left and right landmarks are swapped)
    mirror_annotated: float = _static(0.0)  # the same for annotated faces; needs a symmetric morphable model
    brightness: float = _static(0.0)  # like contrast and saturation uniform in +- this, fraction of the full range
    contrast: float = _static(0.0)
    saturation: float = _static(0.0)
    grey: float = _static(0.0)  # probability of a greyscale image
    blur: float = _static(0.0)  # probability of a partial 3x3 binomial blur
    noise: float = _static(0.0)  # largest standard deviation of pixel noise, fraction of the range
    occlusion: float = _static(0.0)  # probability of each of two occluders
    landmark_jitter: float = _static(0.0)  # mean noise level in pixels of the heatmap's landmarks
    landmark_dropout: float = _static(0.0)  # probability that a single landmark is missing in the heatmap
    heatmap_dropout: float = _static(0.0)  # probability of an empty heatmap
    # Largest margin around the crop, in pixels, from which moved crops are filled. Annotated and wild sets must both
    # have it: otherwise the self-critic can separate the sets by their repeated edges.
    margin: int = _static(20)


def sample_keys(seed: jax.Array | int, stream: int, positions: jax.Array) -> jax.Array:
    """PRNG keys [B], one per sample.

    Args:
      seed: of the run.
      stream: number of the kind of sample.
      positions: [B, 2] uint32, the samples' 64-bit positions in the training stream as (high, low) words.
    """
    base = jax.random.fold_in(jax.random.key(seed), stream)
    return jax.vmap(lambda p: jax.random.fold_in(jax.random.fold_in(base, p[0]), p[1]))(positions)


def random_similarity(key: jax.Array, settings: AugmentationSettings) -> jax.Array:
    """Similarity [2, 3] of crop pixels (y down): rotation and scale about the crop's centre, and shift."""
    key_angle, key_scale, key_shift = jax.random.split(key, 3)
    limit = settings.rotation_degrees * np.pi / 180.0
    angle = jax.random.uniform(key_angle, (), minval=-limit, maxval=limit)
    scale = jnp.exp(jax.random.uniform(key_scale, (), minval=-1.0, maxval=1.0) * np.log1p(settings.scale))
    shift = jax.random.uniform(key_shift, (2,), minval=-1.0, maxval=1.0) * settings.shift_pixels
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    linear = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    centre = jnp.full((2,), CENTRE)
    return jnp.concatenate([linear, (centre + shift - _matmul(linear, centre))[:, None]], axis=1)


def mirror_matrix() -> np.ndarray:
    """Mirror of the crop [2, 3]: x -> 119 - x."""
    return np.array([[-1.0, 0.0, CROP_SIZE - 1.0], [0.0, 1.0, 0.0]], np.float32)


def _compose(second: jax.Array, first: jax.Array) -> jax.Array:
    """Composition [2, 3] of affine maps: `second` after `first`."""
    linear = _matmul(second[:, :2], first[:, :2])
    shift = _matmul(second[:, :2], first[:, 2]) + second[:, 2]
    return jnp.concatenate([linear, shift[:, None]], axis=1)


def warp_image(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Crop of `image` with its content transformed by `matrix`: bilinear interpolation, repeated edges.

    Accelerators resample in two passes of products (`_warp_by_products`), because gathers of pixels are slow there; the
    result differs by less than 1 of 255 in the mean.

    Args:
      image: [S, S, 3] uint8 or float, the crop with a margin of (S - 120) / 2 pixels.
      matrix: [2, 3], transforms points of the crop (y down); must be invertible and turn by less than 80 degrees.

    Returns:
      [120, 120, 3] float32, in the image's range.
    """
    return by_platform(_warp_by_gathers, _warp_by_products, image, matrix)


def _inverse(matrix: jax.Array) -> jax.Array:
    """The inverse of the linear part, [2, 2]; `jnp.linalg.inv` would call a solver."""
    (a, b), (c, d) = matrix[:, :2]
    return jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)


def _warp_by_gathers(image: jax.Array, matrix: jax.Array) -> jax.Array:
    size = image.shape[0]
    margin = (size - CROP_SIZE) / 2.0
    grid = jnp.arange(CROP_SIZE, dtype=jnp.float32)
    target = jnp.stack(jnp.meshgrid(grid, grid, indexing="xy"), axis=-1)
    source = _matmul(target - matrix[:, 2], _inverse(matrix).T) + margin
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


def _warp_by_products(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Resamples rows, then columns; each pixel is a product of an image line with bilinear weights.

    Source: Catmull and Smith, 3-D Transformations of Images in Scanline Order, SIGGRAPH 1980. bfloat16 holds the levels
    0 to 255 exactly, and the weights to half a level.
    """
    size = image.shape[0]
    margin = (size - CROP_SIZE) / 2.0
    (a, b), (c, d) = inverse = _inverse(matrix)
    e, f = margin - _matmul(inverse, matrix[:, 2])  # a default product of a TPU would be off by half a pixel
    grid, lines = jnp.arange(CROP_SIZE, dtype=jnp.float32), jnp.arange(size, dtype=jnp.float32)
    # The column v of the crop that row y of the image meets at column u decides x; then y follows from u and v.
    v = (lines[:, None] - c * grid[None, :] - f) / d
    x = a * grid[None, :] + b * v + e
    y = c * grid[:, None] + d * grid[None, :] + f

    def weights(places):
        places = jnp.clip(places, 0.0, size - 1.0)
        return jnp.maximum(0.0, 1.0 - jnp.abs(places[..., None] - lines)).astype(jnp.bfloat16)

    resample = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    rows = resample("yux,yxc->yuc", weights(x), image.astype(jnp.bfloat16))
    return resample("uvy,yuc->vuc", weights(y), rows.astype(jnp.bfloat16))


def _binomial_blur(image: jax.Array, axis: int) -> jax.Array:
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
    """Random colours, blur, occluders and noise of a crop [120, 120, 3], float in 0..255 (BGR)."""
    return _appearance(key, image, settings, blur=bool(settings.blur))


@random_appearance.def_vmap
def _batch_appearance(axis_size, in_batched, keys, images, settings):
    """`random_appearance` of a batch [B, 120, 120, 3] with [B] keys; on a CPU without the blur if no face draws it.

    In large batches nearly always some face does. The conditional has a second use on a CPU: the compiler stores its
    inputs and outputs. Fused with its neighbours, a CPU would warp every image nine times, once for each tap of the
    blur, and compute the common part of the three channels three times (half the time of all augmentation).
    """
    keys, images = (
        values if batched else jnp.broadcast_to(values, (axis_size, *values.shape))
        for values, batched in zip((keys, images), in_batched)
    )

    def all_faces(blur):
        return jax.vmap(functools.partial(_appearance, settings=settings, blur=blur))

    if not settings.blur:
        return all_faces(False)(keys, images), True

    def blur_if_drawn(keys, images):
        drawn = jax.vmap(functools.partial(_blur_strength, settings=settings))(keys) > 0
        return jax.lax.cond(drawn.any(), all_faces(True), all_faces(False), keys, images)

    return by_platform(blur_if_drawn, all_faces(True), keys, images), True


def _blur_strength(key: jax.Array, settings: AugmentationSettings) -> jax.Array:
    """Weight [] of the blurred image, 0 for most faces; key is the face's."""
    keys = jax.random.split(key, 9)
    return jax.random.bernoulli(keys[3], settings.blur) * jax.random.uniform(keys[4], ())


def _appearance(key: jax.Array, image: jax.Array, settings: AugmentationSettings, blur: bool) -> jax.Array:
    """`random_appearance` of one face; `blur` False omits the blur."""
    keys = jax.random.split(key, 9)
    brightness, contrast, saturation = (
        jax.random.uniform(k, (), minval=-limit, maxval=limit)
        for k, limit in zip(keys, (settings.brightness, settings.contrast, settings.saturation))
    )
    if blur:
        blurred = _binomial_blur(_binomial_blur(image, 0), 1)
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
        # One 32-bit word per pixel, ten bits per channel: uniform noise from a third of the random numbers.
        words = jax.random.bits(keys[8], image.shape[:2], jnp.uint32)[..., None]
        uniform = ((words >> jnp.array([0, 10, 20], jnp.uint32)) & 1023).astype(jnp.float32) / 1024.0
        image = image + level * np.sqrt(12.0) * (uniform - 0.5)
    return jnp.clip(image, 0.0, 255.0)


def detector_noise(
    key: jax.Array, landmarks: jax.Array, visible: jax.Array, settings: AugmentationSettings
) -> tuple[jax.Array, jax.Array]:
    """Landmarks [18, 2] and visible [18] with simulated detector errors, for the heatmap.

    A face's noise level is exponential with mean `landmark_jitter`. The noise has a part common to all landmarks and
    one of each landmark. Single landmarks, or all of them, may be missing.
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
    """Augment an annotated face: image [S, S, 3] uint8, alpha [62] raw -> crop [120, 120, 3] float, alpha [62].

    mirror_map: [53, 51] of the morphable model; unused if `settings.mirror_annotated` is 0.
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
    """Augment a wild face: image [S, S, 3] uint8, landmarks [P, 2], crop pixels, visible [P] -> the same, image a crop.

    The face is mirrored with probability `settings.mirror`, with left and right landmarks swapped. P is 18, or 21 with
    the jaw points (`heatmap.JAW_NAMES`) after them.
    """
    key_geometry, key_appearance, key_mirror = jax.random.split(key, 3)
    mirrored = jax.random.bernoulli(key_mirror, settings.mirror)
    matrix = random_similarity(key_geometry, settings)
    matrix = jnp.where(mirrored, _compose(matrix, mirror_matrix()), matrix)
    landmarks = projection.transform_points(landmarks, matrix)
    order = heatmap.MIRROR_WITH_JAW[: len(landmarks)]  # its first 18 entries are `MIRROR_18`
    swapped = landmarks[order], visible[order]
    landmarks, visible = (jnp.where(mirrored, a, b) for a, b in zip(swapped, (landmarks, visible)))
    return _augment_image(key_appearance, image, matrix, settings), landmarks, visible
