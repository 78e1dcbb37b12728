"""Readers of other projects' face models: means, directions, triangles and the landmarks that the files state.

  BFM_model_front.mat (Deep3DFaceRecon, Deng et al. 2019): meanshape, idBase [3N, 80], exBase [3N, 64], tri and
      keypoints [68] from 1. Unit: decimetres.
  model2017-1_*.h5, model2019_*.h5 (Basel Face Model 2017 and 2019): shape/model and expression/model with mean,
      pcaBasis (orthonormal) and pcaVariance; shape/representer/cells; metadata/landmarks/json. Unit: millimetres.
      Source: the converter of eos, share/scripts/convert-bfm2017-to-eos.py.
  FLAME 2020 and 2023 (.pkl): v_template, f, shapedirs [5023, 3, 400]: 300 of shape, 100 of expression. The pose stays
      at rest. Unit: metres. Source: Li et al., Learning a Model of Facial Shape and Expression from 4D Scans, 2017.
  ICT-FaceKit (folder FaceXModel): generic_neutral_mesh.obj, identity###.obj, an OBJ for each expression, and
      vertex_indices.json with 68 landmarks and the expressions' names. Unit: centimetres. Its 53 expressions are no
      principal components: the directions are those of most variance among them.
  Surrey Face Model (.bin of eos 1.0 and later, versions 1 to 4): shape model, and expressions in it or in
      expression_blendshapes_*.bin beside it. Source: PcaModel.hpp, ExpressionModel.hpp and MorphableModel.hpp of eos,
      in cereal's binary archive. Unit: millimetres.

All are in the frame of `MorphableModel`: x to the right of the picture, y up, z towards the viewer. Directions are
scaled to standard deviations, so that coefficients of 1 are usual; Surrey's expressions are full expressions.
"""

import dataclasses
import io
import json
import pathlib
import re
import struct
from collections.abc import Callable

import numpy as np

from twodal_jax.io import flame_pickle, mat, npy, pickle_arrays
from twodal_jax.io.untrusted import BrokenFileError

FLAME_SHAPES = 300  # of FLAME's 400 directions; the others are expressions
_MAX_OBJ_BYTES = 1 << 28
# Names of BFM 2017's and 2019's landmarks -> number of the 68.
_BFM_LANDMARKS = {
    "center.chin.tip": 8,
    "center.nose.tip": 30,
    "right.eye.corner_outer": 36,
    "right.eye.corner_inner": 39,
    "left.eye.corner_inner": 42,
    "left.eye.corner_outer": 45,
    "right.lips.corner": 48,
    "center.lips.upper.outer": 51,
    "left.lips.corner": 54,
    "center.lips.lower.outer": 57,
}
# Vertices of the Surrey Face Model, all resolutions (eos, share/ibug_to_sfm.txt: facts, from 1 to 68 there).
_SURREY_LANDMARKS = {
    8: 33,
    17: 225,
    18: 229,
    19: 233,
    21: 157,
    22: 590,
    24: 666,
    25: 662,
    26: 658,
    28: 379,
    29: 272,
    30: 114,
    31: 100,
    33: 270,
    35: 537,
    36: 177,
    37: 172,
    38: 191,
    39: 181,
    40: 173,
    41: 174,
    42: 614,
    43: 624,
    44: 605,
    45: 610,
    46: 607,
    47: 606,
    48: 398,
    49: 315,
    50: 413,
    51: 329,
    52: 825,
    53: 736,
    54: 812,
    55: 841,
    56: 693,
    57: 411,
    58: 264,
    59: 431,
    61: 416,
    62: 423,
    63: 828,
    65: 817,
    66: 442,
    67: 404,
}


@dataclasses.dataclass(frozen=True)
class RawModel:
    """A linear face model as its file states it.

    Attributes:
      mean: [N, 3], the file's unit.
      shape: [K, N, 3] shape directions, one standard deviation each.
      expression: [L, N, 3] expression directions.
      triangles: [T, 3], from 0, of either orientation.
      landmarks: {number of the 68, from 0: vertex}; those that the file states, or all.
    """

    mean: np.ndarray
    shape: np.ndarray
    expression: np.ndarray
    triangles: np.ndarray
    landmarks: dict[int, int]


def reader_of(path: pathlib.Path) -> Callable[[pathlib.Path], RawModel] | None:
    """The reader of a file or folder, by its name; None for other formats."""
    if path.is_dir():
        return read_ict if (path / "generic_neutral_mesh.obj").is_file() else None
    return {".mat": read_deep3d, ".h5": read_bfm_h5, ".bin": read_surrey}.get(path.suffix.lower())


def read_deep3d(path: pathlib.Path) -> RawModel:
    """BFM_model_front.mat."""
    names = ("meanshape", "idBase", "exBase", "tri", "keypoints")
    content = mat.read(path, names)
    if missing := [name for name in names if name not in content]:
        raise BrokenFileError(f"{path}: lacks {', '.join(missing)}; expected Deep3DFaceRecon's BFM_model_front.mat")
    keypoints = content["keypoints"].ravel().astype(np.int64) - 1
    if len(keypoints) != 68:
        raise BrokenFileError(f"{path}: has {len(keypoints)} keypoints, expected 68")
    return RawModel(
        content["meanshape"].reshape(-1, 3),
        _directions(content["idBase"]),
        _directions(content["exBase"]),
        content["tri"].astype(np.int64) - 1,
        dict(enumerate(keypoints.tolist())),
    )


def _directions(basis: np.ndarray) -> np.ndarray:
    """[3N, K] -> [K, N, 3]."""
    return np.moveaxis(basis.reshape(-1, 3, basis.shape[1]), 2, 0)


def read_bfm_h5(path: pathlib.Path) -> RawModel:
    """Basel Face Model 2017 or 2019; needs the package h5py."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise BrokenFileError(f"{path}: is read with h5py; install it (pip install h5py).") from None
    try:
        with h5py.File(path, "r") as file:
            mean = file["shape/model/mean"][:] + file["expression/model/mean"][:]
            parts = []
            for name in ("shape", "expression"):
                basis, variance = (file[f"{name}/model/{key}"][:] for key in ("pcaBasis", "pcaVariance"))
                parts.append(_directions(basis * np.sqrt(np.maximum(variance, 0))))
            triangles = file["shape/representer/cells"][:].T.astype(np.int64)
            noted = file.get("metadata/landmarks/json")
            stated = json.loads(_text(noted[()])) if noted is not None else []
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise BrokenFileError(
            f"{path}: not an .h5 of the Basel Face Model 2017 or 2019, or damaged ({error})."
        ) from None
    mean = mean.reshape(-1, 3)
    landmarks = {}
    for entry in stated:
        if (number := _BFM_LANDMARKS.get(entry.get("id"))) is not None:
            place = np.asarray(entry["coordinates"], np.float64)
            landmarks[number] = int(np.argmin(((mean - place) ** 2).sum(axis=1)))
    return RawModel(mean, *parts, triangles, landmarks)


def _text(value) -> str:
    value = value[0] if isinstance(value, np.ndarray) else value
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def is_flame(path: pathlib.Path) -> bool:
    """Whether a pickle's first bytes name FLAME's or SMPL's fields (any protocol)."""
    with path.open("rb") as file:
        return b"v_template" in file.read() if path.stat().st_size < 1 << 29 else False


def read_flame(path: pathlib.Path) -> RawModel:
    """FLAME 2020 or 2023, whose files state no landmarks."""
    content = flame_pickle.load(path)
    names = ("v_template", "shapedirs", "f")
    if not isinstance(content, dict) or any(not isinstance(content.get(name), np.ndarray) for name in names):
        raise BrokenFileError(f"{path}: not a FLAME model; expected the arrays {', '.join(names)}")
    directions = np.moveaxis(content["shapedirs"].astype(np.float64), 2, 0)
    shapes = min(FLAME_SHAPES, len(directions) * 3 // 4)
    return RawModel(content["v_template"], directions[:shapes], directions[shapes:], content["f"].astype(np.int64), {})


def read_ict(folder: pathlib.Path) -> RawModel:
    """ICT-FaceKit's folder FaceXModel."""
    mean, faces = read_obj(folder / "generic_neutral_mesh.obj")
    identities = sorted(folder.glob("identity[0-9][0-9][0-9].obj"))
    indices = folder / "vertex_indices.json"
    try:
        stated = json.loads(indices.read_text(encoding="utf-8")) if indices.is_file() else {}
        landmarks = {number: int(vertex) for number, vertex in enumerate(stated.get("idx_to_landmark_verts", []))}
        names = stated.get("expressions")
        others = None if names is None else [folder / f"{pathlib.PurePath(name).name}.obj" for name in names]
    except (ValueError, TypeError, AttributeError) as error:
        raise BrokenFileError(f"{indices}: not as ICT-FaceKit writes it ({error!r})") from None
    if others is None:
        others = sorted(set(folder.glob("*.obj")) - set(identities) - {folder / "generic_neutral_mesh.obj"})
    if not identities or not others:
        raise BrokenFileError(f"{folder}: has no identity###.obj or no expressions; expected ICT-FaceKit's FaceXModel")
    shape, expression = ([read_obj(path)[0] for path in paths] for paths in (identities, others))
    for path, vertices in zip(identities + others, shape + expression):
        if vertices.shape != mean.shape:
            raise BrokenFileError(f"{path}: has {len(vertices)} vertices, generic_neutral_mesh.obj has {len(mean)}")
    deltas = np.stack(expression) - mean
    _, sizes, rows = np.linalg.svd(deltas.reshape(len(deltas), -1), full_matrices=False)
    principal = (rows * (sizes / np.sqrt(len(deltas)))[:, None]).reshape(-1, *mean.shape)
    return RawModel(mean, np.stack(shape) - mean, principal, faces, landmarks)


def read_obj(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [N, 3] as listed and triangles [T, 3] from 0 of an OBJ; polygons become fans. Nothing else is read."""
    try:
        if path.stat().st_size > _MAX_OBJ_BYTES:
            raise BrokenFileError(f"{path}: is larger than any mesh of a face model")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        vertices = [line.split()[1:4] for line in lines if line.startswith("v ")]
        polygons = [
            [int(corner.split("/")[0]) for corner in line.split()[1:]] for line in lines if line.startswith("f ")
        ]
        points = np.array(vertices, np.float64).reshape(-1, 3)
    except (OSError, ValueError) as error:
        raise BrokenFileError(f"{path}: not readable as an OBJ ({error})") from None
    triangles = [[polygon[0], *pair] for polygon in polygons for pair in zip(polygon[1:], polygon[2:])]
    numbers = np.array(triangles, np.int64).reshape(-1, 3)
    numbers = np.where(numbers < 0, numbers + len(points), numbers - 1)  # negative ones count from the end
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(points):
        raise BrokenFileError(f"{path}: a face names a vertex that does not exist")
    return points, numbers


class _Cereal:
    """Reader of cereal's binary archive (little-endian); BrokenFileError where the file ends early."""

    def __init__(self, path: pathlib.Path):
        self.path, self.file = path, io.BytesIO(path.read_bytes())
        self.left = self.file.getbuffer().nbytes

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if not 0 <= count <= self.left:
            raise BrokenFileError(f"{self.path}: ends early or is no model of eos 1.0 or later")
        self.left -= count
        return self.file.read(count)

    def number(self, form: str) -> int:
        """One integer of a `struct` format."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def matrix(self) -> np.ndarray:
        """An Eigen matrix of floats, in Fortran order: rows and columns (int32), values."""
        rows, columns = self.number("i"), self.number("i")
        data = self.take(4 * rows * columns if rows >= 0 and columns >= 0 else -1)
        return np.frombuffer(data, "<f4").reshape(rows, columns, order="F")

    def triples(self) -> np.ndarray:
        """A vector of arrays of three integers."""
        count = self.number("Q")
        return np.frombuffer(self.take(12 * count), "<i4").reshape(-1, 3).astype(np.int64)

    def pca(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean [3N], directions [3N, K] of one standard deviation, triangles [T, 3]."""
        mean, basis, eigenvalues = self.matrix().ravel(), self.matrix(), self.matrix().ravel()
        if len(eigenvalues) != basis.shape[1] or len(mean) != basis.shape[0] or len(mean) % 3:
            raise BrokenFileError(f"{self.path}: mean, basis and eigenvalues do not fit each other")
        return mean, basis * np.sqrt(np.maximum(eigenvalues, 0)), self.triples()

    def blendshapes(self) -> list[np.ndarray]:
        """Deformations [3N] of named expressions."""
        found = []
        for _ in range(self.number("Q")):
            self.take(self.number("Q"))  # the name
            found.append(self.matrix().ravel())
        return found


def read_surrey(path: pathlib.Path) -> RawModel:
    """A model of eos, with the expressions in it or in expression_blendshapes_*.bin beside it."""
    archive = _Cereal(path)
    version = archive.number("I")
    if not 1 <= version <= 4:
        raise BrokenFileError(f"{path}: has version {version}; expected a model of eos 1.0 or later (1 to 4)")
    mean, shape, triangles = archive.pca()
    archive.pca()  # colours
    expressions: list[np.ndarray] = []
    if version >= 2 and not archive.number("B"):  # std::optional: 1 where there is none
        kind = archive.number("i")  # of std::variant<PcaModel, Blendshapes>
        if kind not in (0, 1):
            raise BrokenFileError(f"{path}: has expressions of kind {kind}; expected 0 (PCA) or 1 (blendshapes)")
        if kind == 1:
            expressions = archive.blendshapes()
        else:
            offset, basis, _ = archive.pca()
            if len(offset) != len(mean):
                raise BrokenFileError(f"{path}: its expressions have another number of vertices")
            mean, expressions = mean + offset, list(basis.T)
    beside = sorted(path.parent.glob("expression_blendshapes_*.bin"))
    if not expressions and beside:
        expressions = _Cereal(beside[0]).blendshapes()
    if any(len(deformation) != len(mean) for deformation in expressions):
        raise BrokenFileError(f"{beside[0] if beside else path}: its expressions have another number of vertices")
    stacked = np.stack(expressions) if expressions else np.zeros((0, len(mean)), np.float32)
    count = len(mean) // 3
    landmarks = {number: vertex for number, vertex in _SURREY_LANDMARKS.items() if vertex < count}
    is_surrey = count in (845, 3448, 16759, 29587)
    mean = mean.reshape(-1, 3)
    return RawModel(mean, _directions(shape), stacked.reshape(-1, count, 3), triangles, landmarks if is_surrey else {})


def read_landmarks(path: pathlib.Path, triangles: np.ndarray) -> dict[int, int]:
    """{number of the 68, from 0: vertex} of a file of landmarks.

    Text: 68 vertices from 0; or lines of a number from 1 to 68 and a vertex, as in eos's ibug_to_*.txt.
    .npz or .pkl: FLAME's embedding, triangles `lmk_face_idx` [K] with weights `lmk_b_coords` [K, 3]. The
    vertex of most weight counts. K is 68, or 51 without the jaw.
    """
    if path.suffix in (".npz", ".pkl"):
        return _read_embedding(path, triangles)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BrokenFileError(f"{path}: not readable ({error})") from None
    lines = [re.split("[#;]", line)[0] for line in text.splitlines()]
    mapping = "\n".join(lines).split("contour_landmarks")[0]  # eos lists numbers of the jaw's points after this word
    rows = [[int(value) for value in re.findall(r"\d+", line)] for line in mapping.splitlines()]
    rows = [row for row in rows if row]
    flat = [value for row in rows for value in row]
    if len(rows) != 34 and len(flat) == 68:
        return dict(enumerate(flat))
    if rows and all(len(row) == 2 and 1 <= row[0] <= 68 for row in rows):
        return {number - 1: vertex for number, vertex in rows}
    raise BrokenFileError(f"{path}: expected 68 vertices from 0, or lines with a number from 1 to 68 and a vertex")


def _read_embedding(path: pathlib.Path, triangles: np.ndarray) -> dict[int, int]:
    content = npy.read_npz(path) if path.suffix == ".npz" else pickle_arrays.load(path)
    faces, weights = (
        np.asarray(content.get(name) if isinstance(content, dict) else None)
        for name in ("lmk_face_idx", "lmk_b_coords")
    )
    count = faces.size
    fits = faces.dtype.kind in "iu" and count in (51, 68) and weights.shape == (count, 3) and weights.dtype.kind == "f"
    if not fits or not 0 <= faces.min() <= faces.max() < len(triangles):
        raise BrokenFileError(f"{path}: expected lmk_face_idx [51 or 68], triangles of the model, and lmk_b_coords")
    vertices = triangles[faces.ravel(), weights.argmax(axis=1)]
    return {68 - count + number: int(vertex) for number, vertex in enumerate(vertices)}
