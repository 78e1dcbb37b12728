"""A folder in UMDFaces' layout with small random images, some of them broken."""

import csv

import cv2
import numpy as np
from helpers_face_files import photo

POINTS = 21
POINT_COLUMNS = [name for k in range(1, POINTS + 1) for name in (f"P{k}X", f"P{k}Y", f"VIS{k}")]
HEADER = ["SUBJECT_ID", "FILE", "FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT", "YAW", *POINT_COLUMNS]
# Content of a broken file -> the reason for its skip.
BROKEN = {b"": "empty image file", b"this is no picture": "unreadable image", b"\xff\xd8\xff\xda": "unreadable image"}


def write_batch(batch, rows, header=HEADER):
    """Writes the table of a batch folder; rows as {column: value}."""
    batch.mkdir(parents=True, exist_ok=True)
    with open(batch / f"{batch.name}_ultraface.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, restval=0)
        writer.writeheader()
        writer.writerows(rows)


def row_of(file, box, yaw, points, visible):
    """A row of the table: box x, y, width, height; points [21, 2]; visible [21]."""
    marks = np.column_stack([points, visible]).ravel().round(3)
    return dict(zip(HEADER[1:], [file, *box, yaw, *marks]))


def write_umdfaces(root, count, *, broken=(), names=None):
    """Writes `count` faces; the rows in `broken` are no images. Returns {name: reason} of these."""
    batch = root / "umdfaces_batch1"
    names = names or [f"s{row // 10}/face{row:04d}.jpg" for row in range(count)]
    random = np.random.default_rng(5)
    rows, reasons = [], {}
    for row, name in enumerate(names):
        rows.append(row_of(name, (30, 30, 90, 95), row % 90, random.uniform(40, 110, (POINTS, 2)), np.ones(POINTS)))
        data = cv2.imencode(".jpg", photo(150, row))[1].tobytes()
        if row in broken:
            data = [*BROKEN, data[: len(data) // 2]][len(reasons) % 4]
            reasons[f"umdfaces_batch1/{name}"] = BROKEN.get(data, "unreadable image")
        path = batch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    write_batch(batch, rows)
    return reasons
