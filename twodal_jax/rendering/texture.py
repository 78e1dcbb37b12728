"""Vertex colours and a texture of the whole face from a photo.

Frames: vertices in image pixels, y down, larger z nearer; UV as in `uv`. Pictures are BGR. Skin that the photo does not
show is copied from the mirrored side of the face; where neither side shows it, the colours are continued smoothly.
`source` records the origin of each texel.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from twodal_jax.rendering import rasterizer, shading, symmetric_fill
from twodal_jax.rendering.symmetric_fill import MIRRORED, MirrorPoints, SEEN
from twodal_jax.rendering.uv import as_map, UvMap

OUTSIDE = 255
# Cosine of the angle between normal and line of sight: pixels of the photo are not used below the first, because they
# are stretched over the skin, and have full weight above the second.
GRAZING, FRONTAL = 0.15, 0.45
# Distance from the face's outline, as a share of its size: pixels are not used below the first, because they may belong
# to the background if the reconstruction is not exact, and have full weight above the second.
RIM, WELL_INSIDE = 0.018, 0.04
# Side of the canvas for the visibility test, pixels; it does not depend on the size of the face in the photo.
_CANVAS = 450
# Rings of vertices over which the photo is blended into the mirror image at hidden skin.
_FEATHER_RINGS = 8


class VertexVisibility(NamedTuple):
    """Visibility of the vertices of a mesh, without regard to the border of the photo.

    Attributes:
      visible: bool [N], not hidden by another part of the mesh.
      facing: float32 [N], z of the outward unit normal, 1 towards the viewer.
      depth_inside: float32 [N], distance from the outline of the mesh in the picture, as a share of its size.
    """

    visible: np.ndarray
    facing: np.ndarray
    depth_inside: np.ndarray


def vertex_visibility(vertices: np.ndarray, triangles: np.ndarray) -> VertexVisibility:
    """Visibility of each vertex: vertices [N, 3], pixels, y down, a mesh of any size; triangles [T, 3]."""
    vertices = np.asarray(vertices, np.float32)
    low, high = np.nanmin(vertices[:, :2], axis=0), np.nanmax(vertices[:, :2], axis=0)
    scale = (_CANVAS - 5) / max(float((high - low).max()), 1e-6)
    on_canvas = ((vertices - np.append(low, 0)) * scale + [2, 2, 0]).astype(np.float32)
    fragments = rasterizer.rasterize(on_canvas, triangles, _CANVAS, _CANVAS)
    visible = rasterizer.visible_vertices(on_canvas, triangles, _CANVAS, _CANVAS, 1.5, fragments)
    covered = _without_holes(fragments.triangle_index >= 0)
    distance = cv2.distanceTransform(covered, cv2.DIST_L2, 5) / _CANVAS
    column, row = np.clip(np.nan_to_num(np.rint(on_canvas[:, :2])), 0, _CANVAS - 1).astype(int).T
    upward = vertices * np.array([1, -1, 1], np.float32)
    return VertexVisibility(visible, shading.vertex_normals(upward, triangles)[:, 2], distance[row, column])


def _without_holes(covered: np.ndarray) -> np.ndarray:
    """Mask, uint8 [H, W], with its holes filled: an open mouth, for example, shows no background."""
    lines, _ = cv2.findContours(covered.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(covered.shape, np.uint8), lines, -1, 1, cv2.FILLED)


def vertex_colours(
    image: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, seen: VertexVisibility | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the vertices in a photo.

    Args:
      image: BGR uint8 [H, W, 3].
      vertices: [N, 3], image pixels, y down, larger z nearer.
      triangles: [T, 3], counter-clockwise seen from outside when y is UP.
      seen: `vertex_visibility` of the mesh, or None.

    Returns:
      float32 [N, 3], BGR from 0 to 1, bilinear samples (outside the photo those of its border), and known bool [N]:
      visible, inside the photo, not at a grazing angle and not at the outline.
    """
    vertices = np.asarray(vertices, np.float32)
    seen = vertex_visibility(vertices, triangles) if seen is None else seen
    points, last_pixel = vertices[:, :2], np.array(image.shape[1::-1]) - 1
    inside = ((points >= 0) & (points <= last_pixel)).all(axis=1)
    known = seen.visible & inside & (seen.facing > GRAZING) & (seen.depth_inside > RIM)
    return _sample(image, points), known


def _sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    # Not cv2.remap: it rounds positions to 1/32 pixel and refuses pictures of more than 32,767 rows.
    height, width = image.shape[:2]
    points = np.nan_to_num(points, nan=0.0)
    x, y = np.clip(points[:, 0], 0, width - 1), np.clip(points[:, 1], 0, height - 1)
    left, top = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    dx, dy = (x - left)[:, None], (y - top)[:, None]
    above = image[top, left] * (1 - dx) + image[top, right] * dx
    below = image[bottom, left] * (1 - dx) + image[bottom, right] * dx
    return ((above * (1 - dy) + below * dy) / 255).astype(np.float32)


def _trust(known: np.ndarray, seen: VertexVisibility, smooth) -> np.ndarray:
    """Weight of the photo at each vertex, float32 [N]; falls smoothly to 0 where `known` is False."""
    inner = known.astype(np.float32)
    for _ in range(_FEATHER_RINGS):
        inner = smooth @ inner
    return (
        known
        * np.clip(2 * inner - 1, 0, 1)
        * _ramp(seen.facing, GRAZING, FRONTAL)
        * _ramp(seen.depth_inside, RIM, WELL_INSIDE)
    )


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((values - low) / (high - low), 0, 1)
    return share**2 * (3 - 2 * share)


def uv_texture(
    image: np.ndarray,
    vertices: np.ndarray,
    triangles: np.ndarray,
    uv: np.ndarray | UvMap,
    size: int = 1024,
    mirror: MirrorPoints | None = None,
    seen: VertexVisibility | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Texture of a face, sampled from the photo texel by texel.

    Args:
      image: BGR uint8 [H, W, 3].
      vertices: [N, 3], image pixels, y down, larger z nearer.
      triangles: [T, 3], counter-clockwise seen from outside when y is UP.
      uv: [N, 2], see module `uv`; this function splits the seam.
      size: side of the texture, texels.
      mirror: `symmetric_fill.mirror_points` of the mean shape; None does without symmetry.
      seen: `vertex_visibility` of the mesh, or None.

    Returns:
      BGR uint8 [size, size, 3], v upwards, with the border of the chart continued outwards, and source uint8
      [size, size]: 0 from the photo, 1 from the mirrored side, 2 continued, 255 outside the chart.

    Raises:
      ValueError: arrays of other shapes, or a size that is not positive.
    """
    vertices, triangles = np.asarray(vertices, np.float32), np.asarray(triangles, np.int32)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected BGR uint8 [H, W, 3], got {image.dtype} {image.shape}")
    if not isinstance(uv, UvMap) and len(uv) != len(vertices):
        raise ValueError(f"uv: expected one row for each of {len(vertices)} vertices, got {len(uv)}")
    seen = vertex_visibility(vertices, triangles) if seen is None else seen
    colours, known = vertex_colours(image, vertices, triangles, seen)
    trust = _trust(known, seen, symmetric_fill.neighbour_mean(triangles, len(vertices)))
    filled, source = symmetric_fill.fill_by_symmetry(colours, known, mirror, vertices, triangles)
    window, places = _reduced(image, vertices, size)
    attributes = [places, trust[:, None], 255 * filled]
    if mirror is not None:
        attributes += [symmetric_fill.mirrored(np.hstack(attributes[:2]), mirror)]
    flat, fragments = _chart(uv, triangles, size)
    values = shading.interpolate(np.hstack(attributes)[flat.vertex], flat.triangles, fragments)
    texture, source = values[..., 3:6], source[flat.vertex][_nearest_corner(fragments, flat.triangles)]
    # The mirrored side first, then the photo over it.
    for start, name in ((6, MIRRORED), (0, SEEN))[mirror is None :]:
        weight = values[..., start + 2 : start + 3]
        texture += weight * (_samples(window, values[..., start : start + 2]) - texture)
        source[weight[..., 0] >= 0.5] = name
    inside = fragments.triangle_index >= 0
    source[~inside] = OUTSIDE
    return _continued(np.clip(np.rint(texture), 0, 255).astype(np.uint8), inside), source


def _chart(uv: np.ndarray | UvMap, triangles: np.ndarray, size: int):
    """The mesh in UV space, and its fragments in a texture of `size` texels."""
    flat = as_map(uv, triangles)
    texels = np.stack([flat.uv[:, 0] * size - 0.5, (1 - flat.uv[:, 1]) * size - 0.5], axis=1)
    level = np.zeros((len(texels), 1), np.float32)
    return flat, rasterizer.rasterize(np.hstack([texels, level]), flat.triangles, size, size)


def _nearest_corner(fragments: rasterizer.Fragments, triangles: np.ndarray) -> np.ndarray:
    """Corner with the largest weight at each pixel, int [H, W]; arbitrary without a triangle."""
    first, second, third = np.moveaxis(fragments.barycentric, -1, 0)
    corner = np.where(third > np.maximum(first, second), 2, second > first)
    return triangles[fragments.triangle_index, corner]


def _reduced(image: np.ndarray, vertices: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Window of the photo around the face, reduced to about the texture's resolution, and the vertices [N, 2] in it."""
    limit = np.array([image.shape[1] - 1, image.shape[0] - 1])
    places = np.nan_to_num(vertices[:, :2])
    low = np.clip(np.floor(places.min(axis=0)) - 2, 0, limit).astype(int)
    high = np.clip(np.ceil(places.max(axis=0)) + 2, 0, limit).astype(int) + 1
    window = image[low[1] : high[1], low[0] : high[0]]
    factor = max(window.shape[:2]) / size
    if factor > 1.5:  # otherwise a texel would sample one of many pixels
        reduced = [max(1, round(side / factor)) for side in window.shape[1::-1]]
        window = cv2.resize(window, reduced, interpolation=cv2.INTER_AREA)
    ratio = np.array(window.shape[1::-1]) / (high - low)
    return window, ((places - low + 0.5) * ratio - 0.5).astype(np.float32)


def _samples(window: np.ndarray, places: np.ndarray) -> np.ndarray:
    places = np.ascontiguousarray(places)
    samples = cv2.remap(window, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return samples.astype(np.float32)


def _continued(texture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Fills texels outside the chart: with the colours of its border nearby, with its mean colour further away.

    Bilinear filters at the border and coarse levels of a mipmap then contain no black.
    """
    if inside.all() or not inside.any():
        return texture
    distance, labels = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colour_of = np.zeros((labels.max() + 1, 3), np.uint8)
    colour_of[labels[inside]] = texture[inside]
    result = colour_of[labels]
    result[distance > max(4, len(texture) // 64)] = np.rint(texture[inside].mean(axis=0))
    return result


def draw_textured(
    vertices: np.ndarray, triangles: np.ndarray, uv: np.ndarray | UvMap, texture: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Renders a mesh with its texture, without light.

    Args:
      vertices: [N, 3], pixels, y down, larger z nearer.
      triangles: [T, 3].
      uv: [N, 2], or a map of the mesh.
      texture: BGR uint8 [S, S, 3].
      height: of the image, pixels.
      width: of the image, pixels.

    Returns:
      BGR uint8 [H, W, 3], black outside, and bool [H, W], True on the mesh.
    """
    flat = as_map(uv, triangles)
    vertices = np.asarray(vertices, np.float32)[flat.vertex]
    fragments = rasterizer.rasterize(vertices, flat.triangles, height, width)
    places = shading.interpolate(flat.uv, flat.triangles, fragments)
    size = np.array(texture.shape[1::-1], np.float32)
    places = np.stack([places[..., 0], 1 - places[..., 1]], axis=-1) * size - np.float32(0.5)
    inside = fragments.triangle_index >= 0
    drawn = cv2.remap(texture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside[..., None], drawn, 0).astype(np.uint8), inside
