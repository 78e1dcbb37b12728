"""Face profiling: a photo of a face, turned out of the picture plane with the fitted mesh.

Source: Zhu et al., Face Alignment Across Large Poses: A 3D Solution (CVPR 2016), by which 300W-LP was made.

Two surfaces carry the photo as their texture: the part of the fitted mesh that the photo shows, and a sheet, a grid over
the whole picture, behind it. Over the face the sheet follows the mesh, and closes its gaps (mouth, occluded skin).
Around the face it continues the depth of the outline, which falls off to a plane behind the head, as hair and neck do.
The sheet turns with the head near the face and keeps its place far from it, so that the background fills the picture in
every pose.

Frame: pixels of the 120-pixel crop, y down, larger z nearer. An image [S, S, 3] is the crop with a margin of
(S - 120) / 2 pixels. Lengths named "share" are relative to the size of the face, the longer side of its landmarks' box.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from twodal_jax.rendering import rasterizer, shading

CROP_SIZE = 120
_SPACING = 3  # of the sheet's grid, pixels
_OUTSIDE = 40  # pixels by which the sheet extends beyond the image
_FACING = 0.1  # triangles of the mesh at a smaller cosine to the line of sight are left to the sheet
_HIDDEN = 1.0  # depth in pixels by which a vertex of the mesh may lie behind its surface and count as shown
_BEHIND = 1.5  # pixels by which the sheet lies behind the mesh
_RIM = 3  # pixels inside the outline at which its depth is measured; at the outline itself it is too steep
_HEAD_DEPTH = 1.15  # share from the nearest point of the face to the plane behind the head
_FALL_OFF = 0.3  # share of distance from the outline in which the depth falls by 1 - 1/e
# Shares of distance from the outline: up to the first the sheet turns with the head, from the second on it stands still.
# The latter is smaller on the side that turns away, where hair and skin disappear behind the head.
_RIGID, _STILL, _STILL_AWAY = 0.1, 0.9, 0.4
_SUPERSAMPLING = 2


class Relief(NamedTuple):
    """The two textured surfaces of a photo, in the pose of the photo.

    Attributes:
      vertices: float32 [V, 3], crop pixels; the sheet's, then the mesh's.
      triangles: int32 [T, 3].
      distance: float32 [V], share from the outline of the face in the picture; 0 on the face.
      centre: float32 [3], the point about which the head turns.
      size: of the face, pixels.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    distance: np.ndarray
    centre: np.ndarray
    size: float


def relief(vertices: np.ndarray, triangles: np.ndarray, landmark_indices: np.ndarray, image_size: int) -> Relief:
    """Surfaces of a photo from its fitted mesh.

    Args:
      vertices: [N, 3], crop pixels, y down, larger z nearer.
      triangles: [T, 3], counter-clockwise seen from outside when y is UP.
      landmark_indices: [68] vertices.
      image_size: S, 120 + 2 margin.
    """
    vertices = np.asarray(vertices, np.float32)
    landmarks = vertices[landmark_indices]
    size = float(np.ptp(landmarks[:, :2], axis=0).max())
    centre = np.append(landmarks[:, :2].mean(axis=0), vertices[:, 2].max() - 0.6 * size).astype(np.float32)
    # A canvas with a border: parts of the mesh outside the image hide others all the same.
    origin = (CROP_SIZE - image_size) // 2 - _OUTSIDE
    side = CROP_SIZE - 2 * origin
    canvas = vertices - np.array([origin, origin, 0], np.float32)
    fragments = rasterizer.rasterize(canvas, triangles, side, side)
    shown = rasterizer.visible_vertices(canvas, triangles, side, side, _HIDDEN, fragments)
    shown &= shading.vertex_normals(vertices * np.array([1, -1, 1], np.float32), triangles)[:, 2] > _FACING
    kept = triangles[shown[triangles].all(axis=1)]

    sheet, distance = _sheet(fragments.depth, size)
    sheet += np.array([origin, origin, 0], np.float32)
    return Relief(
        np.concatenate([sheet, vertices]),
        np.concatenate([_grid_triangles(int(np.sqrt(len(sheet)))), kept + len(sheet)]).astype(np.int32),
        np.concatenate([distance / size, np.zeros(len(vertices))]).astype(np.float32),
        centre,
        size,
    )


def _sheet(depth: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Points [G * G, 3] of the sheet in pixels of the canvas, and their distances [G * G] from the face's outline.

    depth: [H, W], of the mesh, -inf where it is not; size: of the face.
    """
    face = _filled(np.isfinite(depth))
    inner = cv2.erode(face, np.ones((3, 3), np.uint8), iterations=_RIM, borderValue=0)
    if not inner.any():
        inner = face
    known = (inner > 0) & np.isfinite(depth)
    if not known.any():
        raise ValueError("vertices: the mesh covers no pixel of the image")
    # The nearest known depth: continues the surface over its own steep rim and over the mouth.
    _, label = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    depth_of = np.zeros(label.max() + 1, np.float32)
    depth_of[label[known]] = depth[known]
    nearest = cv2.GaussianBlur(depth_of[label], (0, 0), 1.0)
    outside = cv2.distanceTransform(1 - face, cv2.DIST_L2, cv2.DIST_MASK_5)

    grid = np.arange(0, len(depth), _SPACING)
    columns, rows = (axis.ravel() for axis in np.meshgrid(grid, grid))
    distance, z = outside[rows, columns], nearest[rows, columns]
    # Beside the face, the depth of the whole outline, weighted by nearness: smooth where the nearest point jumps.
    line = max(cv2.findContours(inner, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)[::4, 0]
    beside = np.flatnonzero(distance > 0)
    squared = (columns[beside, None] - line[None, :, 0]) ** 2 + (rows[beside, None] - line[None, :, 1]) ** 2
    share = 1 / (squared.astype(np.float32) + 1) ** 2
    smooth = share @ nearest[line[:, 1], line[:, 0]] / share.sum(axis=1)
    plane = depth[known].max() - _HEAD_DEPTH * size
    near = np.exp(-((distance[beside] / (_FALL_OFF * size)) ** 2))
    z[beside] = np.minimum(plane, smooth) + np.maximum(smooth - plane, 0) * near
    return np.stack([columns, rows, z - _BEHIND], axis=1).astype(np.float32), distance


def _filled(mask: np.ndarray) -> np.ndarray:
    """Mask uint8 [H, W] with its holes filled."""
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), lines, -1, 1, cv2.FILLED)


def _smooth_step(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _grid_triangles(side: int) -> np.ndarray:
    """Triangles [2 (side - 1)^2, 3] of a grid of side^2 points, row by row."""
    index = np.arange(side * side).reshape(side, side)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def head_angles(rotation: np.ndarray) -> np.ndarray:
    """Roll, pitch and yaw [3] in degrees of a pose's rotation R_z(roll) R_x(pitch) R_y(yaw) [3, 3], y up.

    The matrices and signs are those of `coefficients.rotation_from_euler`, whose order differs: here the yaw is about
    the head's own axis, as a neck turns. Without roll the angles are the same.
    """
    return -Rotation.from_matrix(rotation).as_euler("ZXY", degrees=True)


def head_turn(rotation: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """Rotation [3, 3] of the space, y up, that adds yaw and pitch, degrees, to the `head_angles` of a pose [3, 3]."""
    angles = head_angles(rotation) + [0.0, pitch, yaw]
    return Rotation.from_euler("ZXY", -angles, degrees=True).as_matrix() @ np.linalg.inv(rotation)


def turned_pose(pose: np.ndarray, rotation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Pose [3, 4] = [f R | t] of alpha (y up) after a turn by `rotation` [3, 3] (y up) about `centre` [3] (y down)."""
    centre = np.array([centre[0], CROP_SIZE + 1 - centre[1], centre[2]], np.float64)
    moved = rotation @ pose
    moved[:, 3] += centre - rotation @ centre
    return moved


def rotated(surfaces: Relief, rotation: np.ndarray) -> np.ndarray:
    """Vertices [V, 3] after a turn of the head by `rotation` [3, 3], y up, about the centre."""
    rotation = np.float32(rotation * np.outer([1, -1, 1], [1, -1, 1]))  # in the frame of the pixels, y down
    still = surfaces.vertices.copy()
    still[:, 2] -= surfaces.size  # behind the head in every pose
    offset = surfaces.vertices - surfaces.centre
    turned = offset @ rotation.T + surfaces.centre
    # The nose moves to the side that turns away.
    away = rotation[:2, 2] / max(float(np.linalg.norm(rotation[:2, 2])), 1e-6)
    aside = _smooth_step((offset[:, :2] @ away / surfaces.size + 0.3) / 0.6)
    limit = _STILL + (_STILL_AWAY - _STILL) * aside
    weight = 1 - _smooth_step((surfaces.distance - _RIGID) / (limit - _RIGID))[:, None]
    return weight * turned + (1 - weight) * still


def turn(
    image: np.ndarray, surfaces: Relief, rotation: np.ndarray, window: np.ndarray, margin: int
) -> np.ndarray:
    """Draws the photo after a turn of the head.

    Args:
      image: BGR uint8 [S, S, 3].
      surfaces: of `relief`.
      rotation: [3, 3], of the head about `surfaces.centre`, y up.
      window: [3] = (x, y, scale), the new crop: its pixel p shows the old crop's place (x, y) + scale p.
      margin: pixels drawn around the 120-pixel crop.

    Returns:
      BGR uint8 [120 + 2 margin, 120 + 2 margin, 3].
    """
    x, y, scale = window
    vertices = rotated(surfaces, rotation)
    side = CROP_SIZE + 2 * margin
    # Pixels of the supersampled picture, whose centres are at (p + 0.5) / 2 - 0.5.
    fine = (vertices - np.array([x, y, 0])) / scale
    fine[:, :2] = (fine[:, :2] + margin + 0.5) * _SUPERSAMPLING - 0.5
    count = side * _SUPERSAMPLING
    fragments = rasterizer.rasterize(fine, surfaces.triangles, count, count)
    places = shading.interpolate(surfaces.vertices[:, :2], surfaces.triangles, fragments)
    empty = fragments.triangle_index < 0
    if empty.any():  # beyond the sheet, which stands still there
        rows, columns = np.nonzero(empty)
        pixels = (np.stack([columns, rows], axis=1) + 0.5) / _SUPERSAMPLING - 0.5 - margin
        places[empty] = pixels * scale + [x, y]
    return _sampled(image, places + (image.shape[0] - CROP_SIZE) / 2)


def _sampled(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Picture uint8 [H, W, 3] of an image at the places [2 H, 2 W, 2] of its four samples per pixel.

    One sample at their mean where the four are close to each other, which keeps an unturned photo as it is; the mean of
    four samples at edges and where the photo is reduced.
    """
    height, width = places.shape[0] // 2, places.shape[1] // 2
    four = places.reshape(height, 2, width, 2, 2).transpose(1, 3, 0, 2, 4).reshape(4, height, width, 2)
    spread = np.ptp(four, axis=0).max(axis=-1)
    one = _remap(image, four.mean(axis=0))
    rows, columns = np.nonzero(spread > 1.0)
    if len(rows):
        samples = _remap(image, four[:, rows, columns].reshape(4, -1, 2))
        one[rows, columns] = samples.mean(axis=0)
    return np.clip(np.rint(one), 0, 255).astype(np.uint8)


def _remap(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    places = np.ascontiguousarray(places, np.float32)
    # cv2.remap rounds places to 1/32 pixel and takes at most 32,767 columns.
    parts = np.array_split(places, max(1, -(-places.shape[1] // 30_000)), axis=1)
    drawn = [cv2.remap(image, part, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101) for part in parts]
    return np.concatenate(drawn, axis=1).astype(np.float32)
