"""Scans of a JPEG, found by its markers (ITU-T T.81, annex B) and not decoded."""

from __future__ import annotations

import re

from twodal_jax.image_header import SkipFace

MAX_SCANS = 100  # cameras and programs write 1 to 12
# A marker: FF and anything but a stuffed 00, a restart (D0 to D7) or another FF.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _ALONE = 0xD8, 0xD9, 0xDA, 0x01


def check_scans(data: bytes, name: str) -> None:
    """Raises SkipFace for a JPEG that ends early, or has more than `MAX_SCANS` scans.

    Of a file cut short libjpeg fills the missing part with grey and reports nothing. Each scan of a progressive
    JPEG goes over the whole picture once more, and takes as little as a hundred bytes. What follows the picture, as
    the film of a phone's "motion photo", does not count.
    """
    scans, at = 0, 2
    while found := _MARKER.search(data, at):
        marker, at = data[found.start() + 1], found.end()
        if marker == _END_OF_IMAGE:
            return
        if marker == _START_OF_SCAN:
            scans += 1
        if scans > MAX_SCANS:
            raise SkipFace("unreadable image", f"{name}: a JPEG of more than {MAX_SCANS} scans, each of which takes as"
                           " long as a picture; save it anew with a usual program")  # fmt: skip
        if marker not in (_START_OF_IMAGE, _ALONE):
            at += int.from_bytes(data[at : at + 2], "big")
    raise SkipFace("unreadable image", f"{name}: the JPEG ends early (broken download?)")
