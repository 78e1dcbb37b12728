"""Reader of 3D morphable models in all supported formats, as `MorphableModel`.

  folder with `u_shp.npy`: 3DDFA's `train.configs` (u_shp, u_exp, w_shp_sim, w_exp_sim and keypoints_sim `.npy`;
      param_whitening.pkl; tri.mat, 1-based);
  folder with `Model_Shape.mat` and `Model_Expression.mat`: BFM 2009 + FaceWarehouse, the first 40 + 10 directions;
      coefficients are raw, as in 300W-LP's `Shape_Para` and `Exp_Para`;
  `.pkl`: 3DDFA_V2's bfm_noneck_v3.pkl, with param_mean_std_62d_120x120.pkl and tri.pkl in the same folder;
  `.npz`: this project's own format, written by `save_morphable_model`;
  the formats of `face_models.formats`: Deep3DFaceRecon, Basel Face Model 2017 and 2019, FLAME, ICT-FaceKit, Surrey;
  "builtin": the CC0 head of `face_models.cc0_head`.

The readers (`io.pickle_arrays`, `io.mat`, `io.npy`) execute no code of a file and check each length in it. Triangles
are counter-clockwise seen from outside, whatever their order in the file.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from twodal_jax.face_models import cc0_head, formats, landmark_transfer
from twodal_jax.face_models.formats import RawModel
from twodal_jax.geometry import coefficients, morphable_model
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.io import mat, npy, pickle_arrays
from twodal_jax.io.untrusted import BrokenFileError

BUILTIN = "builtin"
NUM_SHAPE, NUM_EXPRESSION = coefficients.NUM_SHAPE, coefficients.NUM_EXPRESSION
_NPZ_FIELDS = ("mean", "basis", "triangles", "landmark_indices")
_WHITENING_FILES = ("param_whitening.pkl", "param_mean_std_62d_120x120.pkl")
_WHITENING_KEYS = (("param_mean", "param_std"), ("mean", "std"), ("alpha_mean", "alpha_std"))


class AssetError(ValueError):
    """A model file is missing, broken or does not conform to its format."""


def load_morphable_model(
    path: os.PathLike | str, *, whitening: os.PathLike | str | None = None, landmarks: os.PathLike | str | None = None
) -> MorphableModel:
    """Reads a 3D morphable model in any format of this module.

    Args:
      path: file, folder or "builtin".
      whitening: .pkl or .npz with mean and std [62] of alpha, which replaces that of the model; or None. If the model
        has none either, `has_whitening` is False.
      landmarks: file of the 68 landmarks (`formats.read_landmarks`), for the formats of `formats`; by default those
        that the model states. `landmark_transfer` completes either.

    Raises:
      AssetError: a file is missing or broken; names the file, what was expected and the remedy.
    """
    if str(path) == BUILTIN:
        model = cc0_head.load().model
    elif raw := read_raw(pathlib.Path(path), landmarks):
        model = _from_raw(pathlib.Path(path), raw, NUM_SHAPE, NUM_EXPRESSION)
    else:
        model = _read_model(pathlib.Path(path))
    return model if whitening is None else _with_whitening(model, pathlib.Path(whitening))


def read_raw(path: pathlib.Path, landmarks: os.PathLike | str | None = None) -> RawModel | None:
    """All directions of a model of `formats`, with its 68 landmarks; None for the other formats.

    Raises:
      AssetError: the file is broken.
    """
    reader = formats.reader_of(path)
    if path.suffix == ".pkl" and path.is_file() and formats.is_flame(path):
        reader = formats.read_flame
    if reader is None or not path.exists():
        return None
    try:
        raw = _read(reader, path)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        if isinstance(error, AssetError):
            raise
        raise AssetError(f"{path}: a part of it has another shape or type than its format states ({error!r})") from None
    if len(raw.mean) < morphable_model.NUM_LANDMARKS or not np.isfinite(raw.mean).all():
        raise AssetError(f"{path}: has {len(raw.mean)} vertices, or numbers that are not finite")
    stated = raw.landmarks
    if landmarks is not None:
        stated = _read(lambda file: formats.read_landmarks(file, raw.triangles), pathlib.Path(landmarks))
    if len(stated) > morphable_model.NUM_LANDMARKS:
        raise AssetError(f"{landmarks or path}: has {len(stated)} landmarks, expected 68")
    if stated and not 0 <= min(stated.values()) <= max(stated.values()) < len(raw.mean):
        raise AssetError(
            f"{landmarks or path}: landmarks of vertices that the model, of {len(raw.mean)}, does not have"
        )
    vertices = landmark_transfer.complete(raw.mean, stated)
    return dataclasses.replace(raw, landmarks=dict(enumerate(vertices.tolist())))


def raw_fields(path: pathlib.Path, raw: RawModel, num_shape: int, num_expression: int) -> dict[str, np.ndarray]:
    """The fields of an .npz with the first directions of a model; those that it lacks are zero.

    Raises:
      AssetError: parts of the model do not fit each other.
    """
    count = len(raw.mean)
    parts = []
    for directions, number in ((raw.shape, num_shape), (raw.expression, num_expression)):
        if directions.shape[1:] != (count, 3) or not np.isfinite(directions[:number]).all():
            raise AssetError(
                f"{path}: directions {list(directions.shape)} do not fit {count} vertices, or are not finite"
            )
        part = np.zeros((number, 3, count), np.float32)
        part[: len(directions)] = directions[:number].transpose(0, 2, 1)
        parts.append(part)
    mean = np.ascontiguousarray(raw.mean.T, np.float32)
    triangles = _zero_based(path, np.asarray(raw.triangles), count, 0)
    return {
        "mean": mean,
        "basis": np.concatenate(parts),
        "triangles": orient_outward(mean, triangles),
        "landmark_indices": np.array([raw.landmarks[number] for number in range(68)], np.int32),
        "num_shape": np.int32(num_shape),
    }


def _from_raw(path: pathlib.Path, raw: RawModel, num_shape: int, num_expression: int) -> MorphableModel:
    fields = raw_fields(path, raw, num_shape, num_expression)
    try:
        return morphable_model.create(*(fields[name] for name in _NPZ_FIELDS))
    except ValueError as error:
        raise AssetError(f"{path}: {error}") from None


def save_morphable_model(path: os.PathLike | str, model: MorphableModel) -> None:
    """Writes the project's own .npz, without pickles, atomically."""
    path = pathlib.Path(path)
    fields = {name: np.asarray(getattr(model, name)) for name in _NPZ_FIELDS}
    if model.has_whitening:
        fields |= {name: np.asarray(getattr(model, name)) for name in ("alpha_mean", "alpha_std")}
    save_fields(path, fields)


def save_fields(path: pathlib.Path, fields: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays of an .npz atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        try:
            np.savez(file, **fields)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def orient_outward(mean: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Triangles [T, 3] of mean [3, N], all flipped if they face inward.

    They face inward if the volume that they enclose with the centroid of the vertices is negative. The rule is valid
    for an open face mask and for a closed head.
    """
    corners = (mean - mean.mean(axis=1, keepdims=True)).T.astype(np.float64)[triangles]
    volume = np.einsum("ti,ti->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    return triangles if volume >= 0 else np.ascontiguousarray(triangles[:, ::-1])


def _read_model(path: pathlib.Path) -> MorphableModel:
    if not path.exists():
        raise AssetError(
            f"{path}: no such morphable model; give a folder (3DDFA's train.configs, or"
            " Model_Shape.mat + Model_Expression.mat), a .pkl of 3DDFA_V2, an .npz, a model of Deep3DFaceRecon (.mat),"
            f" Basel (.h5), FLAME (.pkl), ICT-FaceKit (folder) or Surrey (.bin), or the name {BUILTIN!r}"
        )
    if path.is_dir() and (path / "u_shp.npy").exists():
        return _read_3ddfa(path)
    if path.is_dir() and (path / "Model_Shape.mat").exists():
        return _read_bfm_mat(path)
    if path.is_dir():
        raise AssetError(
            f"{path}: contains neither u_shp.npy (3DDFA's train.configs) nor Model_Shape.mat; is it the right folder?"
        )
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".pkl":
        return _read_3ddfa_v2(path)
    raise AssetError(f"{path}: unknown kind of morphable model; expected a folder, .mat, .h5, .bin, .pkl or .npz")


def _read_3ddfa(folder: pathlib.Path) -> MorphableModel:
    mean = _planes(folder / "u_shp.npy", _load_npy(folder / "u_shp.npy"), 1)
    mean = mean + _planes(folder / "u_exp.npy", _load_npy(folder / "u_exp.npy"), 1)
    basis = [
        _planes(folder / name, _load_npy(folder / name), size)
        for name, size in (("w_shp_sim.npy", NUM_SHAPE), ("w_exp_sim.npy", NUM_EXPRESSION))
    ]
    tri = folder / "tri.mat"
    if not tri.is_file():
        raise AssetError(
            f"{tri}: missing; expected the triangles of the mesh (key tri, 3 x T, 1-based);"
            " copy 3DDFA's visualize/tri.mat here"
        )
    keypoints = _load_npy(folder / "keypoints_sim.npy")
    return _create(folder, mean[0], basis, tri, _load_mat(tri, ("tri",))["tri"], keypoints, 1)


def _read_bfm_mat(folder: pathlib.Path) -> MorphableModel:
    shape_path, expression_path = folder / "Model_Shape.mat", folder / "Model_Expression.mat"
    shape = _load_mat(shape_path, ("mu_shape", "w", "tri", "keypoints"))
    expression = _load_mat(expression_path, ("mu_exp", "w_exp"))
    mean = _planes(shape_path, shape["mu_shape"], 1) + _planes(expression_path, expression["mu_exp"], 1)
    basis = [_planes(shape_path, shape["w"], NUM_SHAPE), _planes(expression_path, expression["w_exp"], NUM_EXPRESSION)]
    keypoints = _indices(shape_path, shape["keypoints"]) - 1
    return _create(folder, mean[0], basis, shape_path, shape["tri"], keypoints, 1)


def _read_3ddfa_v2(path: pathlib.Path) -> MorphableModel:
    content = _load_pickle(path, ("u", "w_shp", "w_exp", "keypoints"))
    # 3DDFA_V2 replaces the triangles of the neckless model by those of this file.
    tri_path = path.parent / "tri.pkl"
    triangles = _read(pickle_arrays.load, tri_path) if tri_path.is_file() else content.get("tri")
    if not isinstance(triangles, np.ndarray):
        raise AssetError(
            f"{path}: expected triangles, `tri` in it or tri.pkl beside it; copy 3DDFA_V2's configs/tri.pkl here"
        )
    basis = [_planes(path, content["w_shp"], NUM_SHAPE), _planes(path, content["w_exp"], NUM_EXPRESSION)]
    mean = _planes(path, content["u"], 1)[0]
    return _create(path, mean, basis, tri_path if tri_path.is_file() else path, triangles, content["keypoints"], 0)


def _read_npz(path: pathlib.Path) -> MorphableModel:
    content = {name: _numbers(path, value) for name, value in _load_npz(path, _NPZ_FIELDS).items()}
    try:
        return morphable_model.create(
            content["mean"],
            _first_directions(content["basis"], content.get("num_shape")),
            orient_outward(content["mean"], content["triangles"]),
            content["landmark_indices"],
            content.get("alpha_mean"),
            content.get("alpha_std"),
        )
    except (ValueError, IndexError) as error:
        raise AssetError(f"{path}: {error}") from None


def _first_directions(basis: np.ndarray, num_shape: np.ndarray | None) -> np.ndarray:
    """40 + 10 directions of a basis of any number, whose first `num_shape` directions are those of the shape."""
    if num_shape is None or basis.ndim != 3:
        return basis
    number = int(np.clip(num_shape, 0, len(basis)))
    chosen = np.zeros((NUM_SHAPE + NUM_EXPRESSION, *basis.shape[1:]), np.float32)
    shape, expression = basis[:number][:NUM_SHAPE], basis[number:][:NUM_EXPRESSION]
    chosen[: len(shape)], chosen[NUM_SHAPE : NUM_SHAPE + len(expression)] = shape, expression
    return chosen


def _create(path, mean, basis, tri_path, triangles, keypoints, first_vertex) -> MorphableModel:
    """Assembles a model; `first_vertex` is the number of the first vertex in the format, 0 or 1."""
    num_vertices = mean.shape[-1]
    sizes = {array.shape[-1] for array in basis} | {num_vertices}
    if len(sizes) != 1:
        raise AssetError(f"{path}: its files differ in the number of vertices: {sorted(sizes)}")
    triangles = _zero_based(tri_path, _numbers(tri_path, triangles), num_vertices, first_vertex)
    landmarks = _indices(path, keypoints)
    if landmarks.size == 3 * morphable_model.NUM_LANDMARKS:  # rows of the interleaved vector
        landmarks = landmarks[::3] // 3
    try:
        model = morphable_model.create(mean, np.concatenate(basis), orient_outward(mean, triangles), landmarks)
    except ValueError as error:
        raise AssetError(f"{path}: {error}") from None
    folder = path if path.is_dir() else path.parent
    found = [folder / name for name in _WHITENING_FILES if (folder / name).is_file()]
    return _with_whitening(model, found[0]) if found else model


def _zero_based(path: pathlib.Path, triangles: np.ndarray, num_vertices: int, first: int):
    """Indices, 3 x T or T x 3, that start at `first` unless their range shows otherwise -> int32 [T, 3] from 0."""
    if not (triangles.ndim == 2 and 3 in triangles.shape and triangles.size and np.isfinite(triangles).all()):
        raise AssetError(f"{path}: triangles are {triangles.dtype} {list(triangles.shape)}, expected 3 x T indices")
    triangles = (triangles.T if triangles.shape[0] == 3 else triangles).astype(np.int64)
    low, high = triangles.min(), triangles.max()
    first = 0 if low == 0 else 1 if high == num_vertices else first
    if low < first or high >= num_vertices + first:
        raise AssetError(
            f"{path}: triangles use vertices {low} to {high}, the model has"
            f" {num_vertices}; do the files belong together?"
        )
    return (triangles - first).astype(np.int32)


def _planes(path: pathlib.Path, array: np.ndarray, columns: int) -> np.ndarray:
    """Array [3N, >= columns], xyz interleaved -> float32 [columns, 3, N]."""
    array = _numbers(path, array)
    array = array.reshape(-1, 1) if columns == 1 else array
    if array.ndim != 2 or array.shape[0] % 3 or array.shape[1] < columns or not array.size:
        raise AssetError(
            f"{path}: {array.dtype} {list(array.shape)}, expected numbers [3N, {columns}] (or more columns)"
        )
    planes = array[:, :columns].astype(np.float32).reshape(-1, 3, columns).transpose(2, 1, 0)
    return np.ascontiguousarray(planes)


def _numbers(path: pathlib.Path, value: Any) -> np.ndarray:
    """`value` if it is an array of numbers; refuses nested lists, because a small pickle can expand to huge ones."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise AssetError(f"{path}: contains {found} where an array of numbers was expected")
    return value


def _indices(path: pathlib.Path, value: Any) -> np.ndarray:
    """Landmark indices of any shape and numeric type -> int64 [L]."""
    values = np.ravel(_numbers(path, value))
    if not np.isfinite(values).all() or not (np.abs(values) < 2**31).all():
        raise AssetError(f"{path}: landmark_indices must be integers")
    return values.astype(np.int64)


def _with_whitening(model: MorphableModel, path: pathlib.Path) -> MorphableModel:
    content = _load_npz(path, ()) if path.suffix == ".npz" else _load_pickle(path, ())
    for mean, std in _WHITENING_KEYS:
        if mean in content and std in content:
            try:
                return model.with_whitening(*(np.ravel(_numbers(path, content[key])) for key in (mean, std)))
            except (ValueError, TypeError) as error:
                raise AssetError(f"{path}: {error}") from None
    raise AssetError(
        f"{path}: contains {_names(content)}; expected `param_mean` and `param_std` (or `mean` and `std`), 62 numbers"
        " each"
    )


def _load_npy(path: pathlib.Path) -> np.ndarray:
    if not path.is_file():
        raise AssetError(f"{path}: missing; copy it from 3DDFA's train.configs")
    return _read(npy.read_npy, path)


def _load_npz(path: pathlib.Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    return _having(path, _read(npy.read_npz, path), keys)


def _load_mat(path: pathlib.Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    # Only the given keys, because BFM's texture basis alone has 250 MB.
    content = _read(lambda path: mat.read(path, keys), path)
    if len(content) < len(keys):
        _having(path, dict.fromkeys(_read(mat.variable_names, path)), keys)
    return content


def _read(reader: Callable[[pathlib.Path], Any], path: pathlib.Path) -> Any:
    """Result of reader(path); a BrokenFileError becomes an AssetError."""
    try:
        return reader(path)
    except BrokenFileError as error:
        raise AssetError(str(error)) from None


def _load_pickle(path: pathlib.Path, keys: tuple[str, ...]) -> dict:
    content = _read(pickle_arrays.load, path)
    if not isinstance(content, dict):
        raise AssetError(
            f"{path}: contains a {type(content).__name__}, expected a dict with"
            f" {', '.join(keys) or 'param_mean, param_std'}"
        )
    return _having(path, content, keys)


def _having(path: pathlib.Path, content: dict, keys: tuple[str, ...]) -> dict:
    missing = [key for key in keys if key not in content]
    if missing:
        raise AssetError(f"{path}: lacks {', '.join(missing)}; it contains {_names(content)}")
    return content


def _names(content: dict) -> str:
    names = [str(key)[:40] for key in content if not str(key).startswith("__")]
    return ", ".join(names[:20] + ["..."] * (len(names) > 20)) or "nothing"
