"""Overlays of a reconstruction on its photo: shaded mesh, vertices, landmarks."""

import numpy as np

from twodal_jax.rendering import drawing, shading
from twodal_jax.rendering.landmarks import draw_face_landmarks, visible_landmarks

# Side of the tiles in which a large photo is drawn: the rasteriser needs 400 bytes per pixel.
_TILE = 1024
CLAY_BGR = (0.80, 0.86, 0.92)
# A light at the viewer's forehead illuminates faces of all poses equally.
HEAD_LIGHT = shading.Light(direction=(0.0, 0.15, 1.0), colour=(0.72,) * 3, ambient=(0.24,) * 3, specular=0.06)


def draw_mesh(canvas, vertices, triangles, *, scale=3, opacity=0.8, colours=None, supersample=2):
    """Draws a mesh over a picture, shaded by `HEAD_LIGHT` and blended.

    Args:
      canvas: BGR uint8 [H, W, 3], the enlarged picture (`drawing.upscale`).
      vertices: [N, 3], original pixels, y down, larger z nearer. Triangles with non-finite vertices are skipped.
      triangles: [T, 3], 0-based, counter-clockwise seen from outside (y up).
      scale: canvas pixels per original pixel.
      opacity: 0 (only the picture) to 1 (only the mesh).
      colours: [N, 3] BGR from 0 to 1, or None for `CLAY_BGR`.
      supersample: samples per pixel and axis; 1 is twice as fast, with a rougher outline.

    Returns:
      A new canvas.
    """
    vertices = np.asarray(vertices, np.float32)
    on_canvas = np.concatenate([drawing.to_canvas(vertices, scale), vertices[:, 2:] * scale], axis=1).astype(np.float32)
    if colours is None:
        colours = np.broadcast_to(np.float32(CLAY_BGR), vertices.shape)
    canvas = canvas.copy()
    # Only the box of the face, because a photo can be a thousand times as large.
    left, top, right, bottom = _window(on_canvas, *canvas.shape[:2])
    for row in range(top, bottom, _TILE):
        for column in range(left, right, _TILE):
            tile = canvas[row : min(row + _TILE, bottom), column : min(column + _TILE, right)]
            image, mask = shading.render(
                on_canvas - np.float32([column, row, 0]),
                np.asarray(triangles),
                np.asarray(colours, np.float32),
                *tile.shape[:2],
                light=HEAD_LIGHT,
                supersample=supersample,
                fine_mesh=True,
            )
            cover = opacity * mask[..., None]
            blended = tile.astype(np.float32) * (1.0 - cover) + 255.0 * opacity * image
            tile[:] = np.clip(np.round(blended), 0, 255).astype(np.uint8)
    return canvas


def _window(points: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """Box (left, top, right, bottom) of the pixels of points [N, >=2], clipped to the picture."""
    points = points[np.isfinite(points).all(axis=1), :2]
    if not len(points):
        return 0, 0, 0, 0
    low = np.clip(points.min(axis=0) - 2, 0, [width, height]).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 3, 0, [width, height]).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def draw_face(
    photo,
    vertices,
    triangles,
    landmark_indices,
    *,
    mesh=True,
    landmarks=True,
    opacity=0.6,
    color=drawing.PREDICTED_BGR,
    supersample=2,
) -> np.ndarray:
    """Draws one reconstructed face over a photo; several faces are drawn in turn, the farthest first.

    Args:
      photo: BGR uint8 [H, W, 3], any size.
      vertices: [N, 3], pixels of the photo, y down, larger z nearer.
      triangles: [T, 3].
      landmark_indices: [68], vertices of the landmarks.
      mesh: whether to draw the mesh.
      landmarks: whether to draw the landmarks.
      opacity: of the mesh.
      color: of the landmarks, BGR.
      supersample: see `draw_mesh`.

    Returns:
      A new picture. The size of marks follows that of the face; hidden landmarks are rings.
    """
    photo = photo.copy()
    if mesh:
        photo = draw_mesh(photo, vertices, triangles, scale=1, opacity=opacity, supersample=supersample)
    if not landmarks:
        return photo
    points = np.asarray(vertices)[np.asarray(landmark_indices)]
    visible = visible_landmarks(vertices, triangles, landmark_indices, *photo.shape[:2])
    return draw_face_landmarks(photo, points, visible, color)


def draw_dense(photo, vertices, visible, codes, spacing: float = 5.0) -> np.ndarray:
    """Draws visible vertices of a face as dots with space between them: one vertex in each square of the photo.

    Args:
      photo: BGR uint8 [H, W, 3].
      vertices: [N, 3], pixels of the photo, y down.
      visible: bool [N].
      codes: [N, 3], red, green, blue from 0 to 1, such as `maps.normalised_coordinates`.
      spacing: pixels between dots on a face 255 pixels wide; proportional to the face, but at least 3.

    Returns:
      A new picture.
    """
    photo, points = photo.copy(), np.asarray(vertices)[:, :2]
    shown = np.flatnonzero(np.asarray(visible, bool) & np.isfinite(points).all(axis=1))
    if not len(shown):
        return photo
    unit = drawing.face_unit(points[shown])
    step = max(3.0, spacing * unit)
    cells = np.floor(points[shown] / step)
    shown = shown[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
    colours = np.rint(255 * np.clip(np.asarray(codes)[shown, ::-1], 0, 1))
    drawing.draw_dots(photo, points[shown], 0.27 * step, colours)
    return photo


def example_pictures(
    crop, heatmap, landmarks, vertices, triangles, *, landmarks_true=None, scale=3
) -> dict[str, np.ndarray]:
    """Four pictures of one reconstruction, in the order of the report.

    Args:
      crop: BGR uint8 [120, 120, 3], input of the network.
      heatmap: [120, 120, 1] in [-1, 1], its landmark heatmap.
      landmarks: [68, >=2], predicted, crop pixels, y down.
      vertices: [N, 3], predicted, crop pixels, y down.
      triangles: [T, 3].
      landmarks_true: [68, >=2], crop pixels, or None.
      scale: picture pixels per crop pixel.

    Returns:
      {caption: BGR uint8 picture [120 scale, 120 scale, 3]}.
    """
    canvas = drawing.upscale(crop, scale)
    marked = canvas
    if landmarks_true is not None:
        marked = drawing.draw_landmarks(marked, landmarks_true, scale=scale, color=drawing.TRUE_BGR)
    marked = drawing.draw_landmarks(marked, landmarks, scale=scale, color=drawing.PREDICTED_BGR)
    return {
        "input": canvas,
        "landmark heatmap": drawing.heatmap_picture(heatmap, scale),
        "68 landmarks": marked,
        "dense mesh": draw_mesh(canvas, vertices, triangles, scale=scale),
    }
