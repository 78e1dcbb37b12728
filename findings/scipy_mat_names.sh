#!/usr/bin/env bash
# Guess: a list of image names and a mask of booleans come back from `scipy.io.savemat` and `loadmat` as they were.
# Behaviour: the names become a rectangle of characters and come back padded with blanks, "a.jpg      "; the mask comes
#   back as uint8, so that `points[mask]` takes points 0 and 1 again and again instead of the marked ones. A cell array
#   (an object array) keeps the names.
# Versions: SciPy 1.17.1 (VERSION=... tries another), NumPy 2.4.6.
# Why it matters: AFLW-LFPA and other benchmarks pass names, boxes and visibilities in .mat files. Files are then not
#   found, or the error is measured on two of 34 points.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "scipy==${VERSION:-1.17.1}" numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import scipy.io

names, visible = ["1.jpg", "1299.jpg"], np.array([False, True, True])
file = io.BytesIO()
scipy.io.savemat(file, {"names": names, "cells": np.array(names, object), "visible": visible})
file.seek(0)
read = scipy.io.loadmat(file, squeeze_me=True)
points = np.array([10, 20, 30])
print("names:", [str(name) for name in read["names"]], "cells:", [str(name) for name in read["cells"]])
print("type of the mask:", read["visible"].dtype, "- marked points:", points[read["visible"]], "not", points[visible])
assert [str(name) for name in read["names"]] == ["1.jpg   ", "1299.jpg"] and list(read["cells"]) == names
assert read["visible"].dtype == np.uint8 and points[read["visible"]].tolist() == [10, 20, 20]
PYTHON
