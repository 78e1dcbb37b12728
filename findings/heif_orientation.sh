#!/usr/bin/env bash
# Guess: a photo with an EXIF orientation, saved as HEIC by pillow-heif, is shown upright again when it is read, as the
#   same photo saved as JPEG or AVIF is.
# Behaviour: the orientation is lost. HEIF turns photos by its own property, `irot`, and readers ignore the EXIF entry:
#   pillow-heif writes the pixels as they are and reports orientation 1. The photo lies on its side.
# Versions: pillow-heif 1.8.1 (VERSION=... tries another), Pillow 12.3.0.
# Why it matters: a set of portraits from phones that is converted to HEIC has turned faces, which detectors miss, and
#   the landmarks of the originals no longer fit. `PIL.ImageOps.exif_transpose` before the save mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pillow-heif==${VERSION:-1.8.1}" pillow==12.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import pillow_heif
from PIL import Image, ImageOps

pillow_heif.register_heif_opener()
photo = Image.new("RGB", (64, 32), (255, 0, 0))
photo.paste((0, 0, 255), (0, 0, 32, 32))
orientation = Image.Exif()
orientation[0x0112] = 6  # to be turned by a quarter
shown = {}
for kind in ("JPEG", "AVIF", "HEIF"):
    file = io.BytesIO()
    photo.save(file, kind, exif=orientation)
    shown[kind] = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))).size
    print(kind, "width and height as shown:", *shown[kind])
assert shown == {"JPEG": (32, 64), "AVIF": (32, 64), "HEIF": (64, 32)}
PYTHON
