"""Face profiling: a photo of a face, turned out of the picture plane with the fitted mesh.

Source: Zhu et al., Face Alignment Across Large Poses: A 3D Solution (CVPR 2016), by which 300W-LP was made.

Two surfaces carry the photo as their texture: the fitted mesh, and behind it a sheet, a grid over the whole picture.
Hidden parts of the mesh get the colours of the nearest shown skin: the mirrored side would not help, because a face
that turns away further shows the side that was seen better all along. Over the face the sheet follows the mesh and
closes its gaps, as an open mouth. Around the face it continues the depth of the outline, which falls off to a plane
behind the head, as hair and neck do. The sheet turns with the head near the face and keeps its place far from it, so
that the background fills the picture in every pose.

Frame: pixels of the 120-pixel crop, y down, larger z nearer. An image [S, S, 3] is the crop with a margin of
(S - 120) / 2 pixels. Lengths named "share" are relative to the size of the face, the longer side of its landmarks' box.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import scipy.spatial
from scipy.spatial.transform import Rotation

from twodal_jax.rendering import rasterizer, shading

CROP_SIZE = 120
_SPACING = 3  # of the sheet's grid, pixels
_OUTSIDE = 40  # pixels by which the sheet extends beyond the image
_GRAZING = 0.1  # vertices at a smaller cosine to the line of sight are not taken from the photo
# Share from the border of the mesh within which it does not replace the photo: the same head continues beyond.
_BORDER = 0.14
_HIDDEN_REACH = 0.4  # share from the nearest shown vertex up to which hidden parts of the mesh are drawn
_HIDDEN = 1.0  # depth in pixels by which a vertex of the mesh may lie behind its surface and count as shown
_BEHIND = 1.5  # pixels by which the sheet lies behind the mesh
# Share of distance within which the farthest part of the mesh determines the depth of the sheet at the outline, so that
# the sheet passes behind parts that the photo hides.
_TUCK = 0.12
_RIM = 3  # pixels inside the outline at which its depth is measured; at the outline itself it is too steep
# Share inside the outline up to which the photo is not trusted: with the fit off by a pixel it shows the background
# there, and a turn stretches that pixel over jaw and neck. The skin within is drawn out over the rim, at turns of more
# than `_DRAWN_OUT` degrees completely.
_UNSURE, _DRAWN_OUT = 0.08, 20.0
_HEAD_DEPTH = 1.15  # share from the nearest point of the face to the plane behind the head
_FALL_OFF = 0.3  # share of distance from the outline in which the depth falls by 1 - 1/e
# Shares of distance from the outline: up to the first the sheet turns with the head, from the second on it stands
# still. The latter is smaller on the side that turns away, where hair and skin disappear behind the head.
_RIGID, _STILL, _STILL_AWAY = 0.1, 0.9, 0.4
_SOURCES, _NEIGHBOURS = 1500, 12  # hidden vertices get the mean colour of so many of these shown ones
_SUPERSAMPLING = 2


class Relief(NamedTuple):
    """The two textured surfaces of a photo, in the pose of the photo.

    Attributes:
      vertices: float32 [V, 3], crop pixels; the sheet's, then the mesh's.
      triangles: int32 [T, 3].
      image: uint8 [S, S, 3], the photo.
      inward: float32 [V, 2], from a vertex's place in the photo to the place whose colour it has after a large turn.
      fill: float32 [V, 4], BGR of a vertex that the photo does not show, and 1; 0 for the others.
      distance: float32 [V], share from the outline of the face in the picture; 0 on the face.
      centre: float32 [3], the point about which the head turns.
      size: of the face, pixels.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    image: np.ndarray
    inward: np.ndarray
    fill: np.ndarray
    distance: np.ndarray
    centre: np.ndarray
    size: float


def border_vertices(triangles: np.ndarray) -> np.ndarray:
    """Vertices [K] at the open border of a mesh: ends of edges that belong to one triangle of [T, 3]."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    edges, count = np.unique(edges, axis=0, return_counts=True)
    return np.unique(edges[count == 1])


def relief(
    image: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, landmark_indices: np.ndarray, border: np.ndarray
) -> Relief:
    """Surfaces of a photo from its fitted mesh.

    Args:
      image: BGR uint8 [S, S, 3], S = 120 + 2 margin.
      vertices: [N, 3], crop pixels, y down, larger z nearer.
      triangles: [T, 3], counter-clockwise seen from outside when y is UP.
      landmark_indices: [68] vertices.
      border: of `border_vertices`.

    Raises:
      ValueError: the mesh is not finite, lies outside the image, or is much smaller or larger than the crop.
    """
    image_size = len(image)
    vertices = np.asarray(vertices, np.float32)
    landmarks = vertices[landmark_indices]
    size = float(np.ptp(landmarks[:, :2], axis=0).max())
    if not (np.isfinite(vertices).all() and CROP_SIZE / 8 < size < CROP_SIZE * 4):
        raise ValueError(f"vertices: expected a finite face of 15 to 480 pixels, got one of {size:.3g} pixels")
    centre = np.append(landmarks[:, :2].mean(axis=0), vertices[:, 2].max() - 0.6 * size).astype(np.float32)
    # A canvas with a border: parts of the mesh outside the image hide others all the same.
    origin = (CROP_SIZE - image_size) // 2 - _OUTSIDE
    side = CROP_SIZE - 2 * origin
    canvas = vertices - np.array([origin, origin, 0], np.float32)
    fragments = rasterizer.rasterize(canvas, triangles, side, side)
    shown = rasterizer.visible_vertices(canvas, triangles, side, side, _HIDDEN, fragments)
    facing = shading.vertex_normals(vertices * np.array([1, -1, 1], np.float32), triangles)[:, 2]
    face = _filled(np.isfinite(fragments.depth))
    shown &= facing > _GRAZING
    inward = _inward(canvas, face, _UNSURE * size)
    unsure = np.flatnonzero(~shown | inward.any(axis=1))
    inside = np.ones(len(vertices), np.float32)
    inside[unsure] = shading.smooth_step(_distance(canvas[unsure], canvas[border]) / (_BORDER * size))
    inward *= inside[:, None]
    places = vertices[:, :2] + inward + (image_size - CROP_SIZE) / 2
    fill, drawn = _fill(image, canvas, places, shown, size)
    drawn &= shown | (inside >= 1)
    kept = triangles[drawn[triangles].all(axis=1)]
    back = -rasterizer.rasterize(canvas * np.array([1, 1, -1], np.float32), triangles, side, side).depth

    sheet, distance = _sheet(fragments.depth, back, face, size)
    sheet += np.array([origin, origin, 0], np.float32)
    return Relief(
        np.concatenate([sheet, vertices]),
        np.concatenate([_grid_triangles(int(np.sqrt(len(sheet)))), kept + len(sheet)]).astype(np.int32),
        image,
        np.concatenate([np.zeros((len(sheet), 2)), inward]).astype(np.float32),
        np.concatenate([np.zeros((len(sheet), 4)), fill]).astype(np.float32),
        np.concatenate([distance / size, np.zeros(len(vertices))]).astype(np.float32),
        centre,
        size,
    )


def _distance(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance [N] from points [N, 3] to the nearest of others [K, 3]; inf without others."""
    return scipy.spatial.cKDTree(others).query(points)[0] if len(others) else np.full(len(points), np.inf)


def _inward(canvas: np.ndarray, face: np.ndarray, width: float) -> np.ndarray:
    """Way float32 [N, 2] from vertices to where they take their colour from after a large turn.

    A vertex at d < width from the outline takes it from the place (d + width) / 2 from it.

    Args:
      canvas: [N, 3], vertices.
      face: uint8 [H, W], 1 inside the outline.
      width: pixels.
    """
    depth_inside = cv2.distanceTransform(face, cv2.DIST_L2, cv2.DIST_MASK_5)
    inner = depth_inside >= min(width, depth_inside.max())
    place_of, label = _labels(inner)
    places = cv2.GaussianBlur(place_of[label].astype(np.float32), (0, 0), 1.0)
    column, row = np.clip(np.rint(canvas[:, :2]), 0, np.array(face.shape[::-1]) - 1).astype(int).T
    return np.where(inner[row, column, None], 0, 0.5 * (places[row, column] - canvas[:, :2])).astype(np.float32)


def _fill(
    image: np.ndarray, vertices: np.ndarray, places: np.ndarray, shown: np.ndarray, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of hidden vertices: means of near shown ones.

    Args:
      image: uint8 [S, S, 3].
      vertices: [N, 3].
      places: [N, 2], pixels of the image from which vertices take their colour.
      shown: bool [N].
      size: of the face.

    Returns:
      float32 [N, 4], `Relief.fill`, and bool [N], whether the vertex is shown or near a shown one.
    """
    fill = np.zeros((len(vertices), 4), np.float32)
    sources, hidden = np.flatnonzero(shown), np.flatnonzero(~shown)
    sources = sources[:: max(1, len(sources) // _SOURCES)]
    if len(sources) < _NEIGHBOURS or not len(hidden):
        return fill, shown
    reach, nearest = scipy.spatial.cKDTree(vertices[sources]).query(vertices[hidden], _NEIGHBOURS)
    weight = 1 / (reach.astype(np.float32) ** 2 + 1)
    weight /= weight.sum(axis=1, keepdims=True)
    colours = _remap(image, places[sources][None])[0]
    fill[hidden, :3] = np.einsum("nk,nkc->nc", weight, colours[nearest])
    fill[hidden, 3] = 1
    drawn = shown.copy()
    drawn[hidden] = reach[:, 0] < _HIDDEN_REACH * size
    return fill, drawn


def _labels(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (x, y) [L, 2] of a mask's pixels, and for each pixel [H, W] the index of the nearest one."""
    _, label = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place_of = np.zeros((label.max() + 1, 2), int)
    place_of[label[mask]] = np.argwhere(mask)[:, ::-1]
    return place_of, label


def _sheet(depth: np.ndarray, back: np.ndarray, face: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Points [G * G, 3] of the sheet in pixels of the canvas, and their distances [G * G] from the face's outline.

    Args:
      depth: [H, W], of the mesh, -inf where it is not.
      back: [H, W], of the farthest surface of the mesh, inf where it is not.
      face: uint8 [H, W], 1 inside the outline.
      size: of the face.
    """
    inner = cv2.erode(face, np.ones((3, 3), np.uint8), iterations=_RIM, borderValue=0)
    if not inner.any():
        inner = face
    known = (inner > 0) & np.isfinite(depth)
    if not known.any():
        raise ValueError("vertices: the mesh covers no pixel of the image")
    # The nearest known depth: continues the surface over its own steep rim and over the mouth.
    place_of, label = _labels(known)
    column, row = place_of[label].transpose(2, 0, 1)
    nearest = cv2.GaussianBlur(depth[row, column], (0, 0), 1.0)
    outside, inside = (cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5) for mask in (1 - face, face))

    grid = np.arange(0, len(depth), _SPACING)
    columns, rows = (axis.ravel() for axis in np.meshgrid(grid, grid))
    distance, z = outside[rows, columns], nearest[rows, columns]
    # At the outline, the farthest depth near it; weighted by nearness, which is smooth where the nearest point jumps.
    line = max(cv2.findContours(inner, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)[::4, 0]
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * int(_TUCK * size) + 1,) * 2)
    farthest = cv2.erode(np.where(np.isfinite(back), back, np.float32(1e6)).astype(np.float32), window)
    beside = np.flatnonzero(inside[rows, columns] < 5 * _SPACING)
    squared = (columns[beside, None] - line[None, :, 0]) ** 2 + (rows[beside, None] - line[None, :, 1]) ** 2
    share = 1 / (squared.astype(np.float32) + 1) ** 2
    edge = share @ farthest[line[:, 1], line[:, 0]] / share.sum(axis=1)
    plane = depth[known].max() - _HEAD_DEPTH * size
    near = np.exp(-((distance[beside] / (_FALL_OFF * size)) ** 2))
    around = np.minimum(plane, edge) + np.maximum(edge - plane, 0) * near
    tucked = np.exp(-((inside[rows, columns][beside] / (2 * _SPACING)) ** 2))
    z[beside] += tucked * (np.minimum(around, z[beside]) - z[beside])
    return np.stack([columns, rows, z - _BEHIND], axis=1).astype(np.float32), distance


def _filled(mask: np.ndarray) -> np.ndarray:
    """Mask uint8 [H, W] with its holes filled."""
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), lines, -1, 1, cv2.FILLED)


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
    aside = shading.smooth_step((offset[:, :2] @ away / surfaces.size + 0.3) / 0.6)
    limit = _STILL + (_STILL_AWAY - _STILL) * aside
    weight = 1 - shading.smooth_step((surfaces.distance - _RIGID) / (limit - _RIGID))[:, None]
    return weight * turned + (1 - weight) * still


def turn(surfaces: Relief, rotation: np.ndarray, window: np.ndarray, margin: int) -> np.ndarray:
    """Draws the photo after a turn of the head.

    Args:
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
    angle = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    strength = shading.smooth_step(angle / _DRAWN_OUT)
    origins = surfaces.vertices[:, :2] + strength * surfaces.inward
    values = shading.interpolate(np.hstack([origins, strength * surfaces.fill]), surfaces.triangles, fragments)
    places, fill = values[..., :2], values[..., 2:]
    empty = fragments.triangle_index < 0
    if empty.any():  # beyond the sheet, which stands still there
        rows, columns = np.nonzero(empty)
        pixels = (np.stack([columns, rows], axis=1) + 0.5) / _SUPERSAMPLING - 0.5 - margin
        places[empty] = pixels * scale + [x, y]
    drawn = _sampled(surfaces.image, places + (len(surfaces.image) - CROP_SIZE) / 2)
    fill = cv2.resize(fill, (side, side), interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(drawn * (1 - fill[..., 3:]) + fill[..., :3]), 0, 255).astype(np.uint8)


def _sampled(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Picture float32 [H, W, 3] of an image at the places [2 H, 2 W, 2] of its four samples per pixel.

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
    return one


def _remap(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    places = np.ascontiguousarray(places, np.float32)
    # cv2.remap rounds places to 1/32 pixel and takes at most 32,767 columns.
    parts = np.array_split(places, max(1, -(-places.shape[1] // 30_000)), axis=1)
    drawn = [cv2.remap(image, part, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101) for part in parts]
    return np.concatenate(drawn, axis=1).astype(np.float32)
