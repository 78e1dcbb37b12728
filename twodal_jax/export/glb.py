"""Writer of binary glTF 2.0 (GLB): textured meshes with morph targets, poses and an animation.

    write_glb      one mesh
    write_scene    several meshes, which share arrays that are the same object (triangles, uv, targets)

trimesh writes no morph targets. Coordinates are written as given: right-handed, y up, triangles counter-clockwise seen
from outside. Arrays are as in `meshes`: texture coordinates have v UP, colours are BGR uint8 (sRGB). Writes are atomic.
"""

import dataclasses
import json
import os
import pathlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from twodal_jax import __version__
from twodal_jax.export.files import write_together
from twodal_jax.export.meshes import checked, linear_16bit, MeshError, normals_of, one_line, png

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125  # constants of glTF
_COMPONENTS = {"f": _FLOAT, "H": _UINT16, "I": _UINT32}
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
_VERTEX_DATA, _INDEX_DATA = 34962, 34963
# Linear with mipmaps, clamped to the edge.
_SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
_DEFAULT_BGR = (184, 192, 200)  # of a mesh without texture and colours
_DENSE = 0.8  # share of moved vertices above which a sparse accessor saves no space


@dataclasses.dataclass(frozen=True)
class Motion:
    """Poses and weights of a mesh at F times; F = 1 is a mesh at rest in one pose.

    A point p of the mesh lies at scale * rotation @ p + translation.

    Attributes:
      rotation: [F, 3, 3], rotation matrices.
      translation: [F, 3].
      scale: [F].
      weights: [F, K], of the morph targets; K may be 0.
      times: [F] seconds, increasing; needed for F > 1.
    """

    rotation: np.ndarray
    translation: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    times: np.ndarray | None = None

    @classmethod
    def still(cls, weights: np.ndarray, times: np.ndarray | None = None) -> "Motion":
        """Weights [F, K] without a pose."""
        frames = len(weights)
        return cls(np.tile(np.eye(3), (frames, 1, 1)), np.zeros((frames, 3)), np.ones(frames), weights, times)


@dataclasses.dataclass(frozen=True)
class GlbMesh:
    """One mesh of a file. M vertices, T triangles, K morph targets.

    Attributes:
      name: of the mesh and its node.
      vertices: [M, 3]. triangles: [T, 3], 0-based.
      uv: [M, 2], v up, and texture: [H, W, 3] BGR uint8; both or none.
      colours: [M, 3] BGR uint8, instead of a texture.
      targets: [K, M, 3], displacements at a weight of 1. Normals have no targets.
      target_names: of the K targets, written as `mesh.extras.targetNames`.
      motion: pose and weights; None: at the origin, all weights 0.
    """

    name: str
    vertices: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    colours: np.ndarray | None = None
    targets: np.ndarray | None = None
    target_names: Sequence[str] = ()
    motion: Motion | None = None


def write_glb(
    path: os.PathLike | str,
    vertices: np.ndarray,
    triangles: np.ndarray,
    *,
    uv: np.ndarray | None = None,
    texture: np.ndarray | None = None,
    colours: np.ndarray | None = None,
    comment: str = "",
) -> pathlib.Path:
    """Writes one mesh; arguments as in `meshes.write_obj`, errors as in `write_scene`."""
    mesh = GlbMesh(pathlib.Path(path).stem, vertices, triangles, uv, texture, colours)
    return write_scene(path, [mesh], comment=comment)


def write_scene(
    path: os.PathLike | str, found: Sequence[GlbMesh], *, scale: float = 1.0, comment: str = ""
) -> pathlib.Path:
    """Writes meshes with normals, embedded textures (PNG) or vertex colours, morph targets and an animation.

    The materials are matt, not metallic and double-sided. glTF needs linear vertex colours, so they are converted from
    sRGB to 16 bits.

    Args:
      path: NAME.glb; NAME is the animation's name.
      found: the meshes.
      scale: of a node above the meshes, if it is not 1.
      comment: becomes `asset.extras.comment`.

    Raises:
      MeshError: an array has the wrong shape, type or range. OSError: names the file that was not written.
    """
    path = pathlib.Path(path)
    tree = _Tree()
    nodes = [_add_mesh(tree, mesh) for mesh in found]
    if scale != 1:
        tree.add("nodes", {"name": "metres", "scale": [float(scale)] * 3, "children": nodes})
        nodes = [len(nodes)]
    channels = [channel for node, mesh in enumerate(found) for channel in _channels(tree, node, mesh.motion)]
    if channels:
        samplers = [sampler for _, sampler in channels]
        targets = [{"sampler": i, "target": target} for i, (target, _) in enumerate(channels)]
        tree.add("animations", {"name": path.stem, "channels": targets, "samplers": samplers})
    tree.add("scenes", {"nodes": nodes})
    asset = {"version": "2.0", "generator": f"twodal_jax {__version__}"}
    asset |= {"extras": {"comment": one_line(comment)}} if comment else {}
    write_together({path: tree.content({"asset": asset, "scene": 0})})
    return path


class _Tree:
    """The JSON of a file and its binary buffer; an array that is added twice is stored once."""

    def __init__(self):
        self._lists: dict[str, list] = {}
        self._blob = bytearray()
        self._known: dict[int, tuple[object, Any]] = {}

    def add(self, kind: str, item: dict) -> int:
        """Appends to one of the JSON's lists; returns the index."""
        self._lists.setdefault(kind, []).append(item)
        return len(self._lists[kind]) - 1

    def once(self, source: object, make: Callable[[], Any]) -> Any:
        """make(), or its earlier result for the same object."""
        if id(source) not in self._known:
            self._known[id(source)] = (source, make())  # the reference keeps the id from being used again
        return self._known[id(source)][1]

    def view(self, content: bytes, target: int | None = None) -> int:
        """A buffer view of bytes, aligned to 4."""
        self._blob += bytes(-len(self._blob) % 4)
        item = {"buffer": 0, "byteOffset": len(self._blob), "byteLength": len(content)}
        self._blob += content
        return self.add("bufferViews", item | ({"target": target} if target else {}))

    def accessor(self, array: np.ndarray, target: int | None = None, *, bounds: bool = False, **more) -> int:
        """An accessor of array [count] or [count, columns], float32, uint16 or uint32."""
        array = np.ascontiguousarray(array)
        item = {"bufferView": self.view(array.tobytes(), target), **_description(array)}
        return self.add("accessors", item | (_bounds(array) if bounds else {}) | more)

    def sparse(self, array: np.ndarray) -> int:
        """An accessor of float32 [count, 3] that is 0 in most rows."""
        rows = np.flatnonzero(array.any(axis=1))
        if len(rows) > _DENSE * len(array):
            return self.accessor(array, _VERTEX_DATA, bounds=True)
        rows = rows if len(rows) else np.array([0])
        indices = rows.astype(np.uint16 if len(array) <= 65535 else np.uint32)
        part = {
            "count": len(rows),
            "indices": {"bufferView": self.view(indices.tobytes()), "componentType": _COMPONENTS[indices.dtype.char]},
            "values": {"bufferView": self.view(np.ascontiguousarray(array[rows]).tobytes())},
        }
        return self.add("accessors", _description(array) | _bounds(array) | {"sparse": part})

    def content(self, head: dict) -> bytes:
        """The whole file."""
        self._blob += bytes(-len(self._blob) % 4)
        tree = head | self._lists | {"buffers": [{"byteLength": len(self._blob)}]}
        text = json.dumps(tree, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + 8 + len(self._blob)
        header = struct.pack("<4sIII4s", b"glTF", 2, length, len(text), b"JSON")
        return header + text + struct.pack("<I4s", len(self._blob), b"BIN\0") + bytes(self._blob)


def _description(array: np.ndarray) -> dict:
    columns = array.shape[1] if array.ndim > 1 else 1
    return {"componentType": _COMPONENTS[array.dtype.char], "count": len(array), "type": _TYPES[columns]}


def _bounds(array: np.ndarray) -> dict:
    rows = array.reshape(len(array), -1)
    return {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}


def _add_mesh(tree: _Tree, mesh: GlbMesh) -> int:
    """Adds a mesh and its node; returns the node's index."""
    vertices, triangles = checked(mesh.vertices, mesh.triangles, mesh.uv, mesh.texture, mesh.colours)
    targets = _checked_targets(mesh, len(vertices))
    index_type = np.uint16 if len(vertices) <= 65535 else np.uint32
    attributes = {
        "POSITION": tree.accessor(vertices, _VERTEX_DATA, bounds=True),
        "NORMAL": tree.accessor(normals_of(vertices, triangles).astype(np.float32), _VERTEX_DATA),
    }
    if mesh.texture is not None:
        attributes["TEXCOORD_0"] = tree.once(
            mesh.uv, lambda: tree.accessor((np.asarray(mesh.uv) * [1, -1] + [0, 1]).astype(np.float32), _VERTEX_DATA)
        )
    if mesh.colours is not None:
        linear = linear_16bit(mesh.colours[:, ::-1])
        linear = np.concatenate([linear, np.full((len(linear), 1), 65535, np.uint16)], axis=1)
        attributes["COLOR_0"] = tree.accessor(linear, _VERTEX_DATA, normalized=True)
    primitive = {
        "attributes": attributes,
        "indices": tree.once(mesh.triangles, lambda: tree.accessor(triangles.ravel().astype(index_type), _INDEX_DATA)),
        "material": tree.add("materials", _material(tree, mesh)),
    }
    item = {"name": mesh.name, "primitives": [primitive]}
    node = {"name": mesh.name}
    if len(targets):
        primitive["targets"] = tree.once(mesh.targets, lambda: [{"POSITION": tree.sparse(field)} for field in targets])
        item["extras"] = {"targetNames": list(mesh.target_names)}
        item["weights"] = mesh.motion.weights[0].tolist() if mesh.motion else [0.0] * len(targets)
    if mesh.motion is not None:
        node |= {name: values[0].tolist() for name, values in _tracks(mesh.motion).items() if name != "weights"}
    node["mesh"] = tree.add("meshes", item)
    return tree.add("nodes", node)


def _checked_targets(mesh: GlbMesh, count: int) -> np.ndarray:
    """Targets as float32 [K, M, 3]; raises MeshError for them or the motion."""
    targets = np.zeros((0, count, 3)) if mesh.targets is None else mesh.targets
    targets = np.asarray(targets, np.float32)
    if targets.ndim != 3 or targets.shape[1:] != (count, 3) or not np.isfinite(targets).all():
        raise MeshError(f"Expected finite `targets` of shape [K, {count}, 3], got {targets.shape}.")
    if len(mesh.target_names) != len(targets):
        raise MeshError(f"Expected {len(targets)} `target_names`, one a target, got {len(mesh.target_names)}.")
    motion = mesh.motion
    if motion is not None:
        frames = len(motion.scale)
        expected = {"rotation": (3, 3), "translation": (3,), "scale": (), "weights": (len(targets),)}
        for name, shape in expected.items():
            values = np.asarray(getattr(motion, name))
            if values.shape != (frames, *shape) or not np.isfinite(values).all():
                raise MeshError(f"Expected finite `motion.{name}` of shape {(frames, *shape)}, got {values.shape}.")
        if frames > 1 and (
            motion.times is None or len(motion.times) != frames or not (np.diff(motion.times) > 0).all()
        ):
            raise MeshError(f"Expected increasing `motion.times` of shape ({frames},).")
    return targets


def _material(tree: _Tree, mesh: GlbMesh) -> dict:
    surface: dict = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    if mesh.texture is not None:
        sampler = tree.once(_SAMPLER, lambda: tree.add("samplers", _SAMPLER))
        image = tree.add("images", {"bufferView": tree.view(png(mesh.texture)), "mimeType": "image/png"})
        surface["baseColorTexture"] = {"index": tree.add("textures", {"sampler": sampler, "source": image})}
    elif mesh.colours is None:
        surface["baseColorFactor"] = [*(linear_16bit(np.array(_DEFAULT_BGR[::-1])) / 65535.0).tolist(), 1.0]
    return {"name": mesh.name, "pbrMetallicRoughness": surface, "doubleSided": True}


def _tracks(motion: Motion) -> dict[str, np.ndarray]:
    """float32 rows of a motion by glTF's names of the paths; neighbouring quaternions lie in one hemisphere."""
    turns = Rotation.from_matrix(np.asarray(motion.rotation, np.float64)).as_quat()  # x, y, z, w, as in glTF
    opposite = np.sum(turns[1:] * turns[:-1], axis=1) < 0
    turns[1:] *= np.where(np.cumsum(opposite) % 2, -1.0, 1.0)[:, None]
    size = np.repeat(np.asarray(motion.scale, np.float32)[:, None], 3, axis=1)
    rows = {"rotation": turns, "translation": motion.translation, "scale": size, "weights": motion.weights}
    return {name: np.asarray(values, np.float32) for name, values in rows.items()}


def _channels(tree: _Tree, node: int, motion: Motion | None) -> list[tuple[dict, dict]]:
    """(target, sampler) of each part of a motion that moves."""
    if motion is None or len(motion.scale) < 2:
        return []
    times = tree.accessor(np.asarray(motion.times, np.float32), bounds=True)
    moving = {name: values for name, values in _tracks(motion).items() if np.ptp(values, axis=0).any()}
    return [
        (
            {"node": node, "path": name},
            {
                "input": times,
                "output": tree.accessor(values.ravel() if name == "weights" else values),
                "interpolation": "LINEAR",
            },
        )
        for name, values in moving.items()
    ]
