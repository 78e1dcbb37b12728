"""A folder in UMDFaces' layout with small made pictures, some of them broken on purpose."""

import csv

import cv2
import numpy as np
from helpers_face_files import photo

POINTS = 21
HEADER = [
    "SUBJECT_ID",
    "FILE",
    "FACE_X",
    "FACE_Y",
    "FACE_WIDTH",
    "FACE_HEIGHT",
    "YAW",
    *(f"{p}{k}{a}" for k in range(1, POINTS + 1) for p, a in (("P", "X"), ("P", "Y"), ("VIS", ""))),
]
# What stands in for a broken file -> the reason it is counted under.
BROKEN = {b"": "empty image file", b"this is no picture": "unreadable image", b"\xff\xd8\xff\xda": "unreadable image"}


def write_umdfaces(root, count, *, broken=(), names=None):
    """Writes `count` faces; `broken`: their rows that are no pictures. Returns {name: reason} of these."""
    batch = root / "umdfaces_batch1"
    batch.mkdir(parents=True)
    names = names or [f"s{row // 10}/face{row:04d}.jpg" for row in range(count)]
    random = np.random.default_rng(5)
    reasons = {}
    with open(batch / "umdfaces_batch1_ultraface.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row, name in enumerate(names):
            points = np.column_stack([random.uniform(40, 110, (POINTS, 2)), np.ones(POINTS)])
            writer.writerow([row, name, 30, 30, 90, 95, row % 90, *points.ravel().round(3)])
            data = cv2.imencode(".jpg", photo(150, row))[1].tobytes()
            if row in broken:
                data = [*BROKEN, data[: len(data) // 2]][len(reasons) % 4]
                reasons[f"umdfaces_batch1/{name}"] = BROKEN.get(data, "unreadable image")
            path = batch / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    return reasons
