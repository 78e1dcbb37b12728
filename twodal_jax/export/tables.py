"""Writers of landmarks, pose and coefficients as CSV and JSON. Writes are atomic.

A face has the fields of `detection.types.Face`; the faces of a picture are numbered from 0. Points are in image pixels:
x right, y DOWN, the first pixel's centre at (0, 0), z towards the viewer in the same unit. Values that are not finite
become null in JSON and empty cells in CSV.
"""

import csv
import dataclasses
import io
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from twodal_jax import __version__
from twodal_jax.export.files import write_together

NUM_LANDMARKS = 68
FRAMES = {
    "box": "sx, sy, ex, ey of the square crop, image pixels, y down, counted from the picture's upper left corner",
    "landmarks68": "x, y, z; iBUG order; image pixels, y down, the first pixel's centre at (0, 0); z towards"
    " the viewer in the same unit",
    "pose": "degrees; yaw > 0: looks to the viewer's left; pitch > 0: up; roll > 0: turned clockwise as the"
    " viewer sees it",
    "alpha": "raw coefficients in the 120-pixel crop of the box: pose 12 (3 x 4 matrix row by row, from the"
    " morphable model's frame to crop pixels with y up, y_up = 121 - y; x and y count from the centre of the"
    " crop's first pixel), shape 40, expression 10; a file of predictions made of it needs pixel_origin 0",
    "confidence": "0 to 1, no probability",
}
# Strings in JSON contain no line break, so this matches lists of plain values only.
_PLAIN_LIST = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")


def plain(value: Any) -> Any:
    """Converts arrays, tuples and dicts to JSON types; float32 has the fewest digits that restore it, NaN is None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain(item) for item in value]
    if isinstance(value, np.floating | np.ndarray) and np.asarray(value).dtype.kind == "f":
        return float(str(np.asarray(value)[()])) if np.isfinite(value) else None
    if isinstance(value, np.generic | np.ndarray):
        return value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def to_json(content: Any) -> str:
    """JSON text, indented, with lists of numbers on one line."""
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    return _PLAIN_LIST.sub(lambda found: f"[{re.sub(chr(10) + ' *', ' ', found[1])}]", text) + "\n"


def write_json(path: os.PathLike | str, content: Any) -> pathlib.Path:
    """Writes `to_json`. Raises OSError, which names the file."""
    # A file name may contain bytes that are not UTF-8; JSON escapes them.
    write_together({pathlib.Path(path): to_json(content).encode("utf-8", "backslashreplace")})
    return pathlib.Path(path)


def write_faces_json(path: os.PathLike | str, file: str, size: tuple[int, int], faces: Sequence) -> pathlib.Path:
    """Writes faces.json: the picture's file and size (width, height), the frames, and each face without its mesh."""
    rows = [
        {
            "face": number,
            "confidence": face.confidence,
            "box": face.roi_box,
            "pose": dataclasses.asdict(face.pose),
            "alpha": face.alpha,
            "landmarks68": face.landmarks68,
        }
        for number, face in enumerate(faces)
    ]
    picture = {"program": f"twodal_jax {__version__}", "file": str(file), "width": size[0], "height": size[1]}
    return write_json(path, picture | {"frames": FRAMES, "faces": rows})


def write_pose_json(path: os.PathLike | str, file: str, faces: Sequence) -> pathlib.Path:
    """Writes {"file", "frame", "faces": [{"face", "yaw", "pitch", "roll"}]}, degrees."""
    rows = [{"face": number, **dataclasses.asdict(face.pose)} for number, face in enumerate(faces)]
    return write_json(path, {"file": str(file), "frame": FRAMES["pose"], "faces": rows})


def write_landmarks_csv(path: os.PathLike | str, pictures: Iterable[tuple[str, Sequence]]) -> pathlib.Path:
    """Writes one row a face: file, face, x0, y0, z0, ..., x67, y67, z67.

    pictures: (file, faces) of each picture; one without faces has no row.
    """
    with io.StringIO(newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["file", "face", *(f"{axis}{n}" for n in range(NUM_LANDMARKS) for axis in "xyz")])
        for file, faces in pictures:
            for number, face in enumerate(faces):
                values = plain(_landmarks(face).ravel())
                writer.writerow([file, number, *("" if value is None else value for value in values)])
        write_together({pathlib.Path(path): text.getvalue().encode("utf-8", "backslashreplace")})
    return pathlib.Path(path)


def _landmarks(face) -> np.ndarray:
    points = np.asarray(face.landmarks68)
    if points.shape != (NUM_LANDMARKS, 3):
        raise ValueError(f"Expected `landmarks68` of shape ({NUM_LANDMARKS}, 3), got {points.shape}.")
    return points
