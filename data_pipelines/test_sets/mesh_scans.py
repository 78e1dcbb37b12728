"""Head scans as triangle meshes, in Florence's formats: OBJ (with trimesh) and VRML 2.0 (`.wrl`)."""

import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from data_pipelines.sources.base import SkipFace, SourceError

SUFFIXES = (".obj", ".wrl", ".vrml")
CLAY_BGR = (0.80, 0.86, 0.92)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


class Scan(NamedTuple):
    """A head scan.

    Attributes:
      vertices: [N, 3] float64, the file's unit (Florence: millimetres), y up, facing +z.
      triangles: [T, 3] int, 0-based.
      colours: [N, 3] float32 BGR from 0 to 1.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    colours: np.ndarray


def list_scans(folder: os.PathLike | str) -> dict[str, pathlib.Path]:
    """{subject: its first mesh}. A subject is a subfolder of `folder`, or a mesh file directly in it.

    Raises SourceError if there is no mesh.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give the one with a folder for each subject")
    meshes: dict[str, pathlib.Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            parts = path.relative_to(folder).parts
            meshes.setdefault(parts[0] if len(parts) > 1 else path.stem, path)
    if not meshes:
        raise SourceError(f"{folder}: no mesh in it; expected {', '.join(SUFFIXES)} files")
    return meshes


def read_scan(path: os.PathLike | str) -> Scan:
    """Reads a mesh. Raises SkipFace if it is unreadable, or has no triangles or an index out of range."""
    path = pathlib.Path(path)
    try:
        scan = _read_obj(path) if path.suffix.lower() == ".obj" else _read_vrml(path)
    except SkipFace:
        raise
    except Exception as error:  # trimesh raises many types on broken files
        raise SkipFace("unreadable mesh", f"{path}: {type(error).__name__}: {error}") from None
    vertices, triangles, _ = scan
    if len(vertices) < 100 or not len(triangles):
        raise SkipFace("unreadable mesh", f"{path}: {len(vertices)} vertices, {len(triangles)} triangles")
    if not np.isfinite(vertices).all() or triangles.min() < 0 or triangles.max() >= len(vertices):
        raise SkipFace("unreadable mesh", f"{path}: a coordinate or an index is out of range")
    return scan


def _read_obj(path: pathlib.Path) -> Scan:
    import trimesh

    has_texture = any(path.parent.glob("*.mtl"))
    mesh = trimesh.load(path, process=False, force="mesh", skip_materials=not has_texture)
    colours = np.tile(np.float32(CLAY_BGR), (len(mesh.vertices), 1))
    if mesh.visual.kind is not None:
        rgba = np.asarray(mesh.visual.to_color().vertex_colors, np.float32)
        if rgba.shape == (len(mesh.vertices), 4):
            colours = rgba[:, 2::-1] / 255.0
    return Scan(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64), colours)


def _read_vrml(path: pathlib.Path) -> Scan:
    """Reads the first IndexedFaceSet: `point [...]`, `coordIndex [...]` and, per vertex, `color [...]`."""
    text = path.read_text(encoding="latin-1")
    if not text.startswith("#VRML V2.0"):
        raise SkipFace("unreadable mesh", f"{path}: not VRML 2.0 (first line)")
    text = re.sub(r"#.*", "", text)
    points = _block(text, r"\bpoint")
    index = _block(text, r"\bcoordIndex")
    if points is None or index is None:
        raise SkipFace("unreadable mesh", f"{path}: no IndexedFaceSet with point and coordIndex")
    vertices = points.reshape(-1, 3)
    triangles = _triangles(index.astype(np.int64))
    colours = np.tile(np.float32(CLAY_BGR), (len(vertices), 1))
    rgb = _block(text, r"\bColor\s*\{\s*color")
    if rgb is not None and rgb.size == vertices.size:
        colours = rgb.reshape(-1, 3)[:, ::-1].astype(np.float32)
    return Scan(vertices, triangles, colours)


def _block(text: str, name: str) -> np.ndarray | None:
    """The numbers of `name [ ... ]`, None if it is missing."""
    match = re.search(name + r"\s*\[([^\]]*)\]", text)
    return None if match is None else np.array(re.findall(_NUMBER, match[1]), np.float64)


def _triangles(index: np.ndarray) -> np.ndarray:
    """Splits polygons, each ended by -1, into fans of triangles [T, 3]."""
    ends = np.flatnonzero(index == -1)
    polygons = np.split(index, ends + 1)
    corners = [polygon[polygon >= 0] for polygon in polygons]
    fans = [np.stack([np.full(len(p) - 2, p[0]), p[1:-1], p[2:]], axis=1) for p in corners if len(p) >= 3]
    return np.concatenate(fans) if fans else np.zeros((0, 3), np.int64)
