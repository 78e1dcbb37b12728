"""Head scans as triangle meshes: OBJ, PLY, STL, OFF and GLB (with trimesh), and VRML 2.0 (`.wrl`)."""

import io
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from data_pipelines.sources.base import ignored, SkipFace, SourceError, without_mac_files

_VRML = (".wrl", ".vrml")
SUFFIXES = (".obj", *_VRML, ".ply", ".stl", ".off", ".glb")
CLAY_BGR = (0.80, 0.86, 0.92)
DARKEST = 0.05  # of the brightest vertex; below it the texture is missing
UNITS = {"millimetres": 1.0, "centimetres": 10.0, "metres": 1000.0}
HEAD_MM = (
    150.0,
    1499.0,
)  # largest side, with or without shoulders; within a factor of ten, so that it decides the unit
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


class Scan(NamedTuple):
    """A head scan.

    Attributes:
      vertices: [N, 3] float64, the file's unit, y up, facing +z.
      triangles: [T, 3] int, 0-based.
      colours: [N, 3] float32 BGR from 0 to 1.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    colours: np.ndarray


def list_scans(folder: os.PathLike | str) -> tuple[dict[str, pathlib.Path], list[str]]:
    """{subject: its first mesh}, and messages about subfolders without one and ignored files.

    A subject is a subfolder of `folder`, or a mesh file directly in it. Raises SourceError if there is no mesh.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give the one with a folder for each subject")
    meshes: dict[str, pathlib.Path] = {}
    others: dict[str, list[str]] = {}
    paths, of_mac = without_mac_files(sorted(folder.rglob("*")), folder)
    for path in paths:
        parts = path.relative_to(folder).parts
        if path.suffix.lower() in SUFFIXES and path.is_file():
            meshes.setdefault(parts[0] if len(parts) > 1 else path.stem, path)
        elif len(parts) > 1 or path.is_dir():
            others.setdefault(parts[0], []).extend([path.name] if path.is_file() else [])
    if not meshes:
        raise SourceError(f"{folder}: no mesh in it; expected {', '.join(SUFFIXES)} files")
    problems = [ignored(of_mac)] if of_mac else []
    for subject in sorted(set(others) - set(meshes)):
        names = ", ".join(others[subject][:5]) or "nothing"
        problems.append(f"{subject}: left out: no mesh ({', '.join(SUFFIXES)}) in its folder; it has {names}")
    return meshes, problems


def read_scan(path: os.PathLike | str) -> Scan:
    """Reads a mesh. Raises SkipFace if it is unreadable, or has no triangles or an index out of range."""
    path = pathlib.Path(path)
    try:
        scan = _read_vrml(path) if path.suffix.lower() in _VRML else _read_by_trimesh(path)
    except SkipFace:
        raise
    except Exception as error:  # trimesh raises many types on broken files
        raise SkipFace("unreadable mesh", f"{path}: {type(error).__name__}: {error}") from None
    vertices, triangles, _ = scan
    if len(vertices) < 100 or not len(triangles):
        raise SkipFace(
            "unreadable mesh", f"{path}: {len(vertices)} vertices, {len(triangles)} triangles: not a surface"
        )
    if not np.isfinite(vertices).all() or triangles.min() < 0 or triangles.max() >= len(vertices):
        raise SkipFace("unreadable mesh", f"{path}: a coordinate or an index is out of range")
    if not np.isfinite(scan.colours).all() or scan.colours.max() < DARKEST:
        return scan._replace(colours=_clay(len(vertices)))
    return scan


def unit_of(scan: Scan) -> str:
    """The unit of a scan, one of UNITS, by the size of a head.

    Raises SkipFace if a head has this size in none of them.
    """
    size = float(np.ptp(scan.vertices, axis=0).max())
    for unit, millimetres in UNITS.items():
        if HEAD_MM[0] <= size * millimetres <= HEAD_MM[1]:
            return unit
    raise SkipFace(
        "unknown unit",
        f"its largest side is {size:g}, which is no head's in {', '.join(UNITS)}; give --face_radius in its unit",
    )


def _clay(count: int) -> np.ndarray:
    return np.tile(np.float32(CLAY_BGR), (count, 1))


def _read_by_trimesh(path: pathlib.Path) -> Scan:
    import trimesh

    class Beside(trimesh.resolvers.FilePathResolver):
        """Finds materials and textures in the mesh's folder by their names in any case, and nowhere else."""

        def get(self, name: str) -> bytes:
            wanted = pathlib.PurePosixPath(name.replace("\\", "/")).name.lower()
            for file in path.parent.iterdir():
                if file.name.lower() == wanted and file.is_file():
                    return file.read_bytes()
            raise FileNotFoundError(name)

    kind, content = path.suffix.lower()[1:], path.read_bytes()
    if kind == "obj":
        content = _with_colours_to_1(content)
    resolver = Beside(str(path))
    mesh = trimesh.load(io.BytesIO(content), file_type=kind, resolver=resolver, process=False, force="mesh")
    count = len(mesh.vertices)
    visual = mesh.visual
    if visual.kind == "texture":
        material = visual.material
        picture = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
        found = picture is not None and picture.width * picture.height > 4  # trimesh replaces a missing one by 2 x 2
        visual = visual.to_color() if found else None
    rgba = np.asarray(visual.vertex_colors if visual and visual.kind else (), np.float32)
    colours = rgba[:, 2::-1] / 255.0 if rgba.shape == (count, 4) else _clay(count)
    return Scan(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64), colours)


_COLOURED = re.compile(
    rb"^(v(?:[ \t]+\S+){3})[ \t]+([\d.eE+-]+)[ \t]+([\d.eE+-]+)[ \t]+([\d.eE+-]+)[ \t]*\r?$", re.MULTILINE
)


def _with_colours_to_1(text: bytes) -> bytes:
    """An OBJ whose vertex colours reach 255, as some scanners write them, with colours up to 1."""
    colours = np.array([found.groups()[1:] for found in _COLOURED.finditer(text)], np.float64)
    if not colours.size or colours.max() <= 1:
        return text
    lines = iter(colours / 255)
    return _COLOURED.sub(lambda found: b"%b %.4f %.4f %.4f" % (found[1], *next(lines)), text)


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
    colours = _clay(len(vertices))
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
