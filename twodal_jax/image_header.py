"""What an image file says of itself before it is decoded: type, size, orientation.

The type goes by the first bytes, never by the name, and only `FORMATS` are handed to a decoder: their sizes
are read from headers here, so that a small file cannot ask for gigabytes.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import warnings
from typing import BinaryIO

from PIL import ExifTags, Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
# With four channels decoded to 600 MB, and 450 MB once opaque. Of wider samples as many fewer.
MAX_PIXELS = 150_000_000
MAX_FILE_BYTES = 1 << 30
_TILE_TAGS, _BITS_TAG = (322, 323), 258  # TIFF: width and height of a tile, BitsPerSample
# First bytes of what OpenCV would decode as well, for the message.
_OTHERS = {b"GIF8": "GIF", b"\x00\x00\x00\x0cjP": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"#?R": "HDR",
           b"v/1\x01": "OpenEXR", b"PF": "PFM", b"Pf": "PFM", b"Y\xa6j\x95": "Sun raster",
           **{b"P%d" % k: "PNM" for k in range(1, 8)}}  # fmt: skip


class SkipFace(Exception):
    """One image or face that cannot be used: `reason`, one of a few, and `detail`, what exactly was wrong.

    Whoever reads many of them turns it into a line of a list, and goes on.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Header:
    """`kind`, one of FORMATS; `orientation`, EXIF's of PNG and WebP (OpenCV turns the others), else 1."""

    kind: str
    orientation: int = 1


def open_regular(path: os.PathLike | str) -> BinaryIO:
    """Opens a file for reading; neither pipes nor devices, which may never end, nor files over `MAX_FILE_BYTES`.

    Raises:
      SkipFace: it is missing, of another kind or too large; the detail names it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        text = getattr(error, "strerror", None) or str(error)
        raise SkipFace("image not found", f"{path}: {text}") from None
    file = os.fdopen(descriptor, "rb", closefd=True) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        raise SkipFace("image not found", f"{path}: not a regular file")
    size = os.fstat(descriptor).st_size
    if size > MAX_FILE_BYTES:
        file.close()
        raise SkipFace("image too large", f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read")
    return file


def check_header(file: BinaryIO, name: str) -> Header:
    """Looks at a file's header, and leaves its position at the start.

    Raises:
      SkipFace: empty, no type of FORMATS, a broken header, or more than `MAX_PIXELS` pixels.
    """
    head = file.read(32)
    file.seek(0)
    if not head:
        raise SkipFace("empty image file", f"{name}: 0 bytes")
    kind = _kind_of(head, name)
    if kind == "WEBP":  # Pillow takes memory for the whole canvas when it opens one
        _check_size(_webp_size(head), name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's of its own, lower limit, and of broken EXIF
            header = Image.open(file, formats=[kind])
            size, tiles, width = header.size, _tile_size(header), _sample_bytes(kind, head, header)
            orientation = _exif_orientation(header) if kind in ("PNG", "WEBP") else 1
    except Image.DecompressionBombError as error:
        raise SkipFace("image too large", f"{name}: {error}; at most {MAX_PIXELS} pixels are read") from None
    except Exception as error:  # broken headers raise many types, some of whose texts name the open file's number
        raise SkipFace("unreadable image", f"{name}: a broken {kind} header ({type(error).__name__})") from None
    finally:
        file.seek(0)
    _check_size(size, name, width)
    _check_size(tiles, name, width)
    return Header(kind, orientation)


def _kind_of(head: bytes, name: str) -> str:
    starts = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP", b"II*\x00": "TIFF",
              b"MM\x00*": "TIFF", b"II+\x00": "TIFF", b"MM\x00+": "TIFF"}  # fmt: skip
    kind = next((kind for start, kind in starts.items() if head.startswith(start)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        kind = "WEBP"
    if kind is None:
        other = next((kind for start, kind in _OTHERS.items() if head.startswith(start)), None)
        if head[4:8] == b"ftyp":  # ISO 14496-12: the brand follows
            other = {b"avif": "AVIF", b"avis": "AVIF"}.get(head[8:12], "HEIC (as iPhones take) or MP4")
        what = f"a {other} file" if other else "not an image"
        raise SkipFace("unreadable image", f"{name}: {what}; {', '.join(FORMATS)} are read, by their content")
    return kind


def _check_size(size: tuple[int, int], name: str, sample_bytes: int = 1) -> None:
    most = MAX_PIXELS // sample_bytes
    if size[0] * size[1] > most:
        wide = f" of {8 * sample_bytes} bits a sample" if sample_bytes > 1 else ""
        raise SkipFace("image too large", f"{name}: {size[0]}x{size[1]} pixels{wide}, at most {most} are read;"
                       " make it smaller first")  # fmt: skip


def _sample_bytes(kind: str, head: bytes, header: Image.Image) -> int:
    """Bytes that a sample takes once decoded: of a PNG by the depth in its IHDR, of a TIFF by BitsPerSample."""
    if kind == "PNG":
        return 2 if head[24] == 16 else 1
    bits = (getattr(header, "tag_v2", None) or {}).get(_BITS_TAG, 8)
    return max(1, max(bits if isinstance(bits, tuple) else (bits,)) // 8)


def _tile_size(header: Image.Image) -> tuple[int, int]:
    """Of a TIFF: its tiles are decoded whole, however small the picture; (1, 1) without any."""
    tags = getattr(header, "tag_v2", None) or {}
    return tuple(int(tags.get(tag, 1)) for tag in _TILE_TAGS)


def _webp_size(head: bytes) -> tuple[int, int]:
    """RFC 9649: of the three kinds of a first chunk; (1, 1) of what Pillow will refuse."""
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
    except Exception:  # EXIF is written by anything
        return 1
