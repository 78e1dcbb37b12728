"""Image files and Pillow images -> BGR uint8 arrays, and crops of them.

The header is checked before anything is decoded: the type, the number of pixels and, of a JPEG, its scans. Colours of a
file with a colour profile (phones: Display P3; print: CMYK) are converted to sRGB.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import stat
import warnings
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from twodal_jax.geometry.projection import CROP_SIZE

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "HEIF", "AVIF")
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif"),
)
_BY_PILLOW = ("HEIF", "AVIF")  # the others are decoded by OpenCV
# Four channels of 8 bits take 600 MB decoded, and 450 MB after blending. Wider samples lower the limit in proportion.
MAX_PIXELS = 150_000_000
MAX_FILE_BYTES = 1 << 30
MAX_SCANS = 100  # of a JPEG; cameras and programs write 1 to 12
# A JPEG marker: FF and any byte but a stuffed 00, a restart (D0 to D7) or another FF.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _STANDALONE = 0xD8, 0xD9, 0xDA, 0x01
_SAMPLES_AT_A_TIME = 1 << 20
_TILE_TAGS, _BITS_TAG = (322, 323), 258  # TIFF: width and height of a tile, BitsPerSample
# Brands of an ISO media file (ISO 14496-12) that holds a picture.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
}
_HEAD = 64  # bytes that the type is recognised by
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    **dict.fromkeys((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), "TIFF"),
}
# First bytes of types that OpenCV would decode too; for the error message.
_REFUSED_SIGNATURES = {
    b"GIF8": "GIF",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"#?R": "HDR",
    b"v/1\x01": "OpenEXR",
    b"PF": "PFM",
    b"Pf": "PFM",
    b"Y\xa6j\x95": "Sun raster",
    **{b"P%d" % k: "PNM" for k in range(1, 8)},
}


class SkipFace(Exception):
    """An image or face that cannot be used.

    `reason` is one of a few phrases; `detail` says what was wrong. Readers of many images list it and continue.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
      kind: one of FORMATS.
      orientation: EXIF's of PNG and WebP, else 1 (the decoders apply the others' themselves).
      is_cmyk: whether the samples are inks.
      profile: the ICC colour profile, empty without one.
    """

    kind: str
    orientation: int = 1
    is_cmyk: bool = False
    profile: bytes = b""


def open_regular(path: os.PathLike | str, max_bytes: int | None = MAX_FILE_BYTES) -> BinaryIO:
    """Opens a regular file of at most `max_bytes`; reading a pipe or device may never end.

    Raises:
      SkipFace: the file is missing, not regular or too large; the detail names it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        text = getattr(error, "strerror", None) or str(error)
        raise SkipFace("image not found", f"{path}: {text}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SkipFace("image not found", f"{path}: not a regular file")
    file = os.fdopen(descriptor, "rb", closefd=True)
    size = os.fstat(descriptor).st_size
    if max_bytes is not None and size > max_bytes:
        file.close()
        raise SkipFace("image too large", f"{path}: {size} bytes, at most {max_bytes} are read")
    return file


def check_header(file: BinaryIO, name: str) -> Header:
    """Checks a file's header and seeks back to the start.

    Raises:
      SkipFace: the file is empty, of none of FORMATS, its header is broken, or it has more than `MAX_PIXELS` pixels.
    """
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise SkipFace("empty image file", f"{name}: 0 bytes")
    kind = kind_of(head)
    if kind is None:
        other = next((kind for start, kind in _REFUSED_SIGNATURES.items() if head.startswith(start)), None)
        other = "MP4 or similar (a video)" if head[4:8] == b"ftyp" else other
        found = f"a {other} file" if other else "not an image"
        raise SkipFace("unreadable image", f"{name}: {found}; {', '.join(FORMATS)} are read, by their content")
    if kind == "HEIF":
        _register_heif()
    if kind == "WEBP":  # Pillow allocates the whole canvas on opening one
        _check_size(_webp_size(head), name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns at a lower limit of its own, and of broken EXIF
            header = Image.open(file, formats=[kind])
            size, tiles, width = header.size, _tile_size(header), _sample_bytes(kind, head, header)
            orientation = _exif_orientation(header) if kind in ("PNG", "WEBP") else 1
            is_cmyk, profile = header.mode == "CMYK", header.info.get("icc_profile") or b""
    except Image.DecompressionBombError as error:
        raise SkipFace("image too large", f"{name}: {error}; at most {MAX_PIXELS} pixels are read") from None
    except Exception as error:  # broken headers raise many types; some messages contain the file object's address
        raise SkipFace("unreadable image", f"{name}: a broken {kind} header ({type(error).__name__})") from None
    finally:
        file.seek(0)
    _check_size(size, name, width)
    _check_size(tiles, name, width)
    return Header(kind, orientation, is_cmyk, profile)


def kind_of(head: bytes) -> str | None:
    """The type of an image by the first bytes of its file, one of FORMATS; None for any other file."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), _HEAD)
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
        found = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "AVIF" if "AVIF" in found else "HEIF" if brands[0] in _BRANDS else None
    return next((kind for start, kind in _SIGNATURES.items() if head.startswith(start)), None)


@functools.cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)


def _check_size(size: tuple[int, int], name: str, sample_bytes: int = 1) -> None:
    limit = MAX_PIXELS // sample_bytes
    if size[0] * size[1] > limit:
        wide = f" of {8 * sample_bytes} bits a sample" if sample_bytes > 1 else ""
        raise SkipFace(
            "image too large",
            f"{name}: {size[0]}x{size[1]} pixels{wide}, at most {limit} are read; make it smaller first",
        )


def _sample_bytes(kind: str, head: bytes, header: Image.Image) -> int:
    """Bytes of a decoded sample: from a PNG's bit depth in IHDR, from a TIFF's BitsPerSample."""
    if kind == "PNG":
        return 2 if head[24] == 16 else 1
    bits = (getattr(header, "tag_v2", None) or {}).get(_BITS_TAG, 8)
    return max(1, max(bits if isinstance(bits, tuple) else (bits,)) // 8)


def _tile_size(header: Image.Image) -> tuple[int, int]:
    """Width and height of a TIFF's tiles, which are decoded whole even for a small image; (1, 1) without tiles."""
    tags = getattr(header, "tag_v2", None) or {}
    return tuple(int(tags.get(tag, 1)) for tag in _TILE_TAGS)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first chunk, of one of three kinds (RFC 9649); (1, 1) where Pillow will refuse."""
    chunk = head[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return width, height
    return 1, 1


def _exif_orientation(header: Image.Image) -> int:
    tags = Image.Exif()
    try:
        tags.load(header.info.get("exif", b""))
        return int(tags.get(ExifTags.Base.Orientation, 1))
    except Exception:  # any program may have written the EXIF
        return 1


def check_scans(data: bytes, name: str) -> None:
    """Checks that a JPEG is complete and has at most `MAX_SCANS` scans.

    libjpeg fills the missing part of a truncated file with grey and reports no error. Each scan of a progressive JPEG
    updates the whole image and takes as little as a hundred bytes. Data after the image, such as the video of a
    phone's "motion photo", is ignored.

    Raises:
      SkipFace: the JPEG ends early or has more scans.
    """
    scans, at = 0, 2
    while found := _MARKER.search(data, at):
        marker, at = data[found.start() + 1], found.end()
        if marker == _END_OF_IMAGE:
            return
        if marker == _START_OF_SCAN:
            scans += 1
        if scans > MAX_SCANS:
            raise SkipFace(
                "unreadable image",
                f"{name}: a JPEG of more than {MAX_SCANS} scans, each as slow to decode as an image; save it again"
                " with another program",
            )
        if marker not in (_START_OF_IMAGE, _STANDALONE):
            at += int.from_bytes(data[at : at + 2], "big")
    raise SkipFace("unreadable image", f"{name}: the JPEG ends early (broken download?)")


def read_image(path: os.PathLike | str) -> np.ndarray:
    """Reads an image file of one of FORMATS as BGR uint8 [H, W, 3]: upright, opaque, in sRGB, of 8 bits.

    Grey is repeated, transparency is blended over white.

    Raises:
      SkipFace: the file is missing, empty, truncated, over `MAX_PIXELS` or not an image; the detail names it.
    """
    with open_regular(path) as file:
        header = check_header(file, str(path))  # before the whole file is in memory
        try:
            data = file.read()
        except OSError as error:
            raise SkipFace("unreadable image", f"{path}: {error.strerror}") from None
    return _decode(data, header, str(path))


def _decode(data: bytes, header: Header, name: str) -> np.ndarray:
    """Encoded bytes -> BGR uint8 [H, W, 3]; `name` is for the message.

    Grey is repeated, 16 bits are scaled to 8, CMYK becomes RGB, transparency is blended over white. EXIF orientation
    and the colour profile are applied.
    """
    is_jpeg = header.kind == "JPEG"
    if is_jpeg:
        check_scans(data, name)
    if header.kind in _BY_PILLOW or (header.is_cmyk and header.profile):
        try:
            return from_pillow(Image.open(io.BytesIO(data), formats=[header.kind]))
        except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, MemoryError) as error:
            raise SkipFace("unreadable image", f"{name}: not an image, or a corrupt one ({error})") from None
    flags = cv2.IMREAD_COLOR if is_jpeg else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise SkipFace("unreadable image", f"{name}: {str(error).splitlines()[0]}") from None
    if image is None:
        raise SkipFace("unreadable image", f"{name}: not an image, or a corrupt one")
    return _to_srgb(upright(to_bgr8(image, name), header.orientation), header.profile)


def from_pillow(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode but F -> BGR uint8 [H, W, 3], as `read_image` does: upright, opaque, in sRGB.

    Raises:
      ValueError: the image is empty or too large, or its mode does not define which value is white.
    """
    if not image.width or not image.height:
        raise ValueError(f"The picture is empty: {image.width}x{image.height} pixels.")
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"The picture has {image.width}x{image.height} pixels, at most {MAX_PIXELS} are used.")
    profile = image.info.get("icc_profile") or b""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits; Pillow opens some of such files with 32
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise ValueError(
                f"Expected a picture of 16 bits in mode {image.mode}, got values of up to {samples.max()}."
            )
        return to_bgr8(samples.astype(np.uint16), "picture")
    if image.mode == "F":
        raise ValueError("A picture of mode F does not define which value is white; convert it to L or RGB first.")
    if image.mode == "CMYK" and profile:
        transform = _to_srgb_transform(profile, "CMYK")
        image = image.convert("RGB") if transform is None else ImageCms.applyTransform(image, transform)
        profile = b""
    is_transparent = image.has_transparency_data
    image = image.convert("RGBA" if is_transparent else "RGB")
    order = [2, 1, 0, 3] if is_transparent else [2, 1, 0]
    return _to_srgb(to_bgr8(np.asarray(image)[..., order], "picture"), profile)


def _to_srgb(image: np.ndarray, profile: bytes) -> np.ndarray:
    """Converts BGR uint8 [H, W, 3] from the colours of an ICC profile, some rows at a time; ignores a broken one."""
    transform = _to_srgb_transform(profile, "RGB")
    if transform is None:
        return image
    step = max(1, _SAMPLES_AT_A_TIME // (3 * image.shape[1]))
    for row in range(0, len(image), step):
        rgb = Image.fromarray(np.ascontiguousarray(image[row : row + step, :, ::-1]))
        image[row : row + step] = np.asarray(ImageCms.applyTransform(rgb, transform))[..., ::-1]
    return image


def _to_srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion from a profile of this mode to sRGB; None without such a profile, and for sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != mode or "sRGB" in (source.profile.profile_description or ""):
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", renderingIntent=intent)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF `orientation`, 1 to 8, to a stored image [H, W, 3]; any other value counts as 1."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def to_bgr8(image: np.ndarray, name: str) -> np.ndarray:
    """[H, W] or [H, W, 1 to 4] of 8 or 16 bits, or float in [0, 1] -> BGR uint8 [H, W, 3].

    The last of two or four channels is opacity. Works on a few rows at a time, so that little memory is added.
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
    """Blends uint8 [h, W, 2 or 4], opacity last, over white; returns other channel counts unchanged."""
    if samples.shape[2] not in (2, 4):
        return samples
    darkness = (255 - samples[..., :-1]).astype(np.uint16) * samples[..., -1:]
    return 255 - ((darkness + 127) // 255).astype(np.uint8)


def crop_face(
    image: np.ndarray, roi_box: np.ndarray, margin: int, border: int = cv2.BORDER_CONSTANT, roll_degrees: float = 0.0
) -> np.ndarray:
    """Cuts the 120-pixel crop of `roi_box` with `margin` more pixels on each side.

    Samples bilinearly where `cv2.resize` of the box to 120 x 120 would (pixel centres), as the paper's authors and
    3DDFA do. A strongly reduced image is first averaged over areas.

    Args:
      image: BGR uint8 [H, W, 3].
      roi_box: [4] sx, sy, ex, ey, image pixels, not necessarily whole.
      margin: crop pixels added on each side.
      border: pixels outside the image: cv2.BORDER_CONSTANT (black, as 3DDFA) or cv2.BORDER_REPLICATE.
      roll_degrees: rotation of the window about its centre, clockwise as seen; a face with this roll is upright in
        the crop (`roll_matrix`).

    Returns:
      BGR uint8 [120 + 2 margin, 120 + 2 margin, 3].

    Raises:
      SkipFace: the box is not finite, degenerate or outside the image.
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
    return cv2.warpAffine(image, matrix, (side, side), borderMode=border, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def roll_matrix(roll_degrees: float, margin: int = 0) -> np.ndarray:
    """[2, 3]: pixels of a crop that was cut with a roll -> pixels of the upright window's crop.

    A rotation about the centre of the crop, clockwise as seen; y down. `margin` as in `crop_face`.
    """
    angle, centre = np.radians(roll_degrees), (CROP_SIZE - 1) / 2 + margin
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([turn, (centre - turn @ np.full(2, centre))[:, None]], axis=1)


def check_roi_box(roi_box: np.ndarray, image_shape: tuple) -> None:
    """Raises SkipFace unless the box [4] is finite, at least 8 pixels wide and overlaps the image."""
    if not np.isfinite(roi_box).all():
        raise SkipFace("bad crop box", f"not finite: {roi_box.tolist()}")
    height, width = image_shape[:2]
    size = roi_box[2:] - roi_box[:2]
    if size.min() < 8 or size.max() > 20 * max(height, width):
        raise SkipFace("bad crop box", f"{np.round(roi_box, 1).tolist()} in a {width}x{height} image")
    if (roi_box[2:] <= 0).any() or roi_box[0] >= width or roi_box[1] >= height:
        raise SkipFace("bad crop box", f"{np.round(roi_box, 1).tolist()} lies outside the {width}x{height} image")
