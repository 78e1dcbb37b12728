"""Predictions of any method for a test set, read from an .npz without pickles.

  name          [n], names of the images; folder and suffix are optional
and one or more of
  alpha         [n, 62], raw coefficients in the frame of the 120-pixel crop, or
  alpha_whitened [n, 62], (alpha - mean) / std with the morphable model's whitening;
                either with an optional roi_box [n, 4] (default: the test set's crops)
  landmarks68   [n, 2 or 3, 68], image pixels, y down, z towards the viewer
  vertices      [n, 3, N], in the same frame
and optionally
  pixel_origin  [], 1 (default): pixels count from 1 and alpha is 3DDFA's, as in AFLW2000-3D's .mat files, 3DDFA's
                programs and the authors' released predictions; 0: both are this program's (`geometry.projection`)
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from twodal_jax.geometry import coefficients, projection
from twodal_jax.io import npy
from twodal_jax.io.images import IMAGE_SUFFIXES
from twodal_jax.io.untrusted import BrokenFileError, memory_budget

KINDS = ("alpha", "alpha_whitened", "landmarks68", "vertices")
ORIGIN = "pixel_origin"
_SMALL = ("name", "alpha", "alpha_whitened", "roi_box", "landmarks68", ORIGIN)
_SUFFIXES = (*IMAGE_SUFFIXES, ".mat")


class PredictionsError(ValueError):
    """A prediction file cannot be used; the message names it and what was expected."""


def image_key(name: str) -> str:
    """Key that names are matched by: forward slashes, without `images/` and without an image's suffix."""
    path = pathlib.PurePosixPath(str(name).strip().replace("\\", "/"))
    path = path.with_suffix("") if path.suffix.lower() in _SUFFIXES else path
    parts = [part for part in path.parts if part not in (".", "images")]
    return "/".join(parts)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of one method.

    Attributes:
      label: its name in tables and figures.
      keys: [n], see `image_key`.
      alpha: [n, 62] float32, raw, or None.
      whitened: whether `alpha` is whitened instead of raw.
      alpha_of_3ddfa: whether `alpha` is in 3DDFA's frame of the crop (`projection.alpha_from_3ddfa`), not in ours.
      roi_box: [n, 4] float32, or None for the test set's crops.
      landmarks68: [n, 68, 2 or 3] float32, or None; image pixels of `geometry.projection`.
      vertices: [n, 3, N] on disk, or None; image pixels of `geometry.projection`.
    """

    label: str
    keys: tuple[str, ...]
    alpha: np.ndarray | None = None
    whitened: bool = False
    alpha_of_3ddfa: bool = False
    roi_box: np.ndarray | None = None
    landmarks68: np.ndarray | None = None
    vertices: "ArrayOnDisk | None" = None

    def rows_of(self, keys: list[str], problems: list[str]) -> np.ndarray:
        """Row [m] of each key, -1 if there is none; adds missing, repeated and unknown keys to `problems`."""
        row_of: dict[str, int] = {}
        repeated, known = [], set(keys)
        for row, key in enumerate(self.keys):
            if key in row_of:
                repeated.append(key)
            else:
                row_of[key] = row
        rows = np.array([row_of.get(key, -1) for key in keys], np.int64)
        messages = [
            ([keys[i] for i in np.flatnonzero(rows < 0)], "no prediction (counted as not measured)"),
            (repeated, "predicted more than once (the first one counts)"),
            ([key for key in row_of if key not in known], "predicted, but not in the test set"),
        ]
        problems += [f"{self.label}: {listed(names)}: {message}" for names, message in messages if names]
        return rows


def listed(names: list[str], most: int = 10) -> str:
    """Number and names of images: '12 images (a, b, ... and 2 more)'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} image{'s' * (len(names) != 1)} ({', '.join(names[:most])}{more})"


class ArrayOnDisk:
    """An array [n, 3, N] of an .npz, read a few rows at a time.

    Attributes:
      shape: shape of the whole array.
      dtype: stored dtype.
    """

    def __init__(self, path: pathlib.Path, name: str, pixel_origin: float = 0.0):
        self._path, self._name, self._origin = path, name, pixel_origin
        with npy.open_array(path, name) as (header, _):
            self.shape, self.dtype, fortran, _ = header
        if fortran or self.dtype.kind not in "fiu":
            raise PredictionsError(
                f"{path}: `{name}` must be an array of numbers in C order, got {self.dtype}"
                f"{' in Fortran order' if fortran else ''}."
            )
        if self._row_bytes() > memory_budget(path.stat().st_size):
            raise PredictionsError(f"{path}: one row of `{name}` takes {self._row_bytes():,} bytes.")

    def batches(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first row, float32 [<= rows, 3, N], image pixels), in the file's order."""
        row_bytes = self._row_bytes()
        try:
            with npy.open_array(self._path, self._name) as (_, file):
                for start in range(0, self.shape[0], rows):
                    count = min(rows, self.shape[0] - start)
                    data = file.read(count * row_bytes)
                    if len(data) < count * row_bytes:
                        raise BrokenFileError(f"`{self._name}` ends early")
                    block = np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
                    block = block.astype(np.float32)
                    block[:, :2] -= self._origin
                    yield start, block
        except BrokenFileError as error:
            raise PredictionsError(f"{error}.") from None

    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def read_predictions(path: os.PathLike | str, label: str | None = None) -> Predictions:
    """Reads a prediction file. `label` names the method; default: the file's name.

    Raises PredictionsError if the file is missing or unreadable, or an array is missing or of a wrong shape or dtype.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise PredictionsError(f"{path}: no such file of predictions (.npz).")
    try:
        found, arrays = npy.npz_names(path), npy.read_npz(path, _SMALL)
        origin = _pixel_origin(path, arrays.get(ORIGIN, 1))
        vertices = ArrayOnDisk(path, "vertices", origin) if "vertices" in found else None
    except BrokenFileError as error:
        raise PredictionsError(f"{error}.") from None
    if "name" not in arrays or not any(kind in found for kind in KINDS):
        raise PredictionsError(
            f"{path}: needs `name` and one of {', '.join(KINDS)}; it holds {', '.join(found) or 'nothing'}."
        )
    names = np.atleast_1d(arrays["name"])
    expected = {
        "alpha": (len(names), 62),
        "alpha_whitened": (len(names), 62),
        "roi_box": (len(names), 4),
        "landmarks68": (len(names), (2, 3), 68),
        "vertices": (len(names), 3, None),
    }
    shapes = {name: arrays[name].shape for name in expected if name in arrays}
    if vertices is not None:
        shapes["vertices"] = vertices.shape
    for name, shape in shapes.items():
        _check_shape(path, name, shape, expected[name])
        if name != "vertices" and arrays[name].dtype.kind not in "fiu":
            raise PredictionsError(f"{path}: `{name}` must hold numbers, got {arrays[name].dtype}.")
    whitened = "alpha" not in arrays
    alpha = arrays.get("alpha_whitened" if whitened else "alpha")
    landmarks = arrays.get("landmarks68")
    if landmarks is not None:
        landmarks = np.swapaxes(landmarks, 1, 2).astype(np.float32)
        landmarks[..., :2] -= origin
    return Predictions(
        label=label or path.stem,
        keys=tuple(image_key(name) for name in names.tolist()),
        alpha=None if alpha is None else alpha.astype(np.float32),
        whitened=whitened and alpha is not None,
        alpha_of_3ddfa=origin == 1,
        roi_box=None if "roi_box" not in arrays else arrays["roi_box"].astype(np.float32),
        landmarks68=landmarks,
        vertices=vertices,
    )


def _check_shape(path, name, shape, expected) -> None:
    fits = len(shape) == len(expected) and all(
        want is None or size == want or (isinstance(want, tuple) and size in want)
        for size, want in zip(shape, expected)
    )
    if not fits:
        wanted = [" or ".join(map(str, w)) if isinstance(w, tuple) else w or "N" for w in expected]
        raise PredictionsError(f"{path}: `{name}` has shape {list(shape)}, expected [{', '.join(map(str, wanted))}].")


def _pixel_origin(path: pathlib.Path, value: np.ndarray | int) -> int:
    if np.shape(value) != () or value not in (0, 1):
        raise PredictionsError(f"{path}: `{ORIGIN}` must be 0 or 1, got {np.asarray(value).tolist()}.")
    return int(value)


def crop_alpha(
    predictions: Predictions, rows: np.ndarray, roi_box: np.ndarray, alpha_mean: np.ndarray, alpha_std: np.ndarray
) -> np.ndarray:
    """Raw alpha [b, 62], in our frame of the crop, of `rows` [b] of predictions with an alpha.

    `roi_box` [b, 4] are the crops of these rows; alpha_mean and alpha_std [62] are the morphable model's whitening.
    """
    alpha = predictions.alpha[rows]
    if predictions.whitened:
        alpha = coefficients.unwhiten(alpha, alpha_mean, alpha_std)
    if predictions.alpha_of_3ddfa:
        alpha = projection.alpha_from_3ddfa(alpha, roi_box)
    return np.asarray(alpha)
