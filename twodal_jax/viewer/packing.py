"""Arrays as text that the page reads back (web/data.js): quantised, deflated, base64.

A mesh's neighbours lie beside each other in the file and move alike, so that the differences along a row,
their low and high bytes apart, deflate to about half of what the numbers themselves would.
"""

import base64
import zlib
from collections.abc import MutableMapping

import numpy as np

_LIMIT = 32767


def encode(values: np.ndarray) -> str:
    """uint8, int16, uint16 or uint32 [rows, columns] -> base64 text; web/data.js undoes it.

    Differences along each row wrap around in the array's own type; then all lowest bytes, all second
    bytes ..., deflated (zlib).
    """
    if values.ndim != 2 or values.dtype.name not in ("uint8", "int16", "uint16", "uint32"):
        raise ValueError(f"Expected uint8, int16, uint16 or uint32 [rows, columns], got {values.dtype} {values.shape}.")
    unsigned = np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}")
    differences = unsigned.copy()
    differences[:, 1:] -= unsigned[:, :-1]
    planes = differences.view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")


def quantise(values: np.ndarray, group: int = 1, centre: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float [rows, columns] -> int16 [rows, columns], scale [rows / group], offset [rows / group].

    values = quantised * scale + offset, to half a scale; `group` rows that follow each other share a scale.
    The offset is the middle of the range with `centre`, otherwise 0: then zeros stay zeros.
    """
    grouped = np.asarray(values, np.float64).reshape(len(values) // group, -1)
    offset = (grouped.min(axis=1) + grouped.max(axis=1)) / 2 if centre else np.zeros(len(grouped))
    reach = np.abs(grouped - offset[:, None]).max(axis=1)
    scale = np.where(reach > 0, reach, 1.0) / _LIMIT
    quantised = np.round((grouped - offset[:, None]) / scale[:, None]).astype(np.int16)
    return quantised.reshape(values.shape), scale, offset


def pack(values: np.ndarray, blobs: MutableMapping[str, str], scale=(), offset=()) -> dict[str, object]:
    """Puts an array [rows, columns] into `blobs` and returns how the page finds and reads it.

    Arrays with the same bytes become one blob: faces share triangles, directions and texture coordinates.

    Args:
      values: of one of the types of `encode`.
      blobs: encoded text -> the blob's name; one more entry if the array is new.
      scale, offset: of `quantise`.
    """
    name = blobs.setdefault(encode(values), f"blob-{len(blobs)}")
    packed = {"blob": name, "type": values.dtype.name, "rows": len(values), "columns": values.shape[1]}
    if len(scale):
        packed |= {"scale": [float(x) for x in scale], "offset": [float(x) for x in offset]}
    return packed
