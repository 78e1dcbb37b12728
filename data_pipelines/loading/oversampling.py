"""Oversampling by yaw: large poses are rare in photos, so an epoch may hold their faces several times."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.loading import loader
from data_pipelines.storage.prepared_dataset import PreparedSet
from twodal_jax.evaluation.metrics import yaw_bin_index, YAW_BINS


class OversamplingError(ValueError):
    """The numbers of repeats are invalid, or leave no face."""


def rows_by_yaw(prepared: PreparedSet, repeats: Sequence[int]) -> np.ndarray | None:
    """Rows of an epoch, for `loader.batches`.

    Args:
      prepared: an opened folder. Format "array_record" is read whole once.
      repeats: how often an epoch holds a face of |yaw| 0-30, 30-60 and 60-90 degrees. Faces of unknown yaw count as
        0-30.

    Returns:
      int64 [number of faces in the epoch], ascending; None where every face occurs once.

    Raises:
      OversamplingError: `repeats` is not three non-negative integers, or no face is left.
    """
    repeats = tuple(repeats)
    if len(repeats) != len(YAW_BINS) or any(not isinstance(n, int) or n < 0 for n in repeats):
        raise OversamplingError(
            f"expected {len(YAW_BINS)} whole numbers from 0 on, for |yaw| {', '.join(YAW_BINS)} degrees; got {repeats}"
        )
    if all(count == 1 for count in repeats):
        return None
    bins = yaw_bin_index(loader.read_column(prepared, "yaw_deg"))
    rows = np.repeat(np.arange(prepared.count), np.array(repeats)[np.maximum(bins, 0)])
    if not len(rows):
        raise OversamplingError(
            f"{prepared.folder}: repeats {repeats} for |yaw| {', '.join(YAW_BINS)} degrees leave none of the"
            f" {prepared.count} faces"
        )
    return rows
