"""Projection of shapes to pixels, and every change of frame. No other module converts between frames.

Pixel convention of the whole program: the centre of the first pixel of an image or a crop is (0, 0), that of the next
one in its row (1, 0), y down. Landmarks, detections, vertices, heatmaps and drawings all use it.

Frames:
  model: the morphable model's, y up.
  crop: pixels of the 120-pixel crop.
  image: pixels of the whole image.
  alpha's: the crop's with y up, y_alpha = 121 - y_crop (3DDFA's layout).
  mat: pixels of the whole image in .mat files of 300W-LP and AFLW2000-3D, which count from 1 as MATLAB does:
    x_mat = x_image + 1, y down; their pose parameters have y up, y_up = height + 1 - y_mat.
z grows towards the viewer in all frames and has the scale of x and y.

A `roi_box` = (sx, sy, ex, ey) cuts the crop out of its image as the slice image[sy:ey, sx:ex] would: its numbers
count edges of pixels, not centres. The crop is resampled as `cv2.resize` does, so with s = (ex - sx) / 120
  x_image = (x_crop + 0.5) s - 0.5 + sx.
3DDFA and the paper's authors omit the half pixels, x_mat = x s + sx: their crop coordinates are 0.5 + 0.5 / s larger
than the place that they mean (`alpha_from_3ddfa`).

Every function accepts any number of leading dimensions.
"""

import jax
import jax.numpy as jnp

from twodal_jax.geometry import coefficients, morphable_model

CROP_SIZE = 120
MAT_ORIGIN = 1.0  # MATLAB's number of the first pixel


def _apply_linear(vectors_model: jax.Array, pose: jax.Array) -> jax.Array:
    return jnp.einsum("...nj,...ij->...ni", vectors_model, pose[..., :3], precision=jax.lax.Precision.HIGHEST)


def _project(points_model: jax.Array, alpha: jax.Array) -> jax.Array:
    pose, _, _ = coefficients.split(alpha)
    return flip_y(_apply_linear(points_model, pose) + pose[..., None, :, 3], CROP_SIZE)


def flip_y(points: jax.Array, height: float | jax.Array) -> jax.Array:
    """Flip points [..., 2 or 3] between y up and y down of alpha's frame or a .mat file: y -> height + 1 - y."""
    points = jnp.asarray(points)
    return points.at[..., 1].set(height + 1 - points[..., 1])


def vertices_crop(model: morphable_model.MorphableModel, alpha: jax.Array) -> jax.Array:
    """V = f Pr Pi S + t (Section III-A), with z kept: alpha [..., 62] (raw) -> [..., N, 3], crop."""
    return _project(morphable_model.vertices_model(model, alpha), alpha)


def landmarks_crop(model: morphable_model.MorphableModel, alpha: jax.Array) -> jax.Array:
    """The 68 landmarks of V: alpha [..., 62] (raw) -> [..., 68, 3], crop pixels, y down."""
    return _project(morphable_model.landmarks_model(model, alpha), alpha)


def directions_crop(directions: jax.Array, alpha: jax.Array) -> jax.Array:
    """Vectors of the model frame in the crop, rotated and scaled by the pose but not translated.

    directions [..., P, 3], alpha [..., 62] (raw) -> [..., P, 3] crop pixels, y down.
    """
    pose, _, _ = coefficients.split(alpha)
    return _apply_linear(directions, pose) * jnp.array([1.0, -1.0, 1.0])


def _roi_scale_offset(roi_box: jax.Array, dims: int) -> tuple[jax.Array, jax.Array]:
    """(scale, offset) [..., dims] of image = scale * crop + offset; z has the mean scale and no offset."""
    roi_box = jnp.asarray(roi_box, jnp.float32)
    corner = roi_box[..., :2]
    scale = (roi_box[..., 2:] - corner) / CROP_SIZE
    offset = corner + 0.5 * scale - 0.5
    if dims == 3:
        scale = jnp.concatenate([scale, scale.mean(axis=-1, keepdims=True)], axis=-1)
        offset = jnp.concatenate([offset, jnp.zeros_like(offset[..., :1])], axis=-1)
    return scale, offset


def crop_to_image(points_crop: jax.Array, roi_box: jax.Array) -> jax.Array:
    """Points [..., P, 2 or 3] of the crop -> image pixels; roi_box [..., 4]. z has the mean scale of x and y."""
    scale, offset = _roi_scale_offset(roi_box, points_crop.shape[-1])
    return points_crop * scale[..., None, :] + offset[..., None, :]


def image_to_crop(points_image: jax.Array, roi_box: jax.Array) -> jax.Array:
    """Inverse of `crop_to_image`."""
    scale, offset = _roi_scale_offset(roi_box, points_image.shape[-1])
    return (points_image - offset[..., None, :]) / scale[..., None, :]


def mat_to_image(points: jax.Array) -> jax.Array:
    """Points [..., P, 2 or 3] of a .mat file (pixels from 1, y down) -> image pixels."""
    return jnp.asarray(points).at[..., :2].add(-MAT_ORIGIN)


def alpha_mat_to_crop(alpha: jax.Array, roi_box: jax.Array, image_height: float | jax.Array) -> jax.Array:
    """Convert alpha [..., 62] (raw) from the whole image of a .mat file (pixels from 1, y up) to the crop.

    roi_box [..., 4], image_height in pixels.
    """
    pose, shape, expression = coefficients.split(alpha)
    scale, offset = _roi_scale_offset(roi_box, 3)
    moved = pose / scale[..., :, None]
    x_image = pose[..., 0, 3] - MAT_ORIGIN
    y_image = image_height + 1 - pose[..., 1, 3] - MAT_ORIGIN
    t_x = (x_image - offset[..., 0]) / scale[..., 0]
    t_y = CROP_SIZE + 1 - (y_image - offset[..., 1]) / scale[..., 1]
    moved = moved.at[..., 0, 3].set(t_x).at[..., 1, 3].set(t_y)
    return coefficients.join(moved, shape, expression)


def alpha_crop_to_mat(alpha: jax.Array, roi_box: jax.Array, image_height: float | jax.Array) -> jax.Array:
    """Inverse of `alpha_mat_to_crop`."""
    pose, shape, expression = coefficients.split(alpha)
    scale, offset = _roi_scale_offset(roi_box, 3)
    moved = pose * scale[..., :, None]
    t_x = pose[..., 0, 3] * scale[..., 0] + offset[..., 0] + MAT_ORIGIN
    y_mat = (CROP_SIZE + 1 - pose[..., 1, 3]) * scale[..., 1] + offset[..., 1] + MAT_ORIGIN
    moved = moved.at[..., 0, 3].set(t_x).at[..., 1, 3].set(image_height + 1 - y_mat)
    return coefficients.join(moved, shape, expression)


def alpha_from_3ddfa(alpha: jax.Array, roi_box: jax.Array) -> jax.Array:
    """Convert alpha [..., 62] (raw) from crop coordinates of 3DDFA and the paper's authors to ours; roi_box [..., 4].

    Both describe the same points of the image; theirs has x_mat = x s + sx (see the module's docstring).
    """
    pose, shape, expression = coefficients.split(jnp.asarray(alpha))
    scale, _ = _roi_scale_offset(roi_box, 2)
    shift = offset_of_3ddfa(scale) * jnp.array([-1.0, 1.0])
    return coefficients.join(pose.at[..., :2, 3].add(shift), shape, expression)


def offset_of_3ddfa(scale: jax.Array) -> jax.Array:
    """Excess of 3DDFA's crop coordinates over ours, in crop pixels; scale: image pixels per crop pixel."""
    return 0.5 + 0.5 / scale


def roi_box_from_landmarks(landmarks: jax.Array) -> jax.Array:
    """Square crop box: centre of the landmarks' bounding box, side sqrt(2) max(w, h). Source: 3DDFA.

    landmarks [..., P, 2 or 3], image pixels -> [..., 4], image pixels (not rounded).
    """
    low, high = landmarks[..., :2].min(axis=-2), landmarks[..., :2].max(axis=-2)
    side = jnp.sqrt(2.0) * (high - low).max(axis=-1, keepdims=True)
    centre = (low + high) / 2.0
    return jnp.concatenate([centre - side / 2.0, centre + side / 2.0], axis=-1)


def roi_box_from_detection(box: jax.Array) -> jax.Array:
    """Square crop box from a face detector's box [..., 4] = (x1, y1, x2, y2), image pixels. Source: 3DDFA.

    Side 1.58 mean(w, h), centre moved down by 0.14 mean(w, h).
    """
    low, high = box[..., :2], box[..., 2:]
    size = (high - low).mean(axis=-1, keepdims=True)
    centre = (low + high) / 2.0 + jnp.array([0.0, 0.14]) * size
    return jnp.concatenate([centre - 0.79 * size, centre + 0.79 * size], axis=-1)


def transform_points(points_crop: jax.Array, matrix: jax.Array) -> jax.Array:
    """Apply matrix [..., 2, 3] to (x, y, 1); points [..., P, 2] in crop pixels, y down."""
    moved = jnp.einsum("...nj,...ij->...ni", points_crop, matrix[..., :2], precision=jax.lax.Precision.HIGHEST)
    return moved + matrix[..., None, :, 2]


def transform_alpha(alpha: jax.Array, matrix: jax.Array) -> jax.Array:
    """Alpha [..., 62] (raw, crop) after a similarity of the crop; exact.

    matrix: [..., 2, 3], crop pixels, y down: rotation, uniform scale and shift, no mirror. The projected landmarks of
    the result are `transform_points` of the original's; z is scaled alike.
    """
    pose, shape, expression = coefficients.split(alpha)
    down = pose * jnp.array([1.0, -1.0, 1.0])[:, None]
    down = down.at[..., 1, 3].add(CROP_SIZE + 1.0)
    scale = jnp.sqrt(jnp.abs(jnp.linalg.det(matrix[..., :2])))
    planar = jnp.einsum("...ij,...jk->...ik", matrix[..., :2], down[..., :2, :], precision=jax.lax.Precision.HIGHEST)
    planar = planar.at[..., 3].add(matrix[..., 2])
    depth = scale[..., None, None] * down[..., 2:, :]
    moved = jnp.concatenate([planar, depth], axis=-2)
    moved = moved.at[..., 1, 3].add(-(CROP_SIZE + 1.0)) * jnp.array([1.0, -1.0, 1.0])[:, None]
    return coefficients.join(moved, shape, expression)


def mirror_alpha(alpha: jax.Array, mirror_map: jax.Array) -> jax.Array:
    """Alpha [..., 62] (raw, crop) of the mirrored crop, x -> 119 - x.

    The pose is exact; shape and expression are the morphable model's nearest to the mirrored face.
    mirror_map: [53, 51], `MorphableModel.mirror_map`.
    """
    pose, shape, expression = coefficients.split(alpha)
    flip = jnp.array([-1.0, 1.0, 1.0])
    affine = jnp.concatenate([shape, expression, jnp.ones_like(shape[..., :1])], axis=-1)
    mirrored = jnp.einsum("ij,...j->...i", mirror_map, affine, precision=jax.lax.Precision.HIGHEST)
    shape, expression, shift = jnp.split(
        mirrored, [coefficients.NUM_SHAPE, coefficients.NUM_SHAPE + coefficients.NUM_EXPRESSION], axis=-1
    )
    linear = flip[:, None] * pose[..., :3] * flip
    translation = flip * pose[..., 3] + jnp.array([CROP_SIZE - 1.0, 0.0, 0.0])
    translation += jnp.einsum("...ij,...j->...i", linear, shift, precision=jax.lax.Precision.HIGHEST)
    moved = jnp.concatenate([linear, translation[..., None]], axis=-1)
    return coefficients.join(moved, shape, expression)
