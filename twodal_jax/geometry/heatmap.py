"""The paper's 18 landmarks and their 1-channel facial landmark heatmap (FLH).

The 18 landmarks are the 21 points of AFLW and UMDFaces without both ears and the chin: six on the brows, six on the
eyes, three on the nose, three on the mouth. Ears and chin are the "jaw points", which training may compare as well on
wild faces that have them. All functions are pure, use pixels of the 120-pixel crop with y down, and accept any number
of leading dimensions.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax.distributed.platforms import by_platform
from twodal_jax.geometry import projection

NUM_LANDMARKS = 18
KINDS = ("gaussian", "points")
# Square pixels. Landmarks whose distances to a pixel differ by less share that pixel: compilers may round one distance
# differently in two places, and with exact equality a pixel could then belong to no landmark.
TIE_TOLERANCE = 1e-3
CUTOFF = 6.0  # standard deviations: exp(-CUTOFF^2 / 2) is 1.5e-8
LANDMARK_NAMES = tuple(
    "left brow outer,left brow middle,left brow inner,right brow inner,right brow middle,right brow outer,"
    "left eye outer,left eye centre,left eye inner,right eye inner,right eye centre,right eye outer,"
    "nose left,nose tip,nose right,mouth left,mouth centre,mouth right".split(",")
)
# [18, 2] Each landmark is the mean of two of the 68 (iBUG order, 0-based), mostly twice the same one.
LANDMARK_PAIRS_68 = np.array(
    [
        [17, 19, 21, 22, 24, 26, 36, 37, 39, 42, 43, 45, 31, 30, 35, 48, 48, 54],
        [17, 19, 21, 22, 24, 26, 36, 40, 39, 42, 46, 45, 31, 30, 35, 48, 54, 54],
    ]
).T
# The authors' code takes the mouth centre from the inner lips instead of the mouth corners.
AUTHORS_MOUTH_CENTRE = (62, 66)
INDICES_OF_21 = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 17, 18, 19])
# Landmark i of a mirrored face is landmark MIRROR_18[i] of the original.
MIRROR_18 = np.array([5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 14, 13, 12, 17, 16, 15])

JAW_NAMES = ("left ear", "right ear", "chin")
NUM_JAW_POINTS = len(JAW_NAMES)
JAW_OF_21 = np.array([12, 16, 20])
# AFLW's ear corresponds to iBUG's third point from the jaw's end: over 1,686 visible ears of AFLW and a network's
# meshes they differ by 0.00 and 0.03 of the outer interocular distance in height; neighbouring points are 0.2 away.
JAW_OF_68 = np.array([2, 14, 8])
# `MIRROR_18` for the 18 landmarks followed by the jaw points.
MIRROR_WITH_JAW = np.array([*MIRROR_18, 19, 18, 20])

# Weights by colour in Fig. 4, from the authors' public code (XgTu/2DASL, commit ead2e164, `lmsMask_18pts`).
HIGH_WEIGHT = (13, 16)  # red: nose tip, mouth centre
MEDIUM_WEIGHT = (7, 10, 15, 17)  # pink: eye centres, mouth corners
# Landmark i of the 68 of a mirrored face is landmark MIRROR_68[i] of the original.
MIRROR_68 = np.array(
    [
        *(range(16, -1, -1)),
        *(range(26, 16, -1)),
        *(27, 28, 29, 30, 35, 34, 33, 32, 31),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
        *(64, 63, 62, 61, 60, 67, 66, 65),
    ]
)


def landmarks_18_from_68(landmarks: jax.Array, *, authors_mouth: bool = False) -> jax.Array:
    """[..., 68, D] in iBUG order -> [..., 18, D]; `authors_mouth` selects the authors' mouth centre."""
    if landmarks.shape[-2] != 68:
        raise ValueError(f"Expected `landmarks` of shape [..., 68, D], got {landmarks.shape}.")
    pairs = LANDMARK_PAIRS_68.copy()
    if authors_mouth:
        pairs[16] = AUTHORS_MOUTH_CENTRE
    return (landmarks[..., pairs[:, 0], :] + landmarks[..., pairs[:, 1], :]) / 2.0


def landmarks_18_from_21(landmarks: jax.Array) -> jax.Array:
    """[..., 21, D] in AFLW / UMDFaces order -> [..., 18, D], without ears and chin."""
    if landmarks.shape[-2] != 21:
        raise ValueError(f"Expected `landmarks` of shape [..., 21, D], got {landmarks.shape}.")
    return landmarks[..., INDICES_OF_21, :]


def with_jaw_from_68(landmarks: jax.Array) -> jax.Array:
    """[..., 68, D] in iBUG order -> [..., 21, D]: the 18 landmarks, then the jaw points of `JAW_NAMES`."""
    return jnp.concatenate([landmarks_18_from_68(landmarks), landmarks[..., JAW_OF_68, :]], axis=-2)


def weight_mask(high: float, medium: float, low: float) -> np.ndarray:
    """[18] float32 weights v_i of Eq. (L_2d-con) and Fig. 4 for a ratio red : pink : yellow."""
    weights = np.full(NUM_LANDMARKS, low, np.float32)
    weights[list(MEDIUM_WEIGHT)] = medium
    weights[list(HIGH_WEIGHT)] = high
    return weights


def heatmap(
    landmarks: jax.Array,
    visible: jax.Array,
    *,
    sigma: float = 2.0,
    size: int = projection.CROP_SIZE,
    kind: str = "gaussian",
) -> jax.Array:
    """Facial landmark heatmap, Section III-B: 1 on a landmark, -1 far from all of them.

    Args:
      landmarks: [..., 18, 2], crop pixels, y down; may lie outside the crop.
      visible: [..., 18]; landmarks with a value > 0 are drawn. Without any the heatmap is "empty": -1 everywhere.
      sigma: standard deviation in pixels.
      size: side of the heatmap in pixels.
      kind: "gaussian" is 2 max_k exp(-|p - x_k|^2 / 2 sigma^2) - 1, differentiable in the landmarks; "points" is the
        authors' code: single pixels (floor, clipped to the crop), no gradient.

    Returns:
      [..., size, size, 1] float32 in [-1, 1].

    Raises:
      ValueError: wrong shapes or an unknown kind.
    """
    if landmarks.shape[-2:] != (NUM_LANDMARKS, 2) or visible.shape != landmarks.shape[:-1]:
        raise ValueError(
            f"Expected `landmarks` [..., 18, 2] and `visible` [..., 18], got {landmarks.shape} and {visible.shape}."
        )
    is_visible = visible > 0
    landmarks = jnp.where(is_visible[..., None], landmarks, 0.0)  # hidden landmarks may be NaN
    if kind not in KINDS:
        raise ValueError(f"Unknown heatmap kind {kind!r}; expected one of {', '.join(KINDS)}.")
    if kind == "points":
        return _points_heatmap(landmarks, is_visible, size)[..., None]
    leading = landmarks.shape[:-2]
    flat = _gaussian_heatmap(
        landmarks.reshape(-1, NUM_LANDMARKS, 2), is_visible.reshape(-1, NUM_LANDMARKS), sigma, size
    )
    return flat.reshape(*leading, size, size, 1)


def _points_heatmap(landmarks: jax.Array, is_visible: jax.Array, size: int) -> jax.Array:
    pixel = jnp.clip(jnp.floor(jax.lax.stop_gradient(landmarks)), 0, size - 1)
    grid = jnp.arange(size, dtype=landmarks.dtype)
    on_column = pixel[..., 0, None] == grid
    on_row = (pixel[..., 1, None] == grid) & is_visible[..., None]
    hit = (on_row[..., :, None] & on_column[..., None, :]).any(axis=-3)
    return jnp.where(hit, 1.0, -1.0).astype(landmarks.dtype)


def _squared_distances(landmarks: jax.Array, is_visible: jax.Array, size: int) -> list[jax.Array]:
    """18 planes [B, size, size] of squared distances, infinite for hidden landmarks.

    A list lets the compiler fuse the reduction over landmarks, so that it never stores all planes.
    """
    grid = jnp.arange(size, dtype=landmarks.dtype)
    across = (grid - landmarks[..., 0, None]) ** 2
    down = jnp.where(is_visible[..., None], (grid - landmarks[..., 1, None]) ** 2, jnp.inf)
    return [down[:, k, :, None] + across[:, k, None, :] for k in range(NUM_LANDMARKS)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gaussian_heatmap(landmarks, is_visible, sigma, size):
    nearest = functools.reduce(jnp.minimum, _squared_distances(landmarks, is_visible, size))
    return 2.0 * jnp.exp(-nearest / (2.0 * sigma**2)) - 1.0


def _gaussian_heatmap_forward(landmarks, is_visible, sigma, size):
    return _gaussian_heatmap(landmarks, is_visible, sigma, size), (landmarks, is_visible)


def _gaussian_heatmap_backward(sigma, size, residuals, cotangent):
    """Gradient of each pixel to its nearest landmark only; tied landmarks share it equally."""
    landmarks, is_visible = residuals
    planes = _squared_distances(landmarks, is_visible, size)
    nearest = functools.reduce(jnp.minimum, planes)
    shared = functools.reduce(jnp.add, [(plane <= nearest + TIE_TOLERANCE).astype(landmarks.dtype) for plane in planes])
    weight = cotangent * 2.0 * jnp.exp(-nearest / (2.0 * sigma**2)) / (sigma**2 * shared)
    faces = landmarks, is_visible, weight, nearest
    width = 2 * math.ceil(CUTOFF * sigma) + 1
    if width >= size:
        return _gradient_from_planes(*faces), None
    return by_platform(functools.partial(_gradient_from_windows, width=width), _gradient_from_planes, *faces), None


def _gradient_from_planes(landmarks, is_visible, weight, nearest):
    """[B, 18, 2]: sum of weight * (pixel - landmark) over the pixels nearest to each landmark."""
    planes = _squared_distances(landmarks, is_visible, weight.shape[-1])
    grid = jnp.arange(weight.shape[-1], dtype=landmarks.dtype)
    gradients = []
    for k, plane in enumerate(planes):
        own = jnp.where(is_visible[:, k, None, None] & (plane <= nearest + TIE_TOLERANCE), weight, 0.0)
        x, y = landmarks[:, k, 0], landmarks[:, k, 1]
        columns, rows = own.sum(axis=-2), own.sum(axis=-1)
        # Full precision, because some devices multiply float32 matrices in less.
        moments = [jnp.matmul(line, grid, precision=jax.lax.Precision.HIGHEST) for line in (columns, rows)]
        gradients.append(jnp.stack([moments[0] - x * columns.sum(-1), moments[1] - y * rows.sum(-1)], axis=-1))
    return jnp.stack(gradients, axis=-2)


def _gradient_from_windows(landmarks, is_visible, weight, nearest, width):
    """`_gradient_from_planes` from a window of `width` pixels around each landmark; weights outside are negligible.

    Takes a fifteenth of the time of 54 sums over whole planes on a CPU.
    """
    start = jnp.clip(jnp.round(landmarks).astype(jnp.int32) - width // 2, 0, weight.shape[-1] - width)

    def one(start, landmark, is_visible, weight, nearest):
        corner = start[1], start[0]
        x, y = (start + jnp.arange(width)[:, None]).astype(landmark.dtype).T - landmark[:, None]
        weight, nearest = (jax.lax.dynamic_slice(plane, corner, (width, width)) for plane in (weight, nearest))
        own = jnp.where(is_visible & (y[:, None] ** 2 + x**2 <= nearest + TIE_TOLERANCE), weight, 0.0)
        return jnp.stack([(own.sum(axis=0) * x).sum(), (own.sum(axis=1) * y).sum()])

    over_landmarks = jax.vmap(one, in_axes=(0, 0, 0, None, None))
    return jax.vmap(over_landmarks)(start, landmarks, is_visible, weight, nearest)


_gaussian_heatmap.defvjp(_gaussian_heatmap_forward, _gaussian_heatmap_backward)
