"""The validation part of an annotated set: faces no run trains on, whose error chooses a run's best state."""

from __future__ import annotations

import hashlib
import re

import numpy as np

from data_pipelines.loading import loader
from data_pipelines.storage.prepared_dataset import PreparedSet

AT_MOST = 10  # one face in so many, rounded up
_VARIANT = re.compile(r"_[0-9]+$")
_FLIP = "_Flip"


class ValidationError(ValueError):
    """No validation part can be taken out of a set."""


def photo(name: str) -> str:
    """The source photo of a face's name, by 300W-LP's naming.

    300W-LP renders one photo in several poses, `AFW/AFW_134212_1_0`, `AFW/AFW_134212_1_1`, ..., and mirrors each into
    `AFW_Flip/`: all are `AFW/AFW_134212_1`. A name without a trailing _NUMBER, as in AFLW2000-3D, is its own photo; so
    are the row numbers that tensorflow_datasets' copy of 300W-LP has for names: there poses of a photo fall on both sides.
    """
    *folders, base = name.split("/")
    return "/".join([*(folder.removesuffix(_FLIP) for folder in folders), _VARIANT.sub("", base)])


def rows(prepared: PreparedSet, faces: int) -> np.ndarray:
    """The rows of the validation part.

    Photos are taken whole, in the order of the SHA-256 of their names, as long as their faces fit: the part depends on
    the set alone, not on the seed of a run.

    Args:
      prepared: an opened annotated folder. With shards, all of it is read once.
      faces: how many are wanted; at most a tenth of the set, rounded up, is taken. 0: none.

    Returns:
      int64 [n], ascending, n <= `faces`.

    Raises:
      ValidationError: `faces` is negative, or no photo has few enough faces.
    """
    if faces < 0:
        raise ValidationError(f"must be 0 (no validation part) or the number of its faces, got {faces}")
    if not faces:
        return np.zeros(0, np.int64)
    limit = min(faces, -(-prepared.count // AT_MOST))
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(loader.read_column(prepared, "name")):
        rows_of.setdefault(photo(str(name)), []).append(row)
    chosen: list[int] = []
    for found in sorted(rows_of, key=lambda found: hashlib.sha256(found.encode()).digest()):
        if len(chosen) + len(rows_of[found]) <= limit:
            chosen += rows_of[found]
    if not chosen or len(chosen) == prepared.count:
        raise ValidationError(
            f"{faces} faces are asked for, at most {limit} of the {prepared.count} of {prepared.folder} may be taken,"
            f" and it holds {len(rows_of)} photos, none small enough to be taken whole; set it to 0 to train without a"
            " validation part (the last state is then the result)"
        )
    return np.array(sorted(chosen), np.int64)
