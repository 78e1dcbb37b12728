"""Recall of the built-in face detector on real faces by yaw, and its false detections.

    TWODAL_DATA_DIR=... python -m benchmarks.face_detector [--split=val] [--roll=0]

Reads `aflw2000/` there: images with annotations.npz (name, split, yaw_deg, roi_box). A detection is right where its
centre lies within a quarter of the side of the true box from that box's centre, and its side is 0.5 to 1.6 of that
side. --roll turns the images clockwise, --brightness multiplies their values.
"""

import argparse
import os
import pathlib
import time

import cv2
import numpy as np

from twodal_jax.detection.boxes import squares
from twodal_jax.detection.centerface import CenterFaceDetector
from twodal_jax.io.images import read_image

BINS = ((0, 30), (30, 60), (60, 181))


def is_right(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """bool [K]: detections [K, 3] against the true box [3], each as centre x, y and side."""
    off = np.linalg.norm(found[:, :2] - true[:2], axis=1) / true[2]
    size = found[:, 2] / true[2]
    return (off < 0.25) & (size > 0.5) & (size < 1.6)


def turned(image: np.ndarray, box: np.ndarray, roll: float) -> tuple[np.ndarray, np.ndarray]:
    """The image turned clockwise by `roll` degrees with all its corners, and the box [4] moved with its centre."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -roll, 1.0)
    size = np.ceil(np.abs(matrix[:, :2]) @ [width, height] - 1e-6).astype(int)
    matrix[:, 2] += (size - [width, height]) / 2
    centre, half = matrix[:, :2] @ ((box[:2] + box[2:]) / 2) + matrix[:, 2], (box[2:] - box[:2]) / 2
    return cv2.warpAffine(image, matrix, size.tolist()), np.concatenate([centre - half, centre + half])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="val")
    parser.add_argument("--roll", type=float, default=0.0, help="degrees")
    parser.add_argument("--brightness", type=float, default=1.0)
    options = parser.parse_args()
    folder = pathlib.Path(os.environ["TWODAL_DATA_DIR"], "aflw2000")
    with np.load(folder / "annotations.npz", allow_pickle=False) as content:
        rows = np.flatnonzero(content["split"] == options.split)
        names, boxes, yaw = (content[key][rows] for key in ("name", "roi_box", "yaw_deg"))
    detector, hits, wrong, seconds = CenterFaceDetector(), [], 0, []
    for name, box in zip(names, boxes):
        image = read_image(folder / "images" / f"{name}.jpg")
        image, box = turned(cv2.convertScaleAbs(image, alpha=options.brightness), box, options.roll)
        start = time.process_time()
        found = detector.detect(image)
        seconds.append(time.process_time() - start)
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
    print(f"false detections: {wrong / len(hits):.2f} per image; median {1000 * np.median(seconds):.0f} ms of CPU")


if __name__ == "__main__":
    main()
