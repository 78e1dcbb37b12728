"""Small image files, some of them headers only, that claim a huge image."""

import struct
import zlib

import numpy as np

SIDE = 65_500


def jpeg(side=SIDE):
    """A valid grey progressive JPEG: one scan whose runs of empty blocks take 18 bits for 16,383 blocks."""
    blocks = (-(-side // 8)) ** 2
    table = bytes([0, 0, 0, 15, *[0] * 12, *(run << 4 for run in range(15))])  # codes of 4 bits: run << 4 is EOBn
    bits = []
    while blocks:
        run = min(14, blocks.bit_length() - 1)
        length = min(blocks, 2 ** (run + 1) - 1)
        bits.append(f"{run:04b}" + (f"{length - 2**run:0{run}b}" if run else ""))
        blocks -= length
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")

    def segment(marker, content):
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content

    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + b"\1" * 64)
        + segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
        + segment(0xC4, b"\x10" + table)
        + segment(0xDA, bytes([1, 1, 0, 1, 63, 0]))
        + data
        + b"\xff\xd9"
    )


def png(side=SIDE):
    """A complete black-and-white PNG: 65,500 x 65,500 pixels in about half a megabyte."""
    packer = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    rows = [packer.compress(row * min(1000, side - start)) for start in range(0, side, 1000)]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", b"".join(rows) + packer.flush())
        + chunk(b"IEND", b"")
    )


def bmp(side=SIDE):
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100)


def webp(side=16_383):
    """A lossless WebP of the largest possible size."""
    data = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + bytes(40)
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def extended_webp(side=SIDE):
    data = bytes(4) + (side - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBPVP8X" + struct.pack("<I", len(data)) + data + bytes(20)


def tiff(side=SIDE, tile=None):
    """A little-endian TIFF of one strip, or of one tile of `tile` pixels a side."""
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1}
    tags |= {322: tile, 323: tile, 324: 8, 325: 100} if tile else {273: 8, 278: side, 279: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(104)


def others():
    """{type: header of a huge image} of types that OpenCV decodes and this program refuses."""
    size = str(SIDE).encode()
    codestream = (
        b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIIIH", 41, 0, SIDE, SIDE, 0, 0, SIDE, SIDE, 0, 0, 1) + b"\7\1\1"
    )
    return {
        "GIF": b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0, 0, 0) + bytes(20),
        "PNM": b"P6\n" + size + b" " + size + b"\n255\n" + bytes(100),
        "PFM": b"PF\n" + size + b" " + size + b"\n-1.0\n" + bytes(100),
        "HDR": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y " + size + b" +X " + size + b"\n" + bytes(100),
        "OpenEXR": b"v/1\x01" + bytes(100),
        "JPEG 2000": codestream + bytes(100),
        "Sun raster": struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 24, 0, 1, 0, 0) + bytes(100),
    }


def all_bombs():
    """{file name: bytes}; the names give the type, except for the last two."""
    named = {f"{kind}.jpg": data for kind, data in others().items()}
    return named | {
        "jpeg.jpg": jpeg(),
        "bmp.bmp": bmp(),
        "webp.webp": webp(),
        "extended.webp": extended_webp(),
        "tiff.tif": tiff(),
        "tile.tif": tiff(64, tile=SIDE),
        "png.jpg": png(),
        "noise.png": np.random.default_rng(0).bytes(999),
    }
