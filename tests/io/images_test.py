"""twodal_jax.io.images: what comes out of a file is what a viewer shows, whatever its type."""

import io
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from twodal_jax.io import images

COLOURS = np.array([[[200, 30, 40], [20, 180, 30], [30, 40, 220]], [[200, 210, 20], [30, 190, 200], [200, 30, 190]]])


@pytest.fixture()
def picture():
    """RGB blocks of six colours, no two alike, so that no turn or mirror looks like another."""
    return np.kron(COLOURS, np.ones((16, 16, 1))).astype(np.uint8)


def encoded(image, kind, **options):
    data = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(data, kind, **options)
    return data.getvalue()


def lossless(kind):
    return {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})


def assert_shows(data, rgb, tolerance):
    image = images.decode_image(data, "it")
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(image[..., ::-1].astype(int), rgb.astype(int), atol=tolerance)


# What a camera held that way stores: applying PIL's own transpose to it must give the picture back.
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_honoured_as_pillow_does(picture, kind, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, kind, exif=exif, **lossless(kind))
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert_shows(data, expected, 4)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_has_the_colours_pillow_gives_it(picture, kind):
    data = encoded(Image.fromarray(picture).convert("CMYK"), kind, **lossless(kind))
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert_shows(data, picture, 4)


def test_a_cmyk_jpeg_without_adobes_marker_has_the_same_colours(picture):
    data = encoded(Image.fromarray(picture).convert("CMYK"), "JPEG", **lossless("JPEG"))
    start = data.index(b"\xff\xee")
    bare = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    assert_shows(bare, np.array(Image.open(io.BytesIO(bare)).convert("RGB")), 4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8(picture, kind):
    deep = picture[..., ::-1].astype(np.uint16) * 257
    suffix = {"PNG": ".png", "TIFF": ".tiff"}[kind]
    assert_shows(cv2.imencode(suffix, deep)[1].tobytes(), picture, 0)
    grey = deep[..., 0]
    expected = np.repeat(picture[..., 2:], 3, axis=2)
    assert_shows(cv2.imencode(suffix, grey)[1].tobytes(), expected, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_black_and_white_and_palette_become_three_channels(picture, mode):
    image = Image.fromarray(picture).convert(mode)
    assert_shows(encoded(image, "PNG"), np.array(image.convert("RGB")), 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_over_white(picture, kind):
    alpha = np.full(picture.shape[:2] + (1,), 255, np.uint8)
    alpha[:16], alpha[16:, :16] = 0, 128
    expected = picture.copy()
    expected[:16] = 255
    expected[16:, :16] = np.rint(picture[16:, :16] * (128 / 255) + 255 * (127 / 255))
    exact = {"exact": True} if kind == "WEBP" else {}
    data = encoded(np.concatenate([picture, alpha], axis=2), kind, **lossless(kind), **exact)
    assert_shows(data, expected, 1)


def test_one_pixel_is_an_image(picture):
    assert_shows(encoded(picture[:1, :1], "PNG"), picture[:1, :1], 0)


def header_of_png(width, height):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00")
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(13_000, 12_000), (40_000, 30_000)])
def test_a_huge_picture_is_refused_from_its_header(size):
    start = time.process_time()
    with pytest.raises(images.SkipFace, match="huge.png.*at most 150000000") as error:
        images.decode_image(header_of_png(*size), "huge.png")
    assert error.value.reason == "image too large"
    assert time.process_time() - start < 1


@pytest.mark.filterwarnings("error")
def test_a_picture_of_100_megapixels_is_read_without_a_warning():
    grey = np.full((10_000, 10_000), 90, np.uint8)
    data = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    image = images.decode_image(data, "it")
    assert image.shape == (10_000, 10_000, 3) and image[9999, 9999].tolist() == [90] * 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image file"),
        (b"\x89PNG\r\n\x1a\n", "unreadable image"),
        (b"hello", "unreadable image"),
        (b"\xff\xd8\xff\xda", "unreadable image"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, data, reason):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(images.SkipFace, match="photo.jpg") as error:
        images.read_image(path)
    assert error.value.reason == reason


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(images.SkipFace, match="nothing.png: No such file"):
        images.read_image(tmp_path / "nothing.png")


@pytest.mark.filterwarnings("error")
def test_broken_exif_does_not_stop_a_good_picture(picture):
    data = encoded(picture, "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert_shows(data, picture, 0)


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_is_laid_over_white_exactly_to_the_nearest(channels):
    opacity, colour = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    picture = np.stack([colour] * (channels - 1) + [opacity], axis=-1)
    share = opacity.astype(np.float64)[..., None] / 255
    expected = np.rint(colour[..., None] * share + 255 * (1 - share))
    np.testing.assert_array_equal(images.to_bgr8(picture, "it"), np.repeat(expected, 3, axis=2))


def test_large_pictures_are_made_opaque_row_by_row_like_small_ones():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 65536, (700, 1000, 4)).astype(np.uint16)  # 2.8 million samples: several pieces
    whole = images.to_bgr8(picture, "it")
    for row in (0, 261, 262, 263, 699):
        np.testing.assert_array_equal(whole[row], images.to_bgr8(picture[row : row + 1], "it")[0])
