"""Writers of meshes for other programs: OBJ with its MTL and PNG, PLY; `glb` writes GLB.

    write_obj    text; Blender, MeshLab and most other programs
    write_ply    binary; vertex colours

Vertices keep their number and order: vertex n of a file is vertex n of the morphable model. Coordinates are written as
given (`frames` converts them): right-handed, y up, triangles counter-clockwise seen from outside. Texture coordinates
are [N, 2] u, v with v UP, as in OBJ: the centre of the texture's pixel (column, row) is u = (column + 1/2) / width,
v = 1 - (row + 1/2) / height. Colours are BGR uint8 (sRGB). Writes are atomic.
"""

import hashlib
import os
import pathlib
import re

import cv2
import numpy as np

from twodal_jax.export.files import write_together

# In OBJ and MTL a space ends a name, # begins a comment and a leading - an option.
_NOT_IN_NAMES = re.compile(r"[\s#\"'\\\x00-\x1f]|^-")
_TRIMESH_COMMENT = re.compile(rb"^comment [^\n]*\n", re.MULTILINE)
_MTL = "newmtl {0}\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nNs 1\nillum 1\nmap_Kd {0}.png\n"


class MeshError(ValueError):
    """The arrays are not a valid mesh; the message names the argument and what was expected."""


def write_obj(
    path: os.PathLike | str,
    vertices: np.ndarray,
    triangles: np.ndarray,
    *,
    uv: np.ndarray | None = None,
    texture: np.ndarray | None = None,
    colours: np.ndarray | None = None,
    comment: str = "",
) -> list[pathlib.Path]:
    """Writes a Wavefront OBJ, with an MTL and a PNG beside it if there is a texture.

    Args:
      path: NAME.obj; the others are NAME.mtl and NAME.png, with another name if OBJ cannot hold it (a space).
      vertices: [N, 3].
      triangles: [T, 3], 0-based.
      uv: [N, 2], v up.
      texture: [H, W, 3] BGR uint8; needs uv.
      colours: [N, 3] BGR uint8, instead of a texture; written as r g b after each vertex, as Blender and MeshLab read.
      comment: first line of the text files.

    Returns:
      The files written.

    Raises:
      MeshError: an array has the wrong shape, type or range. OSError: names the file that was not written.
    """
    path = pathlib.Path(path)
    vertices, triangles = checked(vertices, triangles, uv, texture, colours)
    files, head = {}, [f"# {one_line(comment)}"] if comment else []
    if texture is not None:
        word = _one_word(path.stem)
        files[path.with_name(f"{word}.png")] = png(texture)
        files[path.with_name(f"{word}.mtl")] = "\n".join([*head, _MTL.format(word)]).encode()
        head += [f"mtllib {word}.mtl", f"usemtl {word}"]
    columns = vertices if colours is None else np.concatenate([vertices, colours[:, ::-1] / 255.0], axis=1)
    text = _rows("v", columns) + _rows("vn", normals_of(vertices, triangles), digits=5)
    text += "" if uv is None else _rows("vt", uv)
    corner = "{0}//{0}" if uv is None else "{0}/{0}/{0}"
    corners = np.array([corner.format(n + 1) for n in range(len(vertices))], object)
    text += ("f %s %s %s\n" * len(triangles)) % tuple(corners[triangles].ravel())
    files[path] = "\n".join([*head, text]).encode()
    write_together(files)
    return list(files)


def _rows(keyword: str, values: np.ndarray, digits: int = 9) -> str:
    """Lines of an OBJ; 9 digits restore every float32 exactly."""
    row = keyword + f" %.{digits}g" * np.shape(values)[1] + "\n"
    return (row * len(values)) % tuple(np.asarray(values, np.float64).ravel().tolist())


def write_ply(
    path: os.PathLike | str,
    vertices: np.ndarray,
    triangles: np.ndarray,
    *,
    colours: np.ndarray | None = None,
    comment: str = "",
) -> pathlib.Path:
    """Writes a binary PLY with normals and, if given, vertex colours; arguments as in `write_obj`."""
    from trimesh.exchange.ply import export_ply

    path = pathlib.Path(path)
    vertices, triangles = checked(vertices, triangles, None, None, colours)
    mesh = _trimesh(vertices, triangles)
    if colours is not None:
        mesh.visual.vertex_colors = colours[:, ::-1]
    content = export_ply(mesh, vertex_normal=True, include_attributes=False)
    line = f"comment {one_line(comment)}\n".encode() if comment else b""
    # The first comment is trimesh's own.
    write_together({path: _TRIMESH_COMMENT.sub(lambda _: line, content, count=1)})
    return path


def linear_16bit(srgb: np.ndarray) -> np.ndarray:
    """uint8 sRGB -> linear uint16 (IEC 61966-2-1)."""
    value = srgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.rint(linear * 65535.0).astype(np.uint16)


def _trimesh(vertices: np.ndarray, triangles: np.ndarray):
    """A trimesh.Trimesh that keeps all vertices, with normals."""
    import trimesh

    normals = normals_of(vertices, triangles)
    return trimesh.Trimesh(vertices, triangles, vertex_normals=normals, process=False, validate=False)


def normals_of(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals [N, 3]; towards the viewer without a triangle, because the formats need one for each vertex."""
    from twodal_jax.rendering.shading import vertex_normals

    normals = vertex_normals(vertices, triangles)
    normals[np.square(normals).sum(axis=1) < 0.5] = (0.0, 0.0, 1.0)
    return normals


def png(texture: np.ndarray) -> bytes:
    """PNG of a picture [H, W, 3] BGR uint8."""
    return cv2.imencode(".png", texture)[1].tobytes()


def one_line(comment: str) -> str:
    """The text without line breaks."""
    return " ".join(comment.split())


def _one_word(stem: str) -> str:
    """A file name that OBJ and MTL can hold, different for different names."""
    word = _NOT_IN_NAMES.sub("_", stem)
    return word if word == stem else f"{word}-{hashlib.sha256(stem.encode()).hexdigest()[:6]}"


def checked(vertices, triangles, uv, texture, colours) -> tuple[np.ndarray, np.ndarray]:
    """Checks all arguments; returns vertices as float32, the precision of the files, and triangles."""
    vertices, triangles = np.asarray(vertices, np.float32), np.asarray(triangles)
    count = len(vertices)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not count:
        raise MeshError(f"Expected `vertices` of shape [N, 3], got {vertices.shape}.")
    if not np.isfinite(vertices).all():
        wrong = int((~np.isfinite(vertices)).any(axis=1).sum())
        raise MeshError(f"Expected finite `vertices`, but {wrong} of {count} are not finite.")
    is_list = triangles.ndim == 2 and triangles.shape[1] == 3 and triangles.size
    if not is_list or triangles.dtype.kind not in "iu":
        raise MeshError(f"Expected integer `triangles` [T, 3], got {triangles.dtype} {triangles.shape}.")
    if triangles.min() < 0 or triangles.max() >= count:
        raise MeshError(f"`triangles` must index the {count} vertices, 0-based; found {triangles.max()}.")
    if texture is not None and (uv is None or colours is not None):
        raise MeshError("Give `texture` together with `uv` and without `colours`.")
    for name, array, shape in (("uv", uv, (count, 2)), ("colours", colours, (count, 3))):
        if array is not None and np.shape(array) != shape:
            raise MeshError(f"Expected `{name}` of shape {shape}, one row a vertex, got {np.shape(array)}.")
    if uv is not None and not np.isfinite(uv).all():
        raise MeshError("Expected finite `uv`, got NaN or infinity.")
    if texture is not None and (np.ndim(texture) != 3 or np.shape(texture)[2] != 3 or not np.size(texture)):
        raise MeshError(f"Expected `texture` of shape [H, W, 3], got {np.shape(texture)}.")
    for name, array in (("texture", texture), ("colours", colours)):
        if array is not None and np.asarray(array).dtype != np.uint8:
            raise MeshError(f"Expected `{name}` as uint8, BGR, got {np.asarray(array).dtype}.")
    return vertices, triangles
