"""Skin from the photo: colours of the vertices, and a texture of the whole face.

Frames: vertices in image pixels, y down, larger z nearer; UV as in `uv`. Pictures are BGR. What the photo
does not show comes from the mirrored side of the face, and what neither side shows is continued smoothly;
`source` says which is which.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from twodal_jax.rendering import rasterizer, shading, symmetric_fill
from twodal_jax.rendering.symmetric_fill import MIRRORED, MirrorPoints, SEEN
from twodal_jax.rendering.uv import split_seam

OUTSIDE = 255
# Cosine of the angle between normal and line of sight: below the first a pixel of the photo is smeared over
# the skin, above the second it is as good as any.
GRAZING, FRONTAL = 0.15, 0.45
# Distance from the face's outline, as a share of its size: a reconstruction is not exact, and nearer than the
# first a pixel may well belong to the background.
RIM, WELL_INSIDE = 0.018, 0.04
# Visibility is decided on a canvas of this size, whatever the size of the face in the photo.
_CANVAS = 450
# Rings of vertices over which the photo gives way to the mirror image where something hides the skin.
_FEATHER_RINGS = 8


class VertexVisibility(NamedTuple):
    """How well the vertices of a mesh are seen, apart from the border of the photo.

    Attributes:
      visible: bool [N], not hidden by another part of the mesh.
      facing: float32 [N], z of the outward unit normal, 1 towards the viewer.
      depth_inside: float32 [N], distance from the outline of the mesh in the picture, as a share of its size.
    """

    visible: np.ndarray
    facing: np.ndarray
    depth_inside: np.ndarray


def sight(vertices: np.ndarray, triangles: np.ndarray) -> VertexVisibility:
    """How well each vertex is seen: vertices [N, 3], pixels of any size, y down; triangles [T, 3]."""
    vertices = np.asarray(vertices, np.float32)
    low, high = np.nanmin(vertices[:, :2], axis=0), np.nanmax(vertices[:, :2], axis=0)
    scale = (_CANVAS - 5) / max(float((high - low).max()), 1e-6)
    on_canvas = ((vertices - np.append(low, 0)) * scale + [2, 2, 0]).astype(np.float32)
    fragments = rasterizer.rasterize(on_canvas, triangles, _CANVAS, _CANVAS)
    visible = rasterizer.visible_vertices(on_canvas, triangles, _CANVAS, _CANVAS, 1.5, fragments)
    covered = _without_holes(fragments.triangle_index >= 0)
    distance = cv2.distanceTransform(covered, cv2.DIST_L2, 5) / _CANVAS
    column, row = np.clip(np.nan_to_num(np.rint(on_canvas[:, :2])), 0, _CANVAS - 1).astype(int).T
    return VertexVisibility(visible, _towards_viewer(vertices, triangles), distance[row, column])


def _without_holes(covered: np.ndarray) -> np.ndarray:
    """uint8 [H, W]: the mask with what it encloses, such as an open mouth, where no background shows."""
    lines, _ = cv2.findContours(covered.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(covered.shape, np.uint8), lines, -1, 1, cv2.FILLED)


def _towards_viewer(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """[N]: z of the outward unit normals."""
    upward = np.asarray(vertices, np.float32) * np.array([1, -1, 1], np.float32)
    return shading.vertex_normals(upward, triangles)[:, 2]


def _inside(vertices: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    x, y = vertices[:, 0], vertices[:, 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def vertex_colours(
    image: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, seen: VertexVisibility | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the vertices in a photo.

    Args:
      image: BGR uint8 [H, W, 3]. vertices: [N, 3], image pixels, y down, larger z nearer.
      triangles: [T, 3], counter-clockwise seen from outside when y is UP.
      seen: the mesh's `sight`, if there is one already.

    Returns:
      float32 [N, 3], BGR from 0 to 1, bilinear samples (outside the photo those of its border), and known
      bool [N]: visible, inside the photo, not at a grazing angle nor on the outline.
    """
    vertices = np.asarray(vertices, np.float32)
    seen = sight(vertices, triangles) if seen is None else seen
    known = seen.visible & _inside(vertices, image) & (seen.facing > GRAZING) & (seen.depth_inside > RIM)
    return _sample(image, vertices[:, :2]), known


def _sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    # By hand: cv2.remap rounds places to 1/32 pixel and takes no picture of more than 32,767 rows.
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
    """float32 [N]: how far the photo's pixel at a vertex may be taken for its skin; falls softly to 0."""
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
    uv: np.ndarray,
    size: int = 1024,
    mirror: MirrorPoints | np.ndarray | None = None,
    seen: VertexVisibility | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The face's skin laid flat, sampled from the photo texel by texel.

    Args:
      image: BGR uint8 [H, W, 3]. vertices: [N, 3], image pixels, y down, larger z nearer.
      triangles: [T, 3], counter-clockwise seen from outside when y is UP.
      uv: [N, 2], see `uv`; the seam is taken care of here. size: texels a side.
      mirror: `symmetric_fill.mirror_points` of the mean shape, or `mirror_index`; None leaves symmetry out.
      seen: the mesh's `sight`, if there is one already.

    Returns:
      BGR uint8 [size, size, 3], v upwards, with the chart's border continued outwards; and source uint8
      [size, size]: 0 from the photo, 1 from the mirrored side, 2 continued, 255 outside the chart.

    Raises:
      ValueError: arrays of other shapes, or a size that is not positive.
    """
    vertices, triangles = np.asarray(vertices, np.float32), np.asarray(triangles, np.int32)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected BGR uint8 [H, W, 3], got {image.dtype} {image.shape}")
    if len(uv) != len(vertices):
        raise ValueError(f"uv: expected one row for each of {len(vertices)} vertices, got {len(uv)}")
    seen = sight(vertices, triangles) if seen is None else seen
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
    # From the least to the most trusted: each lies over what is known less well.
    for start, name in ((6, MIRRORED), (0, SEEN))[mirror is None :]:
        weight = values[..., start + 2 : start + 3]
        texture += weight * (_samples(window, values[..., start : start + 2]) - texture)
        source[weight[..., 0] >= 0.5] = name
    inside = fragments.triangle_index >= 0
    source[~inside] = OUTSIDE
    return _continued(np.clip(np.rint(texture), 0, 255).astype(np.uint8), inside), source


def _chart(uv: np.ndarray, triangles: np.ndarray, size: int):
    """The mesh laid flat, and what the rasteriser sees of it in a texture of `size` texels."""
    flat = split_seam(uv, triangles)
    texels = np.stack([flat.uv[:, 0] * size - 0.5, (1 - flat.uv[:, 1]) * size - 0.5], axis=1)
    level = np.zeros((len(texels), 1), np.float32)
    return flat, rasterizer.rasterize(np.hstack([texels, level]), flat.triangles, size, size)


def _nearest_corner(fragments: rasterizer.Fragments, triangles: np.ndarray) -> np.ndarray:
    """int [H, W]: the vertex nearest to each pixel's place on its triangle; any where there is none."""
    first, second, third = np.moveaxis(fragments.barycentric, -1, 0)
    corner = np.where(third > np.maximum(first, second), 2, second > first)
    return triangles[fragments.triangle_index, corner]


def _reduced(image: np.ndarray, vertices: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The photo around the face, not much finer than the texture, and the vertices' places [N, 2] in it."""
    limit = np.array([image.shape[1] - 1, image.shape[0] - 1])
    places = np.nan_to_num(vertices[:, :2])
    low = np.clip(np.floor(places.min(axis=0)) - 2, 0, limit).astype(int)
    high = np.clip(np.ceil(places.max(axis=0)) + 2, 0, limit).astype(int) + 1
    window = image[low[1] : high[1], low[0] : high[0]]
    factor = max(window.shape[:2]) / size
    if factor > 1.5:  # else every texel would take one of many pixels
        reduced = [max(1, round(side / factor)) for side in window.shape[1::-1]]
        window = cv2.resize(window, reduced, interpolation=cv2.INTER_AREA)
    ratio = np.array(window.shape[1::-1]) / (high - low)
    return window, ((places - low + 0.5) * ratio - 0.5).astype(np.float32)


def _samples(window: np.ndarray, places: np.ndarray) -> np.ndarray:
    places = np.ascontiguousarray(places)
    samples = cv2.remap(window, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return samples.astype(np.float32)


def _continued(texture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Texels beyond the chart: near it those of its border, further away its mean colour.

    A bilinear filter at the border, and the coarse levels of a mipmap, then take no black.
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
    vertices: np.ndarray, triangles: np.ndarray, uv: np.ndarray, texture: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """A mesh drawn with its texture, without light.

    Args:
      vertices: [N, 3], pixels, y down. triangles: [T, 3]. uv: [N, 2]. texture: BGR uint8 [S, S, 3].
      height, width: size in pixels.

    Returns:
      BGR uint8 [H, W, 3], black outside, and bool [H, W], where the mesh is.
    """
    flat = split_seam(uv, triangles)
    vertices = np.asarray(vertices, np.float32)[flat.vertex]
    fragments = rasterizer.rasterize(vertices, flat.triangles, height, width)
    places = shading.interpolate(flat.uv, flat.triangles, fragments)
    size = np.array(texture.shape[1::-1], np.float32)
    places = np.stack([places[..., 0], 1 - places[..., 1]], axis=-1) * size - np.float32(0.5)
    inside = fragments.triangle_index >= 0
    drawn = cv2.remap(texture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside[..., None], drawn, 0).astype(np.uint8), inside
