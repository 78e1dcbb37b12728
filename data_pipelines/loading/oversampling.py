"""Oversampling by yaw: large poses are rare in photos, so an epoch may hold their faces several times."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.loading import loader
from data_pipelines.loading.validation import is_turned
from data_pipelines.storage.prepared_dataset import PreparedSet
from twodal_jax.evaluation.metrics import yaw_bin_index, YAW_BINS


class OversamplingError(ValueError):
    """The numbers of repeats are invalid, or leave no face."""


def rows_by_yaw(prepared: PreparedSet, repeats: Sequence[int], photos: int = 1) -> np.ndarray | None:
    """Rows of an epoch, for `loader.batches`.

    Args:
      prepared: an opened folder. Format "array_record" is read whole once.
      repeats: how often an epoch holds a face of |yaw| 0-30, 30-60 and 60-90 degrees. Faces of unknown yaw count as
        0-30.
      photos: further factor for faces that are no turned copies (`sources.profiled`).

    Returns:
      int64 [number of faces in the epoch], ascending; None where every face occurs once.

    Raises:
      OversamplingError: `repeats` is not three non-negative integers, `photos` is none, or no face is left.
    """
    repeats = tuple(repeats)
    if len(repeats) != len(YAW_BINS) or any(not isinstance(n, int) or n < 0 for n in repeats):
        raise OversamplingError(
            f"expected {len(YAW_BINS)} whole numbers from 0 on, for |yaw| {', '.join(YAW_BINS)} degrees; got {repeats}"
        )
    if not isinstance(photos, int) or photos < 0:
        raise OversamplingError(f"photo_oversampling must be a whole number from 0 on, got {photos}")
    if all(count == 1 for count in repeats) and photos == 1:
        return None
    bins = yaw_bin_index(loader.read_column(prepared, "yaw_deg"))
    times = np.array(repeats)[np.maximum(bins, 0)]
    if photos != 1:
        names = loader.read_column(prepared, "name")
        times = times * [1 if is_turned(str(name)) else photos for name in names]
    rows = np.repeat(np.arange(prepared.count), times)
    if not len(rows):
        raise OversamplingError(
            f"{prepared.folder}: repeats {repeats} for |yaw| {', '.join(YAW_BINS)} degrees leave none of the"
            f" {prepared.count} faces"
        )
    return rows
