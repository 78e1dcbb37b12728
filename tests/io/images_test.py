"""twodal_jax.io.images: decoded images agree with Pillow, and files that are too large or not images are refused."""

import io
import json
import os

import cv2
import helpers_bombs
import numpy as np
import pytest
from helpers_run import run_python
from PIL import Image, ImageOps

from twodal_jax.io import images

COLOURS = np.array([[[200, 30, 40], [20, 180, 30], [30, 40, 220]], [[200, 210, 20], [30, 190, 200], [200, 30, 190]]])
TYPES = "JPEG, PNG, BMP, WEBP, TIFF, HEIF, AVIF are read, by their content"


@pytest.fixture()
def picture():
    """RGB blocks of six different colours, so that no rotation or mirror image equals another."""
    return np.kron(COLOURS, np.ones((16, 16, 1))).astype(np.uint8)


def encoded(image, kind, **options):
    data = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(data, kind, **options)
    return data.getvalue()


def lossless(kind):
    return {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})


def decode(data, name):
    """What `read_image` makes of a file of this content."""
    return images._decode(data, images.check_header(io.BytesIO(data), name), name)


def assert_decodes_to(data, rgb, tolerance):
    image = decode(data, "it")
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(image[..., ::-1].astype(int), rgb.astype(int), atol=tolerance)


def refused(message):
    return pytest.raises(images.SkipFace, match=message)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_as_pillow_does(picture, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, kind, exif=exif, **lossless(kind))
    assert_decodes_to(data, np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")), 4)


def phone_picture(picture, kind, **options):
    """Encoded by Pillow, HEIF with pillow-heif."""
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
        options |= {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
    elif kind == "AVIF":
        options |= {"quality": 100, "subsampling": "4:4:4"}
    return encoded(picture, kind, **options)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 5])
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_heif_and_avif_are_read_upright(picture, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(picture, "PNG", exif=exif))))
    assert_decodes_to(phone_picture(picture, kind, exif=exif.tobytes()), np.array(expected), 4)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_too_large_and_truncated_heif_and_avif_are_refused(picture, kind, monkeypatch):
    data = phone_picture(picture, kind)
    for stop in (40, len(data) // 2, len(data) - 20):
        with refused("it: "):
            decode(data[:stop], "it")
    monkeypatch.setattr(images, "MAX_PIXELS", picture.shape[0] * picture.shape[1] - 1)
    with refused("it: 48x32 pixels.* at most"):
        decode(data, "it")


# CIE xyY of the primaries, and the matrices that follow from them (SMPTE EG 432-1, IEC 61966-2-1; white D65).
P3_TO_SRGB = np.array([[1.2249, -0.2249, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0983]])


def display_p3():
    """An ICC profile of Display P3: matrix and tone curve, with the values of Apple's."""

    def tag(*numbers):
        return b"XYZ \0\0\0\0" + b"".join(round(x * 65536).to_bytes(4, "big", signed=True) for x in numbers)

    curve = b"para\0\0\0\0\0\3\0\0" + b"".join(
        round(x * 65536).to_bytes(4, "big") for x in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    )
    text = "Display P3".encode("utf-16-be")
    name = b"mluc\0\0\0\0\0\0\0\1\0\0\0\x0cenUS" + len(text).to_bytes(4, "big") + b"\0\0\0\x1c" + text
    tags = {
        b"desc": name,
        b"wtpt": tag(0.96420, 1.0, 0.82491),
        b"rXYZ": tag(0.51512, 0.24120, -0.00105),
        b"gXYZ": tag(0.29198, 0.69225, 0.04189),
        b"bXYZ": tag(0.15710, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        value += bytes(-len(value) % 4)
        table += key + (start + len(body)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        body += value
    rest = len(tags).to_bytes(4, "big") + table + body
    head = (128 + len(rest)).to_bytes(4, "big") + b"\0\0\0\0\4\0\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    white = b"".join(round(x * 65536).to_bytes(4, "big") for x in (0.96420, 1.0, 0.82491))
    return (head + white).ljust(128, b"\0") + rest


def from_p3(rgb):
    """Display P3 -> sRGB, uint8, by the definition of both."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) @ P3_TO_SRGB.T
    linear = np.clip(linear, 0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_display_p3_becomes_srgb(picture, kind):
    expected = from_p3(picture)
    assert np.abs(expected - picture).max() > 20
    data = phone_picture(picture, kind, icc_profile=display_p3(), **lossless(kind))
    assert_decodes_to(data, expected, 6 if kind == "JPEG" else 4)
    assert_decodes_to(encoded(picture, "PNG", icc_profile=b"a broken profile" * 20), picture, 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_a_pillow_image_is_converted_by_its_mode(picture, mode):
    if mode.startswith("I"):
        grey = np.array(Image.fromarray(picture).convert("L"))
        image = Image.fromarray(grey.astype(np.uint16) * 257)
        image, expected = image if mode == "I;16" else image.convert("I"), np.repeat(grey[..., None], 3, axis=2)
    elif mode == "PA":
        image = Image.fromarray(picture).convert("P").convert(mode)
        expected = np.array(image.convert("RGB"))
    else:
        image = Image.fromarray(picture).convert(mode)
        expected = np.array(image.convert("RGB"))
    assert image.mode == mode
    np.testing.assert_allclose(images.from_pillow(image)[..., ::-1].astype(int), expected, atol=1)


def test_a_pillow_images_orientation_profile_and_transparency_are_applied(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(picture, "PNG", exif=exif, icc_profile=display_p3())))
    np.testing.assert_allclose(images.from_pillow(image)[..., ::-1], np.rot90(from_p3(picture), -1), atol=4)
    clear = Image.fromarray(picture).convert("RGBA")
    clear.putalpha(0)
    assert (images.from_pillow(clear) == 255).all()
    with pytest.raises(ValueError, match="mode F does not define"):
        images.from_pillow(Image.new("F", (8, 8)))
    with pytest.raises(ValueError, match="empty"):
        images.from_pillow(Image.new("RGB", (0, 8)))


@pytest.mark.filterwarnings("error")
def test_broken_exif_is_ignored(picture):
    assert_decodes_to(encoded(picture, "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage"), picture, 0)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_has_the_colours_of_pillow(picture, kind):
    data = encoded(Image.fromarray(picture).convert("CMYK"), kind, **lossless(kind))
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert_decodes_to(data, picture, 4)
    if kind == "JPEG":  # without Adobe's marker
        start = data.index(b"\xff\xee")
        bare = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
        assert_decodes_to(bare, np.array(Image.open(io.BytesIO(bare)).convert("RGB")), 4)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_scaled_to_8(picture, suffix):
    deep = picture[..., ::-1].astype(np.uint16) * 257
    assert_decodes_to(cv2.imencode(suffix, deep)[1].tobytes(), picture, 0)
    assert_decodes_to(cv2.imencode(suffix, deep[..., 0])[1].tobytes(), np.repeat(picture[..., 2:], 3, axis=2), 0)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_bilevel_and_palette_images_become_three_channels(picture, mode):
    image = Image.fromarray(picture).convert(mode)
    assert_decodes_to(encoded(image, "PNG"), np.array(image.convert("RGB")), 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_of_a_file_is_blended_over_white(picture, kind):
    alpha = np.full(picture.shape[:2] + (1,), 255, np.uint8)
    alpha[:16], alpha[16:, :16] = 0, 128
    expected = picture.copy()
    expected[:16] = 255
    expected[16:, :16] = np.rint(picture[16:, :16] * (128 / 255) + 255 * (127 / 255))
    exact = {"exact": True} if kind == "WEBP" else {}
    data = encoded(np.concatenate([picture, alpha], axis=2), kind, **lossless(kind), **exact)
    assert_decodes_to(data, expected, 1)


@pytest.mark.parametrize("channels", [2, 4])
def test_blending_over_white_is_exact_for_all_colours_and_opacities(channels):
    opacity, colour = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    picture = np.stack([colour] * (channels - 1) + [opacity], axis=-1)
    share = opacity.astype(np.float64)[..., None] / 255
    expected = np.rint(colour[..., None] * share + 255 * (1 - share))
    np.testing.assert_array_equal(images.to_bgr8(picture, "it"), np.repeat(expected, 3, axis=2))


def test_large_images_are_converted_in_pieces_with_the_same_result():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 65536, (700, 1000, 4)).astype(np.uint16)  # 2.8 million samples: several pieces
    whole = images.to_bgr8(picture, "it")
    for row in (0, 261, 262, 263, 699):
        np.testing.assert_array_equal(whole[row], images.to_bgr8(picture[row : row + 1], "it")[0])


@pytest.mark.filterwarnings("error")
def test_images_of_one_pixel_and_of_100_megapixels_are_read_without_a_warning(picture):
    assert_decodes_to(encoded(picture[:1, :1], "PNG"), picture[:1, :1], 0)
    grey = np.full((10_000, 10_000), 90, np.uint8)
    data = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    image = decode(data, "it")
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
def test_files_that_are_not_images_are_named(tmp_path, data, reason):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with refused("photo.jpg") as error:
        images.read_image(path)
    assert error.value.reason == reason


def test_missing_files_pipes_folders_devices_and_names_with_nul_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "folder.jpg", "endless.jpg"):
        with refused(f"{name}: not a regular file"):
            images.read_image(tmp_path / name)
    with refused("nothing.png: No such file"):
        images.read_image(tmp_path / "nothing.png")
    with refused("null"):
        images.read_image(f"{tmp_path}/a\0.jpg")


REFUSE = """
import json, sys, time
from helpers_readers import peak_kilobytes
from twodal_jax.io import images

results = {}
for path in sys.argv[1:]:
    before, start = peak_kilobytes(), time.process_time()
    try:
        images.read_image(path)
        reason = "read"
    except images.SkipFace as skip:
        reason = skip.reason
    results[path.rpartition("/")[2]] = [reason, time.process_time() - start, peak_kilobytes() - before]
print(json.dumps(results))
"""


def test_decompression_bombs_are_refused_in_a_second_and_200_megabytes(tmp_path):
    """The figures are requirements. One new process reads all, because its peak of memory only grows."""
    bombs = helpers_bombs.all_bombs()
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    assert len(bombs["jpeg.jpg"]) < 8192
    process = run_python("-c", REFUSE, *(tmp_path / name for name in bombs))
    assert process.returncode == 0, process.stderr[-2000:]
    results = json.loads(process.stdout)
    for name, (reason, seconds, _) in results.items():
        known = not name.startswith((*helpers_bombs.others(), "noise"))
        assert reason == ("image too large" if known else "unreadable image"), name
        assert seconds < 1, f"{name}: {seconds} s"
    assert sum(grown for _, _, grown in results.values()) < 200e6 / 1024


def test_small_versions_of_the_bombs_are_decoded():
    for make in (helpers_bombs.jpeg, helpers_bombs.png):
        for side in (8, 640):
            assert decode(make(side), "it").shape == (side, side, 3), make
    assert decode(helpers_bombs.tiff(8), "it").shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_limit_of_pixels_is_halved_for_samples_of_16_bits(monkeypatch, kind):
    monkeypatch.setattr(images, "MAX_PIXELS", 5930)
    for samples, side in ((np.uint8, 77), (np.uint16, 54)):
        for extra in (0, 1):
            pixels = np.zeros((side, side + extra, 3), samples)
            data = cv2.imencode(f".{kind.lower()}", pixels)[1].tobytes()
            if extra:
                with refused(f"it: {side + 1}x{side} pixels.* at most"):
                    decode(data, "it")
            else:
                assert decode(data, "it").shape == pixels.shape


def test_a_file_larger_than_any_image_is_refused_unread(tmp_path):
    with open(tmp_path / "long.png", "wb") as file:
        file.truncate(2**31)  # sparse: takes no space
    with refused("2147483648 bytes, at most"):
        images.read_image(tmp_path / "long.png")


@pytest.mark.parametrize("kind", sorted(helpers_bombs.others()))
def test_other_types_that_opencv_decodes_are_refused_by_name(kind):
    with refused(f"photo: a {kind} file; {TYPES}"):
        decode(helpers_bombs.others()[kind], "photo")


@pytest.mark.parametrize("suffix", [".ppm", ".jp2", ".hdr", ".gif"])
def test_small_images_of_other_types_are_refused(suffix):
    picture = np.full((64, 64, 3), 90, np.float32 if suffix == ".hdr" else np.uint8)
    done, data = cv2.imencode(suffix, picture)
    assert done
    with refused(TYPES):
        decode(data.tobytes(), "photo.jpg")


@pytest.mark.parametrize("brand", [b"mp42", b"qt  ", b"crx "])
def test_videos_and_raw_files_are_refused_by_name(brand):
    with refused(f"photo: a MP4 or similar.*{TYPES}"):
        decode(b"\0\0\0\x18ftyp" + brand + bytes(40), "photo")


def test_the_type_is_that_of_the_content_not_of_the_name(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    (tmp_path / "really_a_png.jpg").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    np.testing.assert_array_equal(images.read_image(tmp_path / "really_a_png.jpg"), picture)


def jpeg(size=64, **options):
    return encoded(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8), "JPEG", **options)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100}, {"restart_marker_blocks": 2}])
def test_every_truncation_of_a_jpeg_is_refused(options):
    data = jpeg(**options)
    images.check_scans(data, "it")
    for stop in range(0, len(data), 7):
        with refused("ends early"):
            images.check_scans(data[:stop], "it")


def test_data_after_a_jpeg_is_ignored():
    video = b"ftypmp42" + b"\xff\xda\x00" * 500  # random bytes contain a "start of scan" every 64 kB
    whole = jpeg()
    assert np.array_equal(decode(whole + video, "it"), decode(whole, "it"))


def test_the_end_of_an_embedded_thumbnail_is_not_the_end_of_the_jpeg():
    thumbnail, whole = jpeg(16), jpeg()
    data = whole[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + whole[2:]
    images.check_scans(data, "it")
    with refused("ends early"):
        images.check_scans(data[:-2], "it")


def test_a_jpeg_of_too_many_scans_is_refused():
    # The shortest scan of a progressive JPEG refines one coefficient of one component.
    scan, whole = b"\xff\xda\x00\x08\x01\x01\x00\x01\x01\x10" + b"\x00" * 8, jpeg(progressive=True)
    few, many = (whole[:-2] + scan * count + b"\xff\xd9" for count in (images.MAX_SCANS - 20, images.MAX_SCANS))
    images.check_scans(few, "it")
    with refused("it: a JPEG of more than 100 scans"):
        decode(many, "it")
