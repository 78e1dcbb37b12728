"""A reconstruction on top of its photograph: the shaded mesh, and the pictures of an example."""

import numpy as np

from twodal_jax.rendering import drawing, shading

CLAY_BGR = (0.80, 0.86, 0.92)
# A lamp at the viewer's forehead: every face is lit alike, whatever its pose.
HEAD_LIGHT = shading.Light(
    direction=(0.0, 0.15, 1.0), colour=(0.72,) * 3, ambient=(0.24,) * 3, specular=0.06
)


def draw_mesh(canvas, vertices, triangles, *, scale=3, opacity=0.8, colours=None):
    """Draws a mesh over a picture, shaded by a head light and blended.

    Args:
      canvas: BGR uint8 [H, W, 3], the picture enlarged `scale` times (`drawing.upscale`).
      vertices: [N, 3], original pixels, y down, larger z nearer. Triangles with non-finite vertices
        are left out.
      triangles: [T, 3], 0-based, counter-clockwise seen from outside (y up).
      opacity: 0 (only the picture) to 1 (only the mesh).
      colours: [N, 3] BGR from 0 to 1, or None for clay.

    Returns:
      A new canvas.
    """
    vertices = np.asarray(vertices, np.float32)
    on_canvas = np.concatenate(
        [drawing.to_canvas(vertices, scale), vertices[:, 2:] * scale], axis=1
    ).astype(np.float32)
    if colours is None:
        colours = np.broadcast_to(np.float32(CLAY_BGR), vertices.shape)
    image, mask = shading.render(
        on_canvas, np.asarray(triangles), np.asarray(colours, np.float32), *canvas.shape[:2],
        light=HEAD_LIGHT,
    )  # fmt: skip
    cover = opacity * mask[..., None]
    blended = canvas.astype(np.float32) * (1.0 - cover) + 255.0 * opacity * image
    return np.clip(np.round(blended), 0, 255).astype(np.uint8)


def example_pictures(
    crop, heatmap, landmarks, vertices, triangles, *, landmarks_true=None, scale=3
) -> dict[str, np.ndarray]:
    """The pictures that show one reconstruction, as the report places them.

    Args:
      crop: BGR uint8 [120, 120, 3], what the network saw.
      heatmap: [120, 120, 1] in [-1, 1], the landmark heatmap it saw.
      landmarks: [68, >=2], predicted; vertices: [N, 3], predicted; both crop pixels, y down.
      triangles: [T, 3]. landmarks_true: [68, >=2], crop pixels, or None.
      scale: how much larger than the crop the pictures are.

    Returns:
      Caption → BGR uint8 picture [120 scale, 120 scale, 3].
    """
    canvas = drawing.upscale(crop, scale)
    marked = canvas
    if landmarks_true is not None:
        marked = drawing.draw_landmarks(
            marked, landmarks_true, scale=scale, color=drawing.TRUE_BGR
        )
    marked = drawing.draw_landmarks(marked, landmarks, scale=scale, color=drawing.PREDICTED_BGR)
    return {
        "input": canvas,
        "landmark heatmap": drawing.heatmap_picture(heatmap, scale),
        "68 landmarks": marked,
        "dense mesh": draw_mesh(canvas, vertices, triangles, scale=scale),
    }
