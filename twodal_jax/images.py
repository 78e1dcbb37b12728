"""Image files -> BGR uint8 arrays, and crops of them."""

from __future__ import annotations

import io
import os
import pathlib
import warnings

import cv2
import numpy as np
from PIL import ExifTags, Image

from twodal_jax.projection import CROP_SIZE

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 150_000_000  # a decoded picture of this size takes 450 MB
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


class SkipFace(Exception):
    """One image or face that cannot be used: `reason`, one of a few, and `detail`, what exactly was wrong.

    Whoever reads many of them turns it into a line of a list, and goes on.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def read_image(path: os.PathLike | str) -> np.ndarray:
    """Reads an image file of any type as BGR uint8 [H, W, 3], up to `MAX_PIXELS`.

    Raises:
      SkipFace: the file is missing, empty, cut short, too large or no image; the detail names it.
    """
    path = pathlib.Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SkipFace("image not found", f"{path}: {error.strerror}") from None
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Encoded bytes -> BGR uint8 [H, W, 3].

    Grey is repeated, 16 bits are scaled to 8, CMYK becomes RGB, transparency is laid over white, EXIF
    orientation is applied. The header is looked at first: a picture of more than `MAX_PIXELS` is refused before
    it takes any memory. `name` is for the message.
    """
    if not data:
        raise SkipFace("empty image file", f"{name}: 0 bytes")
    is_jpeg = data[:2] == b"\xff\xd8"
    # libjpeg fills the missing part of a cut file with grey and reports nothing.
    if is_jpeg and data.rfind(_END_OF_IMAGE) < data.rfind(_START_OF_SCAN):
        raise SkipFace("unreadable image", f"{name}: the JPEG ends early (broken download?)")
    orientation = _check_header(data, name)
    flags = cv2.IMREAD_COLOR if is_jpeg else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise SkipFace("unreadable image", f"{name}: {str(error).splitlines()[0]}") from None
    if image is None:
        raise SkipFace("unreadable image", f"{name}: not an image, or a corrupt one")
    return upright(to_bgr8(image, name), orientation)


def _check_header(data: bytes, name: str) -> int:
    """Refuses a picture that is too large; the EXIF orientation OpenCV leaves to us (1: none).

    OpenCV turns JPEG and TIFF itself. Any other trouble is left to the decoder, which knows more types.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's of its own, lower limit, and of broken EXIF
            header = Image.open(io.BytesIO(data))
            width, height = header.size
            orientation = _exif_orientation(header) if header.format in ("PNG", "WEBP") else 1
    except Image.DecompressionBombError as error:
        raise SkipFace("image too large", f"{name}: {error}; at most {MAX_PIXELS} pixels are read") from None
    except Exception:  # broken headers raise many types
        return 1
    if width * height > MAX_PIXELS:
        raise SkipFace("image too large",
                       f"{name}: {width}x{height} pixels, at most {MAX_PIXELS} are read; make it smaller first")
    return orientation


def _exif_orientation(header: Image.Image) -> int:
    tags = Image.Exif()
    try:
        tags.load(header.info.get("exif", b""))
        return int(tags.get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF is written by anything
        return 1


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
    """[H, W], [H, W, 1, 3 or 4] of 8 or 16 bits, or float in [0, 1] -> BGR uint8 [H, W, 3]."""
    if image.dtype == np.uint16:
        image = (image.astype(np.uint32) * 255 + 32767) // 65535
    elif image.dtype.kind == "f":
        image = np.rint(np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0)
    elif image.dtype != np.uint8:
        raise SkipFace("unreadable image", f"{name}: samples of type {image.dtype}")
    image = image.astype(np.uint8)
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] in (2, 4):
        weight = image[..., -1:].astype(np.float32) / 255.0
        image = np.rint(image[..., :-1] * weight + 255.0 * (1.0 - weight)).astype(np.uint8)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] != 3:
        raise SkipFace("unreadable image", f"{name}: {image.shape[2]} channels")
    return np.ascontiguousarray(image)


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
