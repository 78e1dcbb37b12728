"""Validation part of an annotated set: faces that no run trains on. Their error chooses a run's best checkpoint."""

import hashlib
import re

import numpy as np

from data_pipelines.loading import loader
from data_pipelines.storage.prepared_dataset import PreparedSet

MAX_SHARE = 10  # at most one face in so many, rounded up
_TURNED = re.compile(r"_yaw[-+][0-9.]+(_pitch[-+][0-9.]+)?$")
_VARIANT = re.compile(r"_[0-9]+$")
_FLIP = "_Flip"


class ValidationError(ValueError):
    """No validation part can be taken from a set."""


def photo(name: str) -> str:
    """Source photo of a face's name, by 300W-LP's naming.

    300W-LP renders a photo in several poses, `AFW/AFW_134212_1_0`, `AFW/AFW_134212_1_1`, ..., and mirrors each into
    `AFW_Flip/`: all belong to the photo `AFW/AFW_134212_1`. A name without a trailing _NUMBER, as in AFLW2000-3D, is
    its own photo. tensorflow_datasets' copy of 300W-LP has row numbers for names, so there the poses of a photo are
    divided between the two parts.
    """
    *folders, base = name.split("/")
    return "/".join([*(folder.removesuffix(_FLIP) for folder in folders), _VARIANT.sub("", _TURNED.sub("", base))])


def is_turned(name: str) -> bool:
    """Whether a face's name is that of a turned copy (`sources.profiled`)."""
    return _TURNED.search(name) is not None


def rows(prepared: PreparedSet, faces: int) -> np.ndarray:
    """Rows of the validation part, and of the turned copies of its faces, which no run trains on either.

    Photos are taken whole, in the order of the SHA-256 of their names, as long as their faces fit. The part therefore
    depends on the set alone, not on a run's seed.

    Args:
      prepared: an opened annotated folder. Format "array_record" is read whole once.
      faces: requested number of faces, 0 for none; at most a tenth of the set, rounded up, is taken. Turned copies do
        not count.

    Returns:
      int64 [n], ascending.

    Raises:
      ValidationError: `faces` is negative, or every photo has too many faces.
    """
    if faces < 0:
        raise ValidationError(f"must be 0 (no validation part) or the number of its faces, got {faces}")
    if not faces:
        return np.zeros(0, np.int64)
    names = [str(name) for name in loader.read_column(prepared, "name")]
    limit = min(faces, -(-sum(not is_turned(name) for name in names) // MAX_SHARE))
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows_of.setdefault(photo(name), []).append(row)
    chosen: list[int] = []
    count = 0
    for name in sorted(rows_of, key=lambda name: hashlib.sha256(name.encode()).digest()):
        size = sum(not is_turned(names[row]) for row in rows_of[name])
        if count + size <= limit:
            chosen += rows_of[name]
            count += size
    if not chosen or len(chosen) == prepared.count:
        raise ValidationError(
            f"{faces} faces are requested, at most {limit} of the {prepared.count} of {prepared.folder} may be taken,"
            f" and none of its {len(rows_of)} photos has few enough faces to be taken whole; set it to 0 to train"
            " without a validation part (the last state is then the result)"
        )
    return np.array(sorted(chosen), np.int64)


def unturned(prepared: PreparedSet, withheld: np.ndarray) -> np.ndarray:
    """Those of the rows [n] that are no turned copies: the faces to validate with."""
    if not len(withheld):
        return withheld
    names = loader.read_rows(prepared, withheld, ("name",))["name"]
    return withheld[[not is_turned(str(name)) for name in names]]
