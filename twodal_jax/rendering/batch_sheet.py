"""Sheet of training faces as the network receives them, for a visual check."""

from collections.abc import Sequence

import numpy as np

from twodal_jax.geometry.heatmap import NUM_LANDMARKS
from twodal_jax.rendering import drawing


def batch_sheet(
    images,
    heatmaps,
    landmarks,
    visible,
    *,
    landmarks_68=None,
    names: Sequence[str] = (),
    faces_per_row: int = 2,
    scale: int = 3,
) -> np.ndarray:
    """Draws n faces: the crop, its numbered landmarks, the heatmap and optionally the 68 landmarks.

    Args:
      images: [n, 120, 120, 3], BGR from 0 to 255, uint8 or float.
      heatmaps: [n, 120, 120, 1] in [-1, 1], the fourth channel of the network's input.
      landmarks: [n, P, 2], crop pixels, y down. P is 18, or 21 with the jaw points (`heatmap.JAW_NAMES`).
      visible: [n, P]; a landmark is hidden, and not drawn, where it is <= 0.
      landmarks_68: [n, 68, >=2], crop pixels, or None.
      names: [n] captions, or empty.
      faces_per_row: faces side by side.
      scale: canvas pixels per crop pixel.

    Returns:
      BGR uint8 sheet. Cyan landmarks belong to the left of an upright face, yellow to the right.
    """
    images = np.clip(np.round(np.asarray(images, np.float32)), 0, 255).astype(np.uint8)
    faces = []
    for index, image in enumerate(images):
        canvas = drawing.upscale(image, scale)
        name = names[index] if len(names) else f"face {index}"
        seen = np.asarray(visible[index]) > 0
        # Data sets store (0, 0) for a hidden landmark.
        marked = drawing.draw_numbered(canvas, np.where(seen[:, None], landmarks[index], np.nan), scale=scale)
        parts = [part for part in np.split(seen, [NUM_LANDMARKS]) if len(part)]  # the 18, then the jaw points
        count = " + ".join(f"{part.sum()} of {len(part)}" for part in parts)
        face = [
            drawing.caption(canvas, name),
            drawing.caption(marked, f"{count} visible"),
            drawing.caption(drawing.heatmap_picture(heatmaps[index], scale), "heatmap"),
        ]
        if landmarks_68 is not None:
            drawn = drawing.draw_landmarks(canvas, landmarks_68[index], scale=scale, size=0.8)
            face.append(drawing.caption(drawn, "68 landmarks of alpha"))
        faces.append(face)
    rows = [
        [picture for face in faces[start : start + faces_per_row] for picture in face]
        for start in range(0, len(faces), faces_per_row)
    ]
    return drawing.panels(rows)
