"""Landmarks and heatmaps drawn on a photo, and panels with captions.

Pictures are BGR uint8 [H, W, 3]. Only `draw_dots` changes its input. Points are in pixels of the original picture, y
down, with the centre of the first pixel at (0, 0). Drawings are made on an enlarged canvas, so that they are sharp on a
120-pixel crop: `upscale` the picture once, then pass the same `scale` with points in original pixels.
"""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

# They differ in lightness as well as in hue, for colour-blind readers.
PREDICTED_BGR = (255, 190, 40)
TRUE_BGR = (40, 205, 255)
# Colours of the 18 landmarks and the jaw points by image side (left, right, centre), which show a swap of sides.
SIDE_BGR = {"L": (255, 225, 60), "R": (50, 215, 255), "C": (245, 245, 245)}
SIDES = "LLLRRRLLLRRRLCRLCRLRC"
INK_BGR, PAPER_BGR = (40, 34, 30), (255, 255, 255)
# First landmark of each line of the 68 in iBUG order, and whether the line closes.
_LINES_68 = tuple((start, start >= 36) for start in (0, 17, 22, 27, 31, 36, 42, 48, 60))
_SUBPIXEL_BITS = 4
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def upscale(image: np.ndarray, scale: int = 3) -> np.ndarray:
    """Enlarges a BGR picture `scale` times (cubic); returns a new array."""
    image = _as_bgr(image)
    if scale == 1:
        return image.copy()
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def _as_bgr(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"Expected a BGR uint8 picture [H, W, 3], got {image.dtype} {image.shape}.")
    return np.ascontiguousarray(image)


def to_canvas(points: np.ndarray, scale: int) -> np.ndarray:
    """Original pixels → pixels of the canvas of `upscale`; pixel centres map to pixel centres."""
    return (np.asarray(points, np.float64)[..., :2] + 0.5) * scale - 0.5


def _fixed_point(points: np.ndarray) -> np.ndarray:
    # Clipped because OpenCV wraps around at 2**15 pixels.
    return np.round(np.clip(points, -8000, 8000) * 2**_SUBPIXEL_BITS).astype(np.int32)


def _drawable(points: np.ndarray) -> np.ndarray:
    return np.isfinite(points).all(axis=-1)


def face_unit(landmarks: np.ndarray, scale: float = 1) -> float:
    """Size of marks on a face, independent of the size of the picture.

    Args:
      landmarks: [P, >=2], original pixels.
      scale: canvas pixels per original pixel.

    Returns:
      `unit` of `draw_landmarks`: 1 for landmarks that span 255 canvas pixels, as on a crop enlarged 3 times; at least
      0.35, so that dots stay visible.
    """
    points = np.asarray(landmarks, np.float64)[..., :2]
    points = points[_drawable(points)]
    span = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    return max(0.35, span * scale / 255)


def draw_landmarks(canvas, landmarks, *, scale=3, visible=None, color=PREDICTED_BGR, size=1.0, unit=None):
    """Draws landmarks as dots; 68 landmarks also get the lines of the face.

    Args:
      canvas: [H, W, 3], the enlarged picture.
      landmarks: [P, >=2], original pixels, y down. Non-finite ones are skipped.
      scale: canvas pixels per original pixel.
      visible: [P] or None (all). Visible landmarks are filled dots. Hidden ones (<= 0) are rings with faint lines.
      color: BGR.
      size: factor of the default size.
      unit: size of the marks; `face_unit` for a face in a photo, None for a face that fills its canvas.

    Returns:
      A new canvas.
    """
    canvas, points = _as_bgr(canvas).copy(), to_canvas(landmarks, scale)
    unit = size * (max(canvas.shape[:2]) / 360 if unit is None else unit)
    seen = np.ones(len(points), bool) if visible is None else np.asarray(visible) > 0
    if len(points) == 68:
        _draw_lines_68(canvas, points, color, unit, seen)
    for point, is_seen in zip(points[_drawable(points)], seen[_drawable(points)]):
        _dot(canvas, point, 2.3 * unit, color, is_seen)
    return canvas


def _draw_lines_68(canvas, points, color, unit, seen):
    starts = [start for start, _ in _LINES_68] + [68]
    thickness = max(1, round(1.4 * unit))
    style = (thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    for (start, closed), end in zip(_LINES_68, starts[1:]):
        line = points[start:end]
        if not _drawable(line).all():
            continue
        if seen[start:end].all():
            cv2.polylines(canvas, [_fixed_point(line)], closed, color, *style)
            continue
        ends = [*range(start + 1, end), start] if closed else range(start + 1, end)
        for one, other in zip(range(start, end), ends):
            segment = points[[one, other]]
            if seen[one] and seen[other]:
                cv2.polylines(canvas, [_fixed_point(segment)], False, color, *style)
            else:
                _faint_line(canvas, segment, color, thickness)


def _faint_line(canvas, segment, color, thickness):
    """Draws a transparent line."""
    low = np.clip(np.floor(segment.min(axis=0)) - thickness - 2, 0, None).astype(int)
    high = np.clip(np.ceil(segment.max(axis=0)) + thickness + 3, 0, None).astype(int)
    window = canvas[low[1] : high[1], low[0] : high[0]]
    if window.size:
        drawn = window.copy()
        line = [_fixed_point(segment - low)]
        cv2.polylines(drawn, line, False, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        window[:] = np.rint(0.65 * window + 0.35 * drawn).astype(np.uint8)


def _dot(canvas, point, radius, color, filled):
    circle = _circle(24)
    edge = max(0.6 if radius > 1.2 else 0.3, 0.1 * radius)
    rim = _fixed_point(point + (radius + edge) * circle)
    if filled:
        inner = _fixed_point(point + radius * circle)
        cv2.fillPoly(canvas, [rim], INK_BGR, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.fillPoly(canvas, [inner], color, cv2.LINE_AA, _SUBPIXEL_BITS)
    else:
        thickness = max(1, round(0.25 * radius))
        cv2.polylines(canvas, [rim], True, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def _circle(corners: int) -> np.ndarray:
    # Drawn as a polygon because OpenCV draws circles of a few pixels as diamonds.
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def draw_dots(canvas: np.ndarray, points: np.ndarray, radius: float, colours: np.ndarray) -> None:
    """Draws plain dots on the canvas itself.

    Args: points [P, 2] and radius in canvas pixels; colours [P, 3], BGR from 0 to 255.
    """
    dots = np.asarray(points)[:, None] + radius * _circle(12)
    for dot, colour in zip(_fixed_point(dots), np.asarray(colours).tolist()):
        cv2.fillConvexPoly(canvas, dot, colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def draw_numbered(canvas, landmarks, *, scale=3, visible=None):
    """Draws the paper's 18 landmarks with their numbers, coloured by side.

    Cyan is the image-left side of an upright face, yellow the image-right side, white the middle (nose tip, mouth
    centre, chin). Cyan points on the right-hand eye therefore mean that left and right were swapped. Hidden landmarks
    are rings without a number.

    Args:
      canvas: [H, W, 3], the enlarged picture.
      landmarks: [18, >=2], original pixels, or [21, >=2] with the jaw points (`heatmap.JAW_NAMES`) at the end.
      scale: canvas pixels per original pixel.
      visible: [18] or [21], or None (all).

    Returns:
      A new canvas.
    """
    canvas, points = _as_bgr(canvas).copy(), to_canvas(landmarks, scale)
    if len(points) not in (18, len(SIDES)):
        raise ValueError(f"Expected 18 or 21 landmarks, got {len(points)}.")
    unit = max(canvas.shape[:2]) / 360
    seen = np.ones(len(points), bool) if visible is None else np.asarray(visible) > 0
    for number, (point, side) in enumerate(zip(points, SIDES)):
        if not _drawable(point):
            continue
        _dot(canvas, point, 3.2 * unit, SIDE_BGR[side], seen[number])
        if seen[number]:
            place = np.clip(point + np.array([4.5, -3.5]) * unit, -8000, 8000).astype(int)
            _text(canvas, str(number), place, max(0.32, 0.42 * unit), SIDE_BGR[side], outline=True)
    return canvas


def _text(canvas, text, place, size, color, outline=False):
    place, text = tuple(int(v) for v in place), text.encode("ascii", "replace").decode()
    if outline:  # shifted copies, because thick strokes would fill the digits
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)):
            shifted = (place[0] + dx, place[1] + dy)
            cv2.putText(canvas, text, shifted, _FONT, size, INK_BGR, 1, cv2.LINE_AA)
    cv2.putText(canvas, text, place, _FONT, size, color, 1, cv2.LINE_AA)


def heatmap_picture(heatmap, scale: int = 3) -> np.ndarray:
    """BGR picture of a landmark heatmap, [H, W] or [H, W, 1], from -1 (far) to 1 (on a landmark)."""
    values = np.nan_to_num(np.asarray(heatmap, np.float32), nan=-1.0)
    values = values.reshape(values.shape[:2])
    grey = np.round(np.clip((values + 1) / 2, 0, 1) * 255).astype(np.uint8)
    return upscale(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), scale)


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture above a white strip with `text` (ASCII), whose size is reduced to fit the width."""
    picture = _as_bgr(picture)
    width = picture.shape[1]
    height = max(16, round(width / 13))
    strip = np.full((height, width, 3), PAPER_BGR, np.uint8)
    size = height / 38
    (length, _), _ = cv2.getTextSize(text, _FONT, size, 1)
    size *= min(1.0, (width - 8) / max(length, 1))
    _text(strip, text, (4, round(height * 0.68)), size, INK_BGR)
    return np.concatenate([picture, strip])


def panels(rows: Sequence[Sequence[np.ndarray]], gap: int = 6) -> np.ndarray:
    """Arranges pictures in rows on a white sheet, with `gap` pixels between and around them."""
    height = max(picture.shape[0] for row in rows for picture in row)
    width = max(picture.shape[1] for row in rows for picture in row)
    columns = max(len(row) for row in rows)
    shape = (len(rows) * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(shape, PAPER_BGR, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = gap + i * (height + gap), gap + j * (width + gap)
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def encode_jpeg(picture: np.ndarray, quality: int = 88) -> str:
    """BGR picture → base64 text of a JPEG. Raises ValueError for other arrays and sizes that JPEG does not have."""
    succeeded, data = cv2.imencode(".jpg", _as_bgr(picture), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not succeeded:
        raise ValueError(
            f"Could not encode a picture of shape {picture.shape} as JPEG; its sides are 1 to 65500 pixels."
        )
    return base64.b64encode(data).decode("ascii")
