"""Errors of a network on whole photos, end to end: detector, crops and passes as in scripts.reconstruct.

    TWODAL_DATA_DIR=... python -m benchmarks.photo_reconstruction [--checkpoint=photos] [--split=val]

Reads `aflw2000/` there: images with annotations.npz (name, split, yaw_deg, roi_box, pts68). For each image the
reconstructed face nearest to the true box is compared with the 68 landmarks in 2D: mean distance in % of the root of
the area of their box (NME), by yaw. The last table tells what a confidence means: of the faces from it upwards, the
share with an NME below 8 %.
"""

import argparse
import os
import pathlib
import time

import numpy as np

import twodal_jax
from benchmarks.face_detector import BINS, is_right
from twodal_jax.detection.boxes import squares
from twodal_jax.evaluation import metrics
from twodal_jax.io.images import read_image

GOOD_NME = 8.0
CONFIDENCES = (0.4, 0.6, 0.7, 0.8, 0.9)


def measure(model, folder: pathlib.Path, split: str) -> tuple[np.ndarray, int, float]:
    """([N, 3] yaw in degrees, NME and confidence of each image, NaN where no face is found; false faces; CPU s)."""
    with np.load(folder / "annotations.npz", allow_pickle=False) as content:
        rows = np.flatnonzero(content["split"] == split)
        names, boxes, yaw, points = (content[key][rows] for key in ("name", "roi_box", "yaw_deg", "pts68"))
    results, wrong, seconds = [], 0, 0.0
    for name, box, angle, true in zip(names, boxes, np.abs(yaw), points):
        image = read_image(folder / "images" / f"{name}.jpg")
        start = time.process_time()
        faces = model.reconstruct(image)
        seconds += time.process_time() - start
        places = squares([face.roi_box for face in faces])
        right = is_right(places, squares(box)[0]) if faces else np.zeros(0, bool)
        wrong += len(faces) - int(right.any())
        if right.any():
            face = faces[int(np.argmax(right))]
            true = true[:2].T[None]
            error = metrics.nme(face.landmarks68[None, :, :2], true, true)[0]
            results.append((angle, error, face.confidence))
        else:
            results.append((angle, np.nan, np.nan))
    return np.array(results), wrong, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="photos")
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    model = twodal_jax.load(options.checkpoint)
    results, wrong, seconds = measure(model, pathlib.Path(os.environ["TWODAL_DATA_DIR"], "aflw2000"), options.split)
    yaw, error, confidence = results.T
    found, means = np.isfinite(error), []
    for low, high in BINS:
        chosen = (yaw >= low) & (yaw < high)
        means.append(error[chosen & found].mean())
        print(
            f"yaw {low} to {min(high, 90)}: {100 * found[chosen].mean():.1f} % of {chosen.sum()} found, NME"
            f" {means[-1]:.2f} %"
        )
    print(f"mean of bins {np.mean(means):.2f} %; {wrong / len(yaw):.3f} false faces an image")
    print(f"{1000 * seconds / len(yaw):.0f} ms of CPU an image")
    for least in CONFIDENCES:
        chosen = confidence >= least
        share = 100 * (error[chosen] < GOOD_NME).mean()
        print(f"confidence >= {least}: {chosen.sum()} faces, {share:.1f} % with an NME below {GOOD_NME:g} %")


if __name__ == "__main__":
    main()
