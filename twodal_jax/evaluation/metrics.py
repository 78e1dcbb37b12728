"""Normalised mean error (NME) and its summary by yaw.

Notation: n images, P points each (68 landmarks, or all vertices of the mesh), d = 2 or 3 coordinates. The normaliser
of an image is sqrt(w h), with the width w and height h of the box around its *true* 68 landmarks, whichever points are
compared. Every NME is in per cent of it. Predictions and ground truth must be in the same frame; the unit cancels.

`nme` computes in float64 for NumPy arrays, and in their own precision for JAX arrays (also inside jit). The summaries
are NumPy and return plain Python numbers, which JSON can hold.
"""

import jax
import jax.numpy as jnp
import numpy as np

YAW_BINS = ("0-30", "30-60", "60-90")
YAW_BIN_EDGES_DEG = (30.0, 60.0)  # a face exactly on an edge belongs to the lower bin
NUM_WORST_DROPPED = 20  # Fig. 6 leaves out the 20 worst images


def nme(predicted, true, box_landmarks):
    """Normalised mean error of each image, in per cent.

    In 3D the depths have no common origin, so z is first shifted in both clouds until its minimum over the P points is
    0; x and y are not changed.

    Args:
      predicted: [n, P, d], d = 2 (x, y) or 3 (x, y, z).
      true: [n, P, d], the same points in the same frame.
      box_landmarks: [n, 68, >=2], the true 68 landmarks in that frame; only x and y are used.

    Returns:
      [n], per cent; NaN (not measured) where a coordinate is not finite or the box has no area.

    Raises:
      ValueError: shapes do not match.
    """
    arrays = (predicted, true, box_landmarks)
    on_device = any(isinstance(array, jax.Array) for array in arrays)
    xp = jnp if on_device else np
    predicted, true, box = (xp.asarray(array) if on_device else np.asarray(array, np.float64) for array in arrays)
    _check_shapes(predicted, true, box)
    if predicted.shape[-1] == 3:
        predicted, true = _depth_from_zero(predicted, xp), _depth_from_zero(true, xp)
    distance = xp.sqrt(((predicted - true) ** 2).sum(-1)).mean(-1)
    width, height = xp.moveaxis(box[..., :2].max(-2) - box[..., :2].min(-2), -1, 0)
    area = width * height
    measurable = xp.isfinite(distance) & (area > 0)
    error = 100.0 * distance / xp.sqrt(xp.where(measurable, area, 1.0))
    return xp.where(measurable, error, xp.nan)


def _depth_from_zero(points, xp):
    depth = points[..., 2:]
    return xp.concatenate([points[..., :2], depth - depth.min(-2, keepdims=True)], axis=-1)


def _check_shapes(predicted, true, box):
    if predicted.ndim != 3 or predicted.shape[-1] not in (2, 3):
        raise ValueError(f"Expected `predicted` of shape [n, P, 2 or 3], got {predicted.shape}.")
    if true.shape != predicted.shape:
        raise ValueError(
            f"`true` {true.shape} must have the shape of `predicted` {predicted.shape}: "
            "the same images, points and number of coordinates."
        )
    if box.ndim != 3 or box.shape[0] != predicted.shape[0] or box.shape[-1] < 2:
        raise ValueError(f"Expected `box_landmarks` of shape [{len(predicted)}, 68, 2 or 3], got {box.shape}.")


def yaw_bin_index(yaw_deg) -> np.ndarray:
    """Index into `YAW_BINS` of each |yaw|: yaw_deg [n], degrees -> int [n]; -1 where NaN."""
    yaw = np.abs(np.asarray(yaw_deg, np.float64))
    return np.where(np.isnan(yaw), -1, np.digitize(yaw, YAW_BIN_EDGES_DEG, right=True))


def summarize(nme_percent, yaw_deg) -> dict[str, float | int | None]:
    """Mean NME by yaw bin and over all images, with the numbers of images.

    Args:
      nme_percent: [n], per cent, from `nme`. An image that is not finite enters no mean; it counts as "excluded".
      yaw_deg: [n], degrees, of any sign. An image of NaN yaw enters the means of images, but no bin.

    Returns:
      "0-30", "30-60", "60-90": mean over the images of the bin, None if it is empty.
      "mean_of_bins": mean of the bins that have images (the "mean" of Table I when all three have).
      "mean_of_images": mean over all measured images.
      "mean_without_20_worst": the same without the 20 largest (Fig. 6); None for 20 images or fewer.
      "count", "excluded": numbers of images measured and not measured.

    Raises:
      ValueError: the arrays differ in length.
    """
    errors, yaw = np.asarray(nme_percent, np.float64), np.asarray(yaw_deg, np.float64)
    if errors.ndim != 1 or errors.shape != yaw.shape:
        raise ValueError(f"Expected one NME and one yaw an image, got shapes {errors.shape} and {yaw.shape}.")
    measured = np.isfinite(errors)
    errors, bins = errors[measured], yaw_bin_index(yaw[measured])
    by_bin = [_mean(errors[bins == index]) for index in range(len(YAW_BINS))]
    return {
        **dict(zip(YAW_BINS, by_bin)),
        "mean_of_bins": _mean([value for value in by_bin if value is not None]),
        "mean_of_images": _mean(errors),
        "mean_without_20_worst": _mean(np.sort(errors)[: max(len(errors) - NUM_WORST_DROPPED, 0)]),
        "count": int(measured.sum()),
        "excluded": int((~measured).sum()),
    }


def _mean(values) -> float | None:
    return float(np.mean(values)) if len(values) else None


def count_by_bin(yaw_deg) -> dict[str, int]:
    """Number of yaw angles [n], degrees, in each of `YAW_BINS`."""
    bins = yaw_bin_index(yaw_deg)
    return {name: int((bins == index).sum()) for index, name in enumerate(YAW_BINS)}


def cumulative_error(nme_percent) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative error distribution of nme_percent [n].

    Returns the m finite errors [m], ascending, and the share [m] of images with at most that error, in per cent of all
    n images. Images without a finite error are never reached, so the curve of a method that failed on some images ends
    below 100.
    """
    errors = np.asarray(nme_percent, np.float64)
    finite = np.sort(errors[np.isfinite(errors)])
    return finite, 100.0 * np.arange(1, len(finite) + 1) / max(len(errors), 1)


def best_to_worst(nme_percent, count: int) -> np.ndarray:
    """Indices of `count` images spread evenly over the ranking by error, from best to worst.

    An odd count includes the median. Images without a finite error are left out; if fewer than `count` remain, all are
    returned.
    """
    errors = np.asarray(nme_percent, np.float64)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    ranking = np.argsort(errors, kind="stable")[: int(np.isfinite(errors).sum())]
    if count <= 0 or not len(ranking):
        return np.zeros(0, np.int64)
    places = np.linspace(0, len(ranking) - 1, min(count, len(ranking)))
    return ranking[np.round(places).astype(np.int64)]


def rank_names(count: int) -> list[str]:
    """Captions of the images of `best_to_worst`: "best", "better than 75 %" ... "worst"."""
    if count <= 1:
        return ["best"] * count
    worse = [round(100 * (1 - place / (count - 1))) for place in range(count)]
    names = {100: "best", 50: "median", 0: "worst"}
    return [names.get(percent, f"better than {percent} %") for percent in worse]
