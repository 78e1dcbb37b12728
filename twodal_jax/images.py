"""Image files -> BGR uint8 arrays, and crops of them."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np

from twodal_jax.image_header import MAX_PIXELS, Header, SkipFace, check_header, open_regular
from twodal_jax.jpeg_scans import check_scans
from twodal_jax.projection import CROP_SIZE

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "SkipFace", "check_roi_box", "crop_face", "decode_image", "read_image",
           "roll_matrix", "to_bgr8", "upright"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SAMPLES_AT_A_TIME = 1 << 20


def read_image(path: os.PathLike | str) -> np.ndarray:
    """Reads an image file of a type of `image_header.FORMATS` as BGR uint8 [H, W, 3], up to `MAX_PIXELS`.

    Raises:
      SkipFace: the file is missing, empty, cut short, too large or no image; the detail names it.
    """
    with open_regular(path) as file:
        header = check_header(file, str(path))  # before the whole file is in memory
        try:
            data = file.read()
        except OSError as error:
            raise SkipFace("unreadable image", f"{path}: {error.strerror}") from None
    return _decode(data, header, str(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Encoded bytes -> BGR uint8 [H, W, 3].

    Grey is repeated, 16 bits are scaled to 8, CMYK becomes RGB, transparency is laid over white, EXIF
    orientation is applied. The header is looked at first: other types than `image_header.FORMATS`, and pictures
    of more than `MAX_PIXELS`, are refused before they take any memory. `name` is for the message.
    """
    return _decode(data, check_header(io.BytesIO(data), name), name)


def _decode(data: bytes, header: Header, name: str) -> np.ndarray:
    is_jpeg = header.kind == "JPEG"
    if is_jpeg:
        check_scans(data, name)
    flags = cv2.IMREAD_COLOR if is_jpeg else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise SkipFace("unreadable image", f"{name}: {str(error).splitlines()[0]}") from None
    if image is None:
        raise SkipFace("unreadable image", f"{name}: not an image, or a corrupt one")
    return upright(to_bgr8(image, name), header.orientation)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, 3] as stored -> as meant to be seen; `orientation` 1 to 8 as in EXIF, anything else is 1."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def to_bgr8(image: np.ndarray, name: str) -> np.ndarray:
    """[H, W], [H, W, 1, 2, 3 or 4] of 8 or 16 bits, or float in [0, 1] -> BGR uint8 [H, W, 3].

    Of two or four channels the last is opacity. Takes hardly more memory than both pictures: some rows at a time.
    """
    image = image[..., None] if image.ndim == 2 else image
    height, width, channels = image.shape
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise SkipFace("unreadable image", f"{name}: samples of type {image.dtype}")
    if not 1 <= channels <= 4:
        raise SkipFace("unreadable image", f"{name}: {channels} channels")
    if image.dtype == np.uint8 and channels == 3:
        return np.ascontiguousarray(image)
    bgr = np.empty((height, width, 3), np.uint8)
    step = max(1, _SAMPLES_AT_A_TIME // (width * channels))
    for row in range(0, height, step):
        bgr[row : row + step] = _opaque(_eight_bits(image[row : row + step]))
    return bgr


def _eight_bits(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.uint16:
        return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if samples.dtype.kind == "f":
        return np.rint(np.clip(np.nan_to_num(samples), 0.0, 1.0) * 255.0).astype(np.uint8)
    return samples


def _opaque(samples: np.ndarray) -> np.ndarray:
    """uint8 [h, W, C] with opacity last, where C is 2 or 4, laid over white."""
    if samples.shape[2] not in (2, 4):
        return samples
    missing = (255 - samples[..., :-1]).astype(np.uint16) * samples[..., -1:]
    return 255 - ((missing + 127) // 255).astype(np.uint8)


def crop_face(
    image: np.ndarray, roi_box: np.ndarray, margin: int, border: int = cv2.BORDER_CONSTANT,
    roll_degrees: float = 0.0,
) -> np.ndarray:
    """Cuts the 120-pixel crop of `roi_box` with `margin` more pixels around it.

    Samples where `cv2.resize` of the box to 120 x 120 would (pixel centres; bilinear), so crops
    agree with those the authors and 3DDFA make; strong reduction averages areas first.

    Args:
      image: BGR uint8 [H, W, 3]. roi_box: [4] sx, sy, ex, ey, image pixels, need not be integers.
      margin: crop pixels added on each side, taken from the image where it reaches.
      border: what lies outside the image: cv2.BORDER_CONSTANT (black, as 3DDFA) or
        cv2.BORDER_REPLICATE.
      roll_degrees: turns the window about its centre, clockwise as seen, so that a face turned like that
        stands upright in the crop (see `roll_matrix`).

    Returns:
      BGR uint8 [120 + 2 margin, 120 + 2 margin, 3].

    Raises:
      SkipFace: the box is not finite, is degenerate, or has no pixel in common with the image.
    """
    roi_box = np.asarray(roi_box, np.float64)
    check_roi_box(roi_box, image.shape)
    scale = (roi_box[2:] - roi_box[:2]) / CROP_SIZE  # image pixels per crop pixel
    corner = roi_box[:2] - margin * scale
    reduction = np.maximum(np.floor(scale / 1.5).astype(int), 1)
    if (reduction > 1).any():
        height, width = image.shape[:2]
        small = (max(1, width // reduction[0]), max(1, height // reduction[1]))
        ratio = np.array([width, height]) / np.array(small)
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        scale, corner = scale / ratio, corner / ratio
    side = CROP_SIZE + 2 * margin
    offset = corner + 0.5 * scale - 0.5
    turn = roll_matrix(roll_degrees, margin)
    matrix = np.diag(scale) @ turn + np.array([[0.0, 0.0, offset[0]], [0.0, 0.0, offset[1]]])
    return cv2.warpAffine(image, matrix, (side, side), borderMode=border,
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def roll_matrix(roll_degrees: float, margin: int = 0) -> np.ndarray:
    """[2, 3]: pixels of a crop cut along a roll -> pixels of the upright window's crop.

    A turn about the centre of the crop's pixels, clockwise as seen; y down. `margin` as in `crop_face`.
    """
    angle, centre = np.radians(roll_degrees), (CROP_SIZE - 1) / 2 + margin
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([turn, (centre - turn @ np.full(2, centre))[:, None]], axis=1)


def check_roi_box(roi_box: np.ndarray, image_shape: tuple) -> None:
    """Raises SkipFace unless the box is finite, at least 8 pixels wide and touches the image."""
    if not np.isfinite(roi_box).all():
        raise SkipFace("bad crop box", f"not finite: {roi_box.tolist()}")
    height, width = image_shape[:2]
    size = roi_box[2:] - roi_box[:2]
    if size.min() < 8 or size.max() > 20 * max(height, width):
        raise SkipFace("bad crop box", f"{np.round(roi_box, 1).tolist()} in a {width}x{height} image")
    if (roi_box[2:] <= 0).any() or roi_box[0] >= width or roi_box[1] >= height:
        raise SkipFace("bad crop box",
                       f"{np.round(roi_box, 1).tolist()} lies outside the {width}x{height} image")
