"""twodal_jax.io.images: small files that claim huge pictures, names that lie, and files without an end."""

import json
import os

import cv2
import helpers_bombs
import numpy as np
import pytest
from helpers_run import run_python

from twodal_jax.io import images

REFUSE = """
import json, sys, time
from helpers_readers import peak_kilobytes
from twodal_jax.io import images

images_read = {}
for path in sys.argv[1:]:
    before, start = peak_kilobytes(), time.process_time()
    try:
        images.read_image(path)
        reason = "read"
    except images.SkipFace as skip:
        reason = skip.reason
    images_read[path.rpartition("/")[2]] = [reason, time.process_time() - start, peak_kilobytes() - before]
print(json.dumps(images_read))
"""


def test_bombs_are_refused_in_a_second_and_200_megabytes(tmp_path):
    """The figures are requirements. All in one fresh process, whose peak of memory only grows; its own seconds."""
    bombs = helpers_bombs.all_bombs()
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    assert len(bombs["jpeg.jpg"]) < 8192
    process = run_python("-c", REFUSE, *(tmp_path / name for name in bombs))
    assert process.returncode == 0, process.stderr[-2000:]
    found = json.loads(process.stdout)
    for name, (reason, seconds, grown) in found.items():
        known = not name.startswith((*helpers_bombs.others(), "noise"))
        assert reason == ("image too large" if known else "unreadable image"), name
        assert seconds < 1, f"{name}: {seconds} s"
    assert sum(grown for _, _, grown in found.values()) < 200e6 / 1024


def test_the_bombs_are_pictures_that_the_decoder_accepts_when_they_are_small():
    for make in (helpers_bombs.jpeg, helpers_bombs.png):
        for side in (8, 640):
            assert images.decode_image(make(side), "it").shape == (side, side, 3), make
    assert images.decode_image(helpers_bombs.tiff(8), "it").shape == (8, 8, 3)


@pytest.mark.parametrize("kind", sorted(helpers_bombs.others()))
def test_types_beside_the_five_are_refused_by_name(kind):
    with pytest.raises(images.SkipFace, match=f"photo: a {kind} file; JPEG, PNG, BMP, WEBP, TIFF are read"):
        images.decode_image(helpers_bombs.others()[kind], "photo")


def test_small_pictures_of_other_types_are_refused_too():
    picture = np.full((64, 64, 3), 90, np.uint8)
    for suffix in (".ppm", ".jp2", ".hdr", ".gif"):
        done, data = cv2.imencode(suffix, np.float32(picture) if suffix == ".hdr" else picture)
        assert done
        with pytest.raises(images.SkipFace, match="are read, by their content"):
            images.decode_image(data.tobytes(), "photo.jpg")


def test_the_content_tells_the_type_not_the_name(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    (tmp_path / "really_a_png.jpg").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    np.testing.assert_array_equal(images.read_image(tmp_path / "really_a_png.jpg"), picture)


def test_pipes_folders_devices_and_names_with_nul_are_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "folder.jpg", "endless.jpg"):
        with pytest.raises(images.SkipFace, match=f"{name}: not a regular file"):
            images.read_image(tmp_path / name)
    with pytest.raises(images.SkipFace, match="null"):
        images.read_image(f"{tmp_path}/a\0.jpg")


def test_a_file_larger_than_any_picture_is_refused_unread(tmp_path):
    with open(tmp_path / "long.png", "wb") as file:
        file.truncate(2**31)  # sparse: takes no space
    with pytest.raises(images.SkipFace, match="2147483648 bytes, at most"):
        images.read_image(tmp_path / "long.png")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_limit_is_one_of_memory_so_that_wide_samples_may_be_fewer(monkeypatch, kind):
    monkeypatch.setattr(images, "MAX_PIXELS", 5930)
    for samples, side in ((np.uint8, 77), (np.uint16, 54)):
        for extra in (0, 1):
            pixels = np.zeros((side, side + extra, 3), samples)
            data = cv2.imencode(f".{kind.lower()}", pixels)[1].tobytes()
            if extra:
                with pytest.raises(images.SkipFace, match=f"{side + 1}x{side} pixels.* at most"):
                    images.decode_image(data, "it")
            else:
                assert images.decode_image(data, "it").shape == pixels.shape


@pytest.mark.parametrize("brand, kind", [(b"heic", "HEIC"), (b"avif", "AVIF"), (b"mp42", "MP4")])
def test_what_phones_write_beside_jpeg_is_named(brand, kind):
    with pytest.raises(images.SkipFace, match=f"photo: a .*{kind}.*JPEG, PNG"):
        images.decode_image(b"\0\0\0\x18ftyp" + brand + bytes(40), "photo")
