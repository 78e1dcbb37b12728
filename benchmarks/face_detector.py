"""Recall of the built-in face detector on real faces by yaw, and its false detections.

    TWODAL_DATA_DIR=... python -m benchmarks.face_detector [--split=val]

Reads `aflw2000/` there: images with annotations.npz (name, split, yaw_deg, roi_box). A detection is right where its
centre lies within a quarter of the side of the true box from that box's centre, and its side is 0.5 to 1.6 of that
side.
"""

import argparse
import os
import pathlib
import time

import numpy as np

from twodal_jax.detection.boxes import squares
from twodal_jax.detection.detectors import CascadeDetector
from twodal_jax.io.images import read_image

BINS = ((0, 30), (30, 60), (60, 181))


def is_right(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """bool [K]: detections [K, 3] against the true box [3], each as centre x, y and side."""
    off = np.linalg.norm(found[:, :2] - true[:2], axis=1) / true[2]
    size = found[:, 2] / true[2]
    return (off < 0.25) & (size > 0.5) & (size < 1.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"], "aflw2000")
    with np.load(folder / "annotations.npz", allow_pickle=False) as content:
        rows = np.flatnonzero(content["split"] == options.split)
        names, boxes, yaw = (content[key][rows] for key in ("name", "roi_box", "yaw_deg"))
    detector, hits, wrong, seconds = CascadeDetector(), [], 0, []
    for name, box in zip(names, boxes):
        image = read_image(folder / "images" / f"{name}.jpg")
        start = time.perf_counter()
        found = detector.detect(image)
        seconds.append(time.perf_counter() - start)
        right = is_right(squares([face.roi_box for face in found]), squares(box)[0]) if found else np.zeros(0)
        hits.append(bool(np.any(right)))
        wrong += len(found) - int(np.sum(right) > 0)
    hits, yaw = np.array(hits), np.abs(yaw)
    for low, high in BINS:
        chosen = (yaw >= low) & (yaw < high)
        print(
            f"yaw {low} to {min(high, 90)}: {hits[chosen].sum()} of {chosen.sum()} found"
            f" ({100 * hits[chosen].mean():.0f} %)"
        )
    print(f"false detections: {wrong / len(hits):.2f} per image; median time {1000 * np.median(seconds):.0f} ms")


if __name__ == "__main__":
    main()
