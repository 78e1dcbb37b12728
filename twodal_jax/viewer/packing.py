"""Arrays as text for the page (web/data.js decodes it): quantised, deflated, base64.

Neighbours in a mesh are neighbours in the file and similar, so that the differences along a row, with low and high
bytes separated, deflate to about half the size of the numbers themselves.
"""

import base64
import zlib
from collections.abc import MutableMapping

import numpy as np

_LIMIT = 32767


def encode(values: np.ndarray) -> str:
    """Encodes uint8, int16, uint16 or uint32 [rows, columns] as base64 text; web/data.js decodes it.

    Differences along each row, modulo the array's type; then all lowest bytes, all second bytes ..., deflated (zlib).
    """
    if values.ndim != 2 or values.dtype.name not in ("uint8", "int16", "uint16", "uint32"):
        raise ValueError(f"Expected uint8, int16, uint16 or uint32 [rows, columns], got {values.dtype} {values.shape}.")
    unsigned = np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}")
    differences = unsigned.copy()
    differences[:, 1:] -= unsigned[:, :-1]
    planes = differences.view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")


def quantise(values: np.ndarray, group: int = 1, centre: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantises float [rows, columns] to int16 [rows, columns], scale [rows / group], offset [rows / group].

    values = quantised * scale + offset, to half a scale; `group` consecutive rows share a scale. The offset is the
    middle of the range with `centre`, otherwise 0, which keeps zeros exact.
    """
    grouped = np.asarray(values, np.float64).reshape(len(values) // group, -1)
    offset = (grouped.min(axis=1) + grouped.max(axis=1)) / 2 if centre else np.zeros(len(grouped))
    reach = np.abs(grouped - offset[:, None]).max(axis=1)
    scale = np.where(reach > 0, reach, 1.0) / _LIMIT
    quantised = np.round((grouped - offset[:, None]) / scale[:, None]).astype(np.int16)
    return quantised.reshape(values.shape), scale, offset


def pack(values: np.ndarray, blobs: MutableMapping[str, str], scale=(), offset=()) -> dict[str, object]:
    """Adds an array [rows, columns] to `blobs` and returns its description for the page.

    Equal arrays become one blob: faces share triangles, directions and texture coordinates.

    Args:
      values: of a type of `encode`.
      blobs: encoded text -> the blob's name; gets an entry for a new array.
      scale: of `quantise`.
      offset: of `quantise`.
    """
    name = blobs.setdefault(encode(values), f"blob-{len(blobs)}")
    packed = {"blob": name, "type": values.dtype.name, "rows": len(values), "columns": values.shape[1]}
    if len(scale):
        packed |= {"scale": [float(x) for x in scale], "offset": [float(x) for x in offset]}
    return packed
