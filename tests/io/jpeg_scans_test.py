"""twodal_jax.io.images: a JPEG's scans and its end are found by its markers, as a decoder finds them."""

import io

import numpy as np
import pytest
from PIL import Image

from twodal_jax.io import images
from twodal_jax.io.images import check_scans, MAX_SCANS, SkipFace

END = b"\xff\xd9"


def jpeg(size=64, **options):
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(data, "JPEG", **options)
    return data.getvalue()


def one_more_scan():
    """The shortest scan of a progressive JPEG: a refinement of one coefficient of one component."""
    return b"\xff\xda\x00\x08\x01\x01\x00\x01\x01\x10" + b"\x00" * 8


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100}, {"restart_marker_blocks": 2}])
def test_whole_pictures_pass_and_every_cut_of_them_does_not(options):
    data = jpeg(**options)
    check_scans(data, "it")
    for stop in range(0, len(data), 7):
        with pytest.raises(SkipFace, match="ends early"):
            check_scans(data[:stop], "it")


def test_what_follows_the_picture_does_not_count():
    film = b"ftypmp42" + b"\xff\xda\x00" * 500  # random bytes hold a "start of scan" every 64 kB
    whole = jpeg()
    assert np.array_equal(images.decode_image(whole + film, "it"), images.decode_image(whole, "it"))


def test_a_thumbnails_end_is_not_the_pictures():
    inner = jpeg(16)
    whole = jpeg()
    segment = b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner
    data = whole[:2] + segment + whole[2:]
    check_scans(data, "it")
    with pytest.raises(SkipFace, match="ends early"):
        check_scans(data[:-2], "it")


def test_more_scans_than_anybody_writes_are_refused_unread():
    whole = jpeg(progressive=True)
    few, many = (whole[:-2] + one_more_scan() * count + END for count in (MAX_SCANS - 20, MAX_SCANS))
    check_scans(few, "it")
    with pytest.raises(SkipFace, match="it: a JPEG of more than 100 scans"):
        images.decode_image(many, "it")
