"""Photos with several rendered faces, and their true landmarks."""

import cv2
import numpy as np

from data_pipelines.sources import synthetic

MARGIN = 44  # crop pixels around each face


def group_photo(seed: int, sizes, *, max_yaw: float = 30.0) -> tuple[np.ndarray, np.ndarray]:
    """Rendered faces side by side: BGR uint8 [H, W, 3], and the true landmarks [F, 68, 2] in its pixels.

    sizes: for each face the size of its 120-pixel crop in photo pixels. max_yaw: degrees.
    """
    rng = np.random.default_rng(seed)
    tiles, landmarks, left = [], [], 0
    height = round(max(sizes) * (1 + 2 * MARGIN / 120))
    for size in sizes:
        face = synthetic.render_face(rng, max_yaw=max_yaw, jitter=0.0, margin=MARGIN, occluders=False)
        scale = size / 120
        side = round(face.image.shape[0] * scale)
        tile = np.full((height, side, 3), 128, np.uint8)
        tile[:side] = cv2.resize(face.image, (side, side), interpolation=cv2.INTER_CUBIC)
        tiles.append(tile)
        landmarks.append((face.landmarks68[:, :2] + MARGIN + 0.5) * scale - 0.5 + [left, 0])
        left += side
    return np.concatenate(tiles, axis=1), np.array(landmarks)
