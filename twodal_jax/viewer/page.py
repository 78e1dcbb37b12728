"""A self-contained HTML page with reconstructed faces: the photo beside a mesh that rotates and changes expression.

The page contains style, program, three.js (web/three.bundle.js, made by build.sh), pictures and numbers. Its content
security policy forbids loading anything and running any other program than those whose hashes it gives. Text from files
or the command line is escaped.
"""

import base64
import hashlib
import importlib.resources
import json
import os
import pathlib
import re
from collections.abc import Sequence

import cv2
import numpy as np

from twodal_jax.export.files import write_together
from twodal_jax.io.text import as_html, escape_hidden
from twodal_jax.rendering import drawing
from twodal_jax.viewer import packing
from twodal_jax.viewer.viewer_face import ViewerFace

# Longest side of the photo in the page, pixels; landmarks keep the coordinates of the photo itself.
MAX_PHOTO_SIDE = 1600
# In this order: a file uses the ones before it.
PROGRAM = ("data.js", "shape.js", "look.js", "stage.js", "photo.js", "app.js")


def viewer_page(faces: Sequence[ViewerFace], photo: np.ndarray, title: str) -> str:
    """The text of the page.

    Args:
      faces: of the photo; the page opens with the first one. May be empty.
      photo: BGR uint8 [H, W, 3]; reduced to MAX_PHOTO_SIDE in the page.
      title: heading of the page, e.g. the photo's file name.

    Raises:
      ValueError: the photo or a field of a face has the wrong shape, type or range; the message names it.
    """
    blobs: dict[str, str] = {}
    height, width = photo.shape[:2]
    description = {"photo": {"width": width, "height": height}, "faces": [_describe(face, blobs) for face in faces]}
    three, style = _source("three.bundle.js"), _source("viewer.css")
    sources = "\n".join(_source(name) for name in PROGRAM)
    program = f'(() => {{\n"use strict";\n{sources}}})();\n'
    parts = {
        "policy": (
            f"default-src 'none'; script-src {_hash(three)} {_hash(program)}; style-src {_hash(style)}; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
        "title": as_html(title),
        "style": style,
        "photo": _jpeg(_shrunk(photo)),
        "blobs": "\n".join(f'<script type="text/plain" id="{name}">{text}</script>' for text, name in blobs.items()),
        "description": _json(description),
        "three": three,
        "program": program,
    }
    # In one pass, so that inserted text is not searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _source("page.html"))


def write_viewer(path: str | os.PathLike, faces: Sequence[ViewerFace], photo: np.ndarray, title: str) -> pathlib.Path:
    """Writes `viewer_page` atomically and returns its path. Raises OSError."""
    write_together({pathlib.Path(path): viewer_page(faces, photo, title).encode("utf-8")})
    return pathlib.Path(path)


def _source(name: str) -> str:
    return (importlib.resources.files("twodal_jax.viewer") / "web" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash of an inline script or style in a content security policy."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _json(value: object) -> str:
    """JSON that cannot close the script element around it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shrunk(photo: np.ndarray) -> np.ndarray:
    height, width = photo.shape[:2]
    factor = MAX_PHOTO_SIDE / max(height, width)
    if factor >= 1:
        return photo
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def _jpeg(picture: np.ndarray) -> str:
    return f"data:image/jpeg;base64,{drawing.encode_jpeg(picture, 90)}"


def _describe(face: ViewerFace, blobs: dict[str, str]) -> dict[str, object]:
    """The description of a face for web/app.js; its arrays go into `blobs`."""
    face.check()
    vertices = np.asarray(face.vertices_model, np.float64)
    landmarks = vertices[face.landmark_indices] @ face.pose_image[:, :3].T + face.pose_image[:, 3]
    low, high = landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0)
    count, _, num_vertices = face.expression_directions.shape
    index_type = np.uint16 if num_vertices <= 2**16 else np.uint32
    directions = np.asarray(face.expression_directions, np.float64).reshape(3 * count, num_vertices)
    # A crop box counts pixel edges, everything else in the page pixel centres.
    box = None if face.roi_box is None else _rounded(np.asarray(face.roi_box) - 0.5)
    visible = face.landmarks_visible
    return {
        "name": escape_hidden(face.name),
        "facts": [[escape_hidden(label), escape_hidden(value)] for label, value in face.facts.items()],
        "vertices": _packed(vertices.T, blobs, centre=True),
        "directions": _packed(directions, blobs, group=3),
        "triangles": packing.pack(face.triangles.T.astype(index_type), blobs),
        "landmarkIndices": face.landmark_indices.tolist(),
        "landmarks": _rounded(landmarks[:, :2]),
        "visible": None if visible is None else [bool(seen) for seen in visible],
        "pose": face.pose_image.tolist(),
        "rotation": face.rotation.ravel().tolist(),
        "box": box,
        "frame": box or _rounded(np.concatenate([low, high])),
        "expressionNames": [escape_hidden(name) for name in face.expression_names],
        "uv": None if face.uv is None else _packed(np.asarray(face.uv).T, blobs, centre=True),
        "texture": None if face.texture is None else _jpeg(face.texture),
        "colours": None if face.colours is None else _packed_colours(face.colours, blobs),
    }


def _rounded(points: np.ndarray) -> list:
    return np.round(np.asarray(points, np.float64), 2).tolist()


def _packed(rows, blobs, group=1, centre=False):
    quantised, scale, offset = packing.quantise(rows, group, centre)
    return packing.pack(quantised, blobs, scale, offset)


def _packed_colours(colours, blobs):
    """BGR -> RGB planes."""
    planes = np.ascontiguousarray(colours[:, ::-1].T)
    return packing.pack(planes, blobs, np.ones(3), np.zeros(3))
