"""Which faces an epoch holds more than once: those turned to a side, which photos rarely show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.loading import loader
from data_pipelines.storage.prepared_dataset import PreparedSet
from twodal_jax.evaluation.metrics import yaw_bin_index, YAW_BINS


class RepeatsError(ValueError):
    """Numbers of repeats that cannot be."""


def rows_by_yaw(prepared: PreparedSet, repeats: Sequence[int]) -> np.ndarray | None:
    """The rows of an epoch, for `loader.batches`.

    Args:
      prepared: an opened folder. With shards, all of it is read once.
      repeats: how often a face of |yaw| 0-30, 30-60 and 60-90 degrees comes in an epoch; a face of unknown yaw
        comes as often as one of 0-30.

    Returns:
      int64 [sum of repeats], in order; None where every face comes once.

    Raises:
      RepeatsError: not three whole numbers from 0 on, or no face is left.
    """
    repeats = tuple(repeats)
    if len(repeats) != len(YAW_BINS) or any(not isinstance(n, int) or n < 0 for n in repeats):
        raise RepeatsError(
            f"expected {len(YAW_BINS)} whole numbers from 0 on, for |yaw| {', '.join(YAW_BINS)} degrees; got {repeats}"
        )
    if all(count == 1 for count in repeats):
        return None
    bins = yaw_bin_index(loader.read_column(prepared, "yaw_deg"))
    rows = np.repeat(np.arange(prepared.count), np.array(repeats)[np.maximum(bins, 0)])
    if not len(rows):
        raise RepeatsError(
            f"{prepared.folder}: no face is left of {prepared.count} where those of |yaw|"
            f" {', '.join(YAW_BINS)} degrees come {', '.join(map(str, repeats))} times an epoch"
        )
    return rows
