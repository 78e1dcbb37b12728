"""Shading of rasterised meshes: vertex normals, interpolation, light, shadows and the complete renderer.

Frames as in `rasterizer`: pixels, y DOWN, larger z nearer. Directions (normals, light) are in the viewer's frame with y
UP: (0, 0, 1) points to the viewer, and a light from above has positive y.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from twodal_jax.rendering import rasterizer
from twodal_jax.rendering.rasterizer import Fragments


class Light(NamedTuple):
    """One distant light and an ambient light.

    Attributes:
      direction: [3] towards the light, viewer's frame, y up; any length.
      colour: [3] factor of the distant light, in the colour order of the vertex colours.
      ambient: [3] factor of the ambient light.
      specular: strength of the highlight.
      shininess: exponent of the highlight; 8 to 30 resembles skin.
      harmonics: float32 [9, 3], `harmonics_of` an environment, which replaces `ambient`; or None.
    """

    direction: tuple[float, float, float] = (0.2, 0.4, 0.9)
    colour: tuple[float, float, float] = (0.75, 0.75, 0.75)
    ambient: tuple[float, float, float] = (0.35, 0.35, 0.35)
    specular: float = 0.08
    shininess: float = 14.0
    harmonics: np.ndarray | None = None


def _harmonic_basis(directions: np.ndarray) -> np.ndarray:
    """Real spherical harmonics up to degree 2: unit directions [..., 3] -> [..., 9]."""
    x, y, z = np.moveaxis(directions, -1, 0)
    bands = [np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x]
    bands += [1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z]
    return np.stack([*bands, 0.546274 * (x * x - y * y)], axis=-1)


def harmonics_of(directions: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Light that a matt surface reflects under distant lights, as spherical harmonics of its normal.

    Source: Ramamoorthi and Hanrahan, An Efficient Representation for Irradiance Environment Maps, SIGGRAPH 2001.

    Args:
      directions: [L, 3] towards the lights, viewer's frame, y up, unit length.
      colours: [L, 3], reflected by a white surface that faces the light.

    Returns:
      float32 [9, 3].
    """
    cosine_lobe = np.repeat([np.pi, 2 * np.pi / 3, np.pi / 4], [1, 3, 5])[:, None]
    return (cosine_lobe * (_harmonic_basis(directions).T @ colours)).astype(np.float32)


@njit(cache=True, nogil=True)
def _accumulate_normals(vertices, triangles, normals):
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax = vertices[j, 0] - vertices[i, 0]
        ay = vertices[j, 1] - vertices[i, 1]
        az = vertices[j, 2] - vertices[i, 2]
        bx = vertices[k, 0] - vertices[i, 0]
        by = vertices[k, 1] - vertices[i, 1]
        bz = vertices[k, 2] - vertices[i, 2]
        cx, cy, cz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for corner in (i, j, k):
            normals[corner, 0] += cx
            normals[corner, 1] += cy
            normals[corner, 2] += cz
    for n in range(normals.shape[0]):
        x, y, z = normals[n, 0], normals[n, 1], normals[n, 2]
        length = np.sqrt(x * x + y * y + z * z)
        if length > 0.0:
            normals[n, 0] = x / length
            normals[n, 1] = y / length
            normals[n, 2] = z / length


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted normals of the vertices.

    Args:
      vertices: [N, 3] in any right-handed frame.
      triangles: [T, 3], counter-clockwise seen from outside.

    Returns:
      float32 [N, 3] unit vectors pointing outwards, in the frame of the vertices; zero for vertices without a triangle.
      (A frame with y DOWN is left-handed: flip y first, as `render` does.)
    """
    vertices = np.ascontiguousarray(vertices, np.float32)
    triangles = np.ascontiguousarray(triangles, np.int32)
    normals = np.zeros(vertices.shape, np.float32)
    _accumulate_normals(vertices, triangles, normals)
    return normals


@njit(cache=True, nogil=True)
def _interpolate(attributes, triangles, triangle_index, barycentric, result):
    for row in range(triangle_index.shape[0]):
        for column in range(triangle_index.shape[1]):
            t = triangle_index[row, column]
            if t < 0:
                continue
            for corner in range(3):
                weight = barycentric[row, column, corner]
                vertex = triangles[t, corner]
                for c in range(attributes.shape[1]):
                    result[row, column, c] += weight * attributes[vertex, c]


def interpolate(attributes: np.ndarray, triangles: np.ndarray, fragments: Fragments) -> np.ndarray:
    """Interpolates per-vertex values at the pixels.

    Args:
      attributes: [N, C].
      triangles: [T, 3].
      fragments: of that mesh, [H, W].

    Returns:
      float32 [H, W, C]; zero without a triangle.

    Raises:
      ValueError: attributes is not [N, C].
    """
    attributes = np.ascontiguousarray(attributes, np.float32)
    if attributes.ndim != 2:
        raise ValueError(f"attributes: expected [N, C], got {attributes.shape}")
    shape = (*fragments.triangle_index.shape, attributes.shape[1])
    result = np.zeros(shape, np.float32)
    triangles = np.ascontiguousarray(triangles, np.int32)
    _interpolate(attributes, triangles, fragments.triangle_index, fragments.barycentric, result)
    return result


@njit(cache=True, nogil=True)
def _accumulate(attributes, triangles, triangle_index, barycentric, factor, result, mask):
    share = np.float32(1 / (factor * factor))
    for row in range(triangle_index.shape[0]):
        for column in range(triangle_index.shape[1]):
            t = triangle_index[row, column]
            if t < 0:
                continue
            r, s = row // factor, column // factor
            mask[r, s, 0] += share
            for corner in range(3):
                weight = share * barycentric[row, column, corner]
                vertex = triangles[t, corner]
                for c in range(attributes.shape[1]):
                    result[r, s, c] += weight * attributes[vertex, c]


def _average(
    attributes: np.ndarray, triangles: np.ndarray, fragments: Fragments, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """`interpolate`, averaged over blocks of factor x factor fragments: [H, W, C]; and the share covered [H, W, 1]."""
    height, width = (side // factor for side in fragments.depth.shape)
    result, mask = (np.zeros((height, width, channels), np.float32) for channels in (attributes.shape[1], 1))
    triangles = np.ascontiguousarray(triangles, np.int32)
    _accumulate(attributes, triangles, fragments.triangle_index, fragments.barycentric, factor, result, mask)
    return result, mask


def shade(normals: np.ndarray, albedo: np.ndarray, light: Light, gloss=1.0, lit=1.0) -> np.ndarray:
    """Lambert, ambient and soft Blinn shading.

    Args:
      normals: [..., 3] in the viewer's frame, y up, any length.
      albedo: [..., 3], 0 to 1.
      light: see `Light`.
      gloss: scalar or [..., 1], factor of the highlight (wet eyes and lips).
      lit: scalar or [..., 1], 0 in shadow to 1 in full light.

    Returns:
      float32 [..., 3], not clipped.
    """
    length = np.sqrt(np.einsum("...i,...i->...", normals, normals))[..., None]
    normals = normals / np.maximum(length, 1e-8)
    direction = _unit(light.direction)
    # Wrapped by a sixth, because skin scatters light beyond the terminator.
    diffuse = np.maximum((normals @ direction + 0.16) / 1.16, 0.0)[..., None] * lit
    half = _unit(direction + np.array([0.0, 0.0, 1.0], np.float32))
    highlight = np.maximum(normals @ half, 0.0)[..., None] ** light.shininess * lit
    if light.harmonics is None:  # ambient light is stronger from above than from below
        around = np.asarray(light.ambient, np.float32) * (0.85 + 0.15 * normals[..., 1:2])
    else:
        around = np.maximum(_harmonic_basis(normals).astype(np.float32) @ light.harmonics, 0)
    colour = np.asarray(light.colour, np.float32)
    shaded = albedo * (around + colour * diffuse)
    return (shaded + light.specular * gloss * colour * highlight).astype(np.float32)


def smooth_step(value: np.ndarray, start: float = 0.0, end: float = 1.0) -> np.ndarray:
    """0 at `start` to 1 at `end` (which may be the smaller one), with flat ends."""
    t = np.clip((value - start) / (end - start), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light, clipped to 0..1, to display values with sRGB's mean exponent of 2.2."""
    return np.clip(linear, 0, 1) ** np.float32(1 / 2.2)


def decode_srgb(encoded: np.ndarray) -> np.ndarray:
    """The inverse of `encode_srgb`."""
    return np.clip(encoded, 0, 1) ** np.float32(2.2)


def _unit(vector) -> np.ndarray:
    vector = np.asarray(vector, np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-8)


@njit(cache=True, nogil=True)
def _share_lit(points, depth, slack, lit):
    height, width = depth.shape
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            continue
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        seen, free = 0, 0.0
        for r in range(max(row - 1, 0), min(row + 2, height)):
            for c in range(max(column - 1, 0), min(column + 2, width)):
                seen += 1
                # A soft edge: light falls off between one and two slacks of depth.
                free += min(max(2.0 - (depth[r, c] - z) / slack, 0.0), 1.0)
        if seen > 0:
            lit[i, 0] = free / seen


def cast_shadow(vertices: np.ndarray, triangles: np.ndarray, direction, size: int = 128) -> np.ndarray:
    """Share of a distant light that reaches each vertex of a mesh past the mesh itself.

    Args:
      vertices: [N, 3], pixels, y down, larger z nearer.
      triangles: [T, 3].
      direction: [3] towards the light, viewer's frame, y up.
      size: of the shadow map, pixels.

    Returns:
      float32 [N, 1], 1 in light, 0 in shadow, with soft edges.
    """
    forward = _unit(np.asarray(direction, np.float32) * np.array([1, -1, 1], np.float32))
    helper = np.array([0, 1, 0] if abs(forward[1]) < 0.9 else [1, 0, 0], np.float32)
    across = _unit(np.cross(helper, forward))
    axes = np.stack([across, np.cross(forward, across), forward])
    seen = np.asarray(vertices, np.float32) @ axes.T
    bounds = [(float(np.nanmin(seen[:, i])), float(np.nanmax(seen[:, i]))) for i in range(2)]
    scale = (size - 1) / max(*(high - low for low, high in bounds), 1e-8)
    seen = seen * np.float32(scale)
    seen[:, :2] -= np.array([low * scale for low, _ in bounds], np.float32)
    lit = np.ones((len(seen), 1), np.float32)
    # Three pixels of slack prevent a surface from shadowing itself in grazing light.
    _share_lit(seen, rasterizer.rasterize(seen, triangles, size, size).depth, 3.0, lit)
    return lit


def render(
    vertices: np.ndarray,
    triangles: np.ndarray,
    colours: np.ndarray,
    height: int,
    width: int,
    light: Light = Light(),
    background: np.ndarray | None = None,
    *,
    gloss: np.ndarray | None = None,
    shadows: bool = False,
    supersample: int = 2,
    fine_mesh: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Renders a coloured mesh.

    Args:
      vertices: [N, 3], pixels, y down, larger z nearer.
      triangles: [T, 3], counter-clockwise seen from outside when y is UP, as in morphable models.
      colours: [N, 3] from 0 to 1, any colour order.
      height: of the image, pixels.
      width: of the image, pixels.
      light: see `Light`, in the colour order of `colours`.
      background: [H, W, 3] from 0 to 1, or None for black.
      gloss: [N, 1], factor of the highlight, or None for 1.
      shadows: whether the mesh casts shadows on itself.
      supersample: samples per pixel and axis, for smooth outlines.
      fine_mesh: the triangles are about as small as the pixels: faster, by shading the vertices, not the pixels, and
        without triangles seen from behind.

    Returns:
      image float32 [H, W, 3] clipped to 0..1, and mask float32 [H, W], the share of each pixel that the mesh covers.
    """
    vertices = np.asarray(vertices, np.float32)
    normals = vertex_normals(vertices * np.array([1, -1, 1], np.float32), triangles)
    # Sample i of pixel p is at p + (i + 0.5) / supersample - 0.5.
    scaled = vertices * supersample
    scaled[:, :2] += (supersample - 1) / 2
    size = height * supersample, width * supersample
    fragments = rasterizer.rasterize(scaled, triangles, *size, front_only=fine_mesh)
    one = np.ones((len(vertices), 1), np.float32)
    lit = cast_shadow(vertices, triangles, light.direction) if shadows else one
    gloss = one if gloss is None else gloss
    if fine_mesh:
        values = np.clip(shade(normals, np.asarray(colours, np.float32), light, gloss, lit), 0, 1)
        image, mask = _average(values, triangles, fragments, supersample)
    else:
        attributes = np.concatenate([normals, colours, gloss, lit], axis=1)
        inside = fragments.triangle_index >= 0
        pixels = interpolate(attributes, triangles, fragments)[inside]
        image = np.zeros((*inside.shape, 3), np.float32)
        image[inside] = shade(pixels[:, :3], pixels[:, 3:6], light, pixels[:, 6:7], pixels[:, 7:8])
        mask = _shrink(inside.astype(np.float32)[..., None], supersample)
        image = _shrink(np.clip(image, 0, 1), supersample)
    if background is not None:
        image = image + (1 - mask) * background
    return np.clip(image, 0, 1).astype(np.float32), mask[..., 0]


def _shrink(image: np.ndarray, factor: int) -> np.ndarray:
    height, width, channels = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor, channels)
    # A sum of slices is several times faster than a mean over two strided axes.
    total = sum(blocks[:, i, :, j] for i in range(factor) for j in range(factor))
    return total / np.float32(factor * factor)
