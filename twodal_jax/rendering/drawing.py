"""Pictures for people: landmarks, heatmaps and meshes on top of a photograph, panels with captions.

Pictures are BGR uint8 [H, W, 3], and no function changes its input. Landmarks and vertices are in
pixels of the original picture, y down, the centre of the first pixel at (0, 0). To be crisp on a
120-pixel crop, everything is drawn on an enlarged canvas: `upscale` the picture once, then pass the
same `scale` along with points in original pixels.
"""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

# Told apart by their lightness as well as their hue, so that they survive colour blindness.
PREDICTED_BGR = (255, 190, 40)
TRUE_BGR = (40, 205, 255)
# Image-left, image-right and middle ones of the 18 landmarks and the jaw points: a swap of sides is plain to see.
SIDE_BGR = {"L": (255, 225, 60), "R": (50, 215, 255), "C": (245, 245, 245)}
SIDES = "LLLRRRLLLRRRLCRLCRLRC"
INK_BGR, PAPER_BGR = (40, 34, 30), (255, 255, 255)
# First landmark of each line of the 68 in iBUG order, and whether the line closes.
LINES_68 = (
    (0, False),
    (17, False),
    (22, False),
    (27, False),
    (31, False),
    (36, True),
    (42, True),
    (48, True),
    (60, True),
)
_SUBPIXEL_BITS = 4
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def upscale(image: np.ndarray, scale: int = 3) -> np.ndarray:
    """Enlarges a picture `scale` times (cubic); always returns a new BGR array."""
    image = _as_bgr(image)
    if scale == 1:
        return image.copy()
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def _as_bgr(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"Expected a BGR uint8 picture [H, W, 3], got {image.dtype} {image.shape}.")
    return np.ascontiguousarray(image)


def to_canvas(points: np.ndarray, scale: int) -> np.ndarray:
    """Original pixels → pixels of the canvas of `upscale`: pixel centres fall on pixel centres."""
    return (np.asarray(points, np.float64)[..., :2] + 0.5) * scale - 0.5


def _fixed_point(points: np.ndarray) -> np.ndarray:
    # Far outside is clipped, because OpenCV wraps around at 2**15 pixels.
    return np.round(np.clip(points, -8000, 8000) * 2**_SUBPIXEL_BITS).astype(np.int32)


def _drawable(points: np.ndarray) -> np.ndarray:
    return np.isfinite(points).all(axis=-1)


def face_unit(landmarks: np.ndarray, scale: float = 1) -> float:
    """How large marks on a face should be, whatever the size of the picture around it.

    Args:
      landmarks: [P, >=2], original pixels. scale: canvas pixels an original one.

    Returns:
      `unit` of `draw_landmarks`: 1 where they span 255 canvas pixels, as on a crop enlarged 3 times; never so
      small that a dot vanishes.
    """
    points = np.asarray(landmarks, np.float64)[..., :2]
    points = points[_drawable(points)]
    span = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    return max(0.35, span * scale / 255)


def draw_landmarks(canvas, landmarks, *, scale=3, visible=None, color=PREDICTED_BGR, size=1.0, unit=None):
    """Draws landmarks: 68 with the lines of the face, any other number as dots.

    Args:
      canvas: [H, W, 3], the picture enlarged `scale` times.
      landmarks: [P, >=2], original pixels, y down. Non-finite ones are left out.
      visible: [P] or None (all). Visible ones are filled dots, hidden ones (<= 0) hollow rings, with the
        lines to them faint.
      color: BGR. size: 1 is right for a face that fills its canvas.
      unit: canvas pixels that a dot's size is counted in; `face_unit` for a face somewhere in a photo, None
        for one that fills its canvas.

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
    starts = [start for start, _ in LINES_68] + [68]
    thickness = max(1, round(1.4 * unit))
    style = (thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    for (start, closed), end in zip(LINES_68, starts[1:]):
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
    """A line that lets the picture through, blended where it runs."""
    low = np.clip(np.floor(segment.min(axis=0)) - thickness - 2, 0, None).astype(int)
    high = np.clip(np.ceil(segment.max(axis=0)) + thickness + 3, 0, None).astype(int)
    window = canvas[low[1] : high[1], low[0] : high[0]]
    if window.size:
        drawn = window.copy()
        line = [_fixed_point(segment - low)]
        cv2.polylines(drawn, line, False, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        window[:] = np.rint(0.65 * window + 0.35 * drawn).astype(np.uint8)


def _dot(canvas, point, radius, color, filled):
    # Polygons: OpenCV draws circles of a few pixels as diamonds.
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    edge = max(0.6 if radius > 1.2 else 0.3, 0.1 * radius)
    rim = _fixed_point(point + (radius + edge) * circle)
    if filled:
        inner = _fixed_point(point + radius * circle)
        cv2.fillPoly(canvas, [rim], INK_BGR, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.fillPoly(canvas, [inner], color, cv2.LINE_AA, _SUBPIXEL_BITS)
    else:
        thickness = max(1, round(0.25 * radius))
        cv2.polylines(canvas, [rim], True, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def draw_dots(canvas: np.ndarray, points: np.ndarray, radius: float, colours: np.ndarray) -> None:
    """Draws plain dots INTO the canvas.

    Args: points [P, 2] and radius in canvas pixels; colours [P, 3], BGR from 0 to 255.
    """
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    circle = radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for dot, colour in zip(_fixed_point(np.asarray(points)[:, None] + circle), np.asarray(colours).tolist()):
        cv2.fillConvexPoly(canvas, dot, colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def draw_numbered(canvas, landmarks, *, scale=3, visible=None):
    """Draws the paper's 18 landmarks with their numbers, coloured by the side they belong to.

    Cyan: left in the picture of an upright face; yellow: right; white: nose tip, mouth centre, chin. So
    cyan points on the right-hand eye mean that left and right were swapped. Hidden ones are rings
    without a number.

    Args:
      canvas: [H, W, 3], the picture enlarged `scale` times. landmarks: [18, >=2], original pixels,
        or [21, >=2] with the jaw points (`heatmap.JAW_NAMES`) after them.
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
    if outline:  # a shadow on each side: thick strokes would fill the digits
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)):
            shifted = (place[0] + dx, place[1] + dy)
            cv2.putText(canvas, text, shifted, _FONT, size, INK_BGR, 1, cv2.LINE_AA)
    cv2.putText(canvas, text, place, _FONT, size, color, 1, cv2.LINE_AA)


def heatmap_picture(heatmap, scale: int = 3) -> np.ndarray:
    """A landmark heatmap [H, W] or [H, W, 1] with values -1 (far) to 1 (on a landmark) as BGR."""
    values = np.nan_to_num(np.asarray(heatmap, np.float32), nan=-1.0)
    values = values.reshape(values.shape[:2])
    grey = np.round(np.clip((values + 1) / 2, 0, 1) * 255).astype(np.uint8)
    return upscale(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), scale)


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a white strip below that holds `text` (ASCII), shrunk to fit the width."""
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
    """Puts pictures side by side, one list a row, on white with `gap` pixels between and around."""
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


def encode_png(picture: np.ndarray) -> str:
    """BGR picture → base64 text of a PNG."""
    return _encode(picture, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9])


def encode_jpeg(picture: np.ndarray, quality: int = 88) -> str:
    """BGR picture → base64 text of a JPEG."""
    return _encode(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encode(picture, extension, options):
    succeeded, data = cv2.imencode(extension, _as_bgr(picture), options)
    if not succeeded:
        raise ValueError(f"Could not encode a picture of shape {picture.shape} as {extension}.")
    return base64.b64encode(data).decode("ascii")
