"""A boosted cascade of multi-block local binary patterns, evaluated on an image pyramid by numba.

A window of 24 x 24 pixels passes through 20 stages; each sums the votes of a few stumps and rejects the window below
its threshold. A stump compares 3 x 3 blocks: one bit for each of the eight outer blocks, set if it is at least as
bright as the middle one. The eight bits select its vote. Two stages reject nearly every window.

The trained numbers are the file that comes with scikit-image (OpenCV's LBP face cascade). scikit-image's evaluation,
`skimage.feature.Cascade`, scales the window instead of the image, takes about five times as long and returns no score;
a test compares both window by window.

Sources: S. Liao et al., "Learning Multi-scale Block Local Binary Patterns for Face Recognition", ICB 2007
(the patterns); P. Viola and M. Jones, "Robust Real-Time Face Detection", IJCV 2004 (the cascade).
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import cv2
import numpy as np
from numba import njit

_EPSILON = np.float32(1e-5)
# Numbers in a stump's line: two leaves, the feature, and 256 bits in eight words.
_NODE_NUMBERS = 3 + 8


class Cascade(NamedTuple):
    """The trained numbers of a cascade.

    Attributes:
      size: side of the square window in pixels.
      blocks: int32 [T, 4] x, y, width, height in the window of the upper left of each stump's 3 x 3 blocks.
      votes: float32 [T, 256], a stump's vote for each pattern.
      stage_start: int32 [S + 1], the first stump of each stage. stage_threshold: float32 [S].
    """

    size: int
    blocks: np.ndarray
    votes: np.ndarray
    stage_start: np.ndarray
    stage_threshold: np.ndarray


def load(path: os.PathLike | str) -> Cascade:
    """Reads a cascade of LBP stumps in OpenCV's XML format.

    Raises:
      ValueError: the file has other content. OSError: it cannot be read.
    """
    try:
        root = ElementTree.parse(path).getroot()
        stages = root.find(".//stages")
        stumps = [list(stage.find("weakClassifiers")) for stage in stages]
        flat = [stump for stage in stumps for stump in stage]
        nodes = np.array([_numbers(stump, "internalNodes") for stump in flat]).astype(np.int64)
        if nodes.shape[1:] != (_NODE_NUMBERS,):
            raise ValueError("its stumps do not use local binary patterns")
        leaves = np.array([_numbers(stump, "leafValues") for stump in flat], np.float32)
        blocks = np.array([_numbers(rect, "rect") for rect in root.find(".//features")], np.int32)
        # 256 bits in eight words: 1 where the pattern takes the first leaf.
        bits = (nodes[:, 3:, None] >> np.arange(32)) & 1
        return Cascade(
            size=int(root.find(".//width").text),
            blocks=blocks[nodes[:, 2]],
            votes=np.where(bits.reshape(len(flat), 256) == 1, leaves[:, :1], leaves[:, 1:]),
            stage_start=np.cumsum([0, *map(len, stumps)]).astype(np.int32),
            stage_threshold=np.array([_numbers(stage, "stageThreshold")[0] for stage in stages], np.float32),
        )
    except (ElementTree.ParseError, AttributeError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path}: not an LBP cascade in OpenCV's format ({error})") from None


def _numbers(element: ElementTree.Element, name: str) -> list[float]:
    return [float(word) for word in element.find(name).text.split()]


def detect(cascade: Cascade, grey: np.ndarray, *, min_size: int = 24, scale_step: float = 1.15) -> np.ndarray:
    """Detects windows that pass all stages, at all scales.

    Args:
      cascade: the trained numbers.
      grey: uint8 [H, W].
      min_size: side of the smallest window, pixels of `grey`, at least `Cascade.size`.
      scale_step: ratio of two neighbouring scales.

    Returns:
      float32 [K, 4]: x and y of the window's centre (pixel centres at integers), its side, and its score, the sum of
      the stages' margins.
    """
    found = [np.zeros((0, 4), np.float32)]
    scale = max(min_size / cascade.size, 1.0)
    while min(grey.shape) / scale >= cascade.size + 1:
        size = (round(grey.shape[1] / scale), round(grey.shape[0] / scale))
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if scale > 1 else grey
        # Small windows are numerous: only every second one is tested, and the neighbours of those that pass.
        hits = windows(cascade, small, stride=2 if scale < 2 else 1)
        exact = np.array(grey.shape[::-1]) / size
        centres = (hits[:, :2] + cascade.size / 2) * exact - 0.5
        side = np.full(len(hits), cascade.size * exact.mean())
        found.append(np.column_stack([centres, side, hits[:, 2]]))
        scale *= scale_step
    return np.concatenate(found).astype(np.float32)


def windows(cascade: Cascade, grey: np.ndarray, stride: int = 1) -> np.ndarray:
    """Detects the windows of one scale that pass all stages.

    Args:
      cascade: the trained numbers.
      grey: uint8 [H, W], at least as large as a window.
      stride: 1 tests all windows; otherwise every stride-th, and then all around those that pass.

    Returns:
      float32 [K, 3]: x, y (upper left corner) and score.
    """
    integral = cv2.integral(grey)
    rows, columns = (side - cascade.size + 1 for side in grey.shape)
    x, y, width, height = cascade.blocks.T.astype(np.int64)
    at_x = x[:, None] + width[:, None] * np.arange(4)
    at_y = y[:, None] + height[:, None] * np.arange(4)
    corners = (at_y[:, :, None] * integral.shape[1] + at_x[:, None, :]).reshape(-1, 16)

    def passing(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        scores = _scores(
            integral.ravel(),
            row * integral.shape[1] + column,
            corners,
            cascade.votes,
            cascade.stage_start,
            cascade.stage_threshold - _EPSILON,
        )
        kept = scores >= 0
        return np.column_stack([column[kept], row[kept], scores[kept]])

    grid = np.mgrid[0:rows:stride, 0:columns:stride].reshape(2, -1)
    hits = passing(*grid)
    if stride > 1 and len(hits):
        around = np.mgrid[1 - stride : stride, 1 - stride : stride].reshape(2, 1, -1)
        near = (hits[:, [1, 0]].T.astype(np.int64)[:, :, None] + around).reshape(2, -1)
        near = np.unique(near[:, ((near >= 0) & (near < [[rows], [columns]])).all(axis=0)], axis=1)
        hits = passing(*near)
    return hits.astype(np.float32)


@njit(cache=True, nogil=True)
def _scores(integral, first, corners, votes, stage_start, stage_threshold):
    """[K], the score of each window, -1 where a stage rejects it.

    integral: flat. first: [K], the index of each window in it. corners: [T, 16], the offsets of the 4 x 4 corners of a
    stump's blocks from there.
    """
    scores = np.full(first.size, np.float32(-1))
    for k in range(first.size):
        score = np.float32(0)
        passed = True
        for stage in range(stage_threshold.size):
            vote = np.float32(0)
            for t in range(stage_start[stage], stage_start[stage + 1]):
                vote += votes[t, _pattern(integral, first[k], corners[t])]
            if vote < stage_threshold[stage]:
                passed = False
                break
            score += vote - stage_threshold[stage]
        if passed:
            scores[k] = score
    return scores


@njit(cache=True, nogil=True)
def _pattern(integral, window, corner):
    """Eight bits of 3 x 3 blocks, clockwise from the upper left, which is the highest bit."""
    middle = _block_sum(integral, window, corner, 5)
    return (
        ((_block_sum(integral, window, corner, 0) >= middle) << 7)
        | ((_block_sum(integral, window, corner, 1) >= middle) << 6)
        | ((_block_sum(integral, window, corner, 2) >= middle) << 5)
        | ((_block_sum(integral, window, corner, 6) >= middle) << 4)
        | ((_block_sum(integral, window, corner, 10) >= middle) << 3)
        | ((_block_sum(integral, window, corner, 9) >= middle) << 2)
        | ((_block_sum(integral, window, corner, 8) >= middle) << 1)
        | (_block_sum(integral, window, corner, 4) >= middle)
    )


@njit(cache=True, nogil=True)
def _block_sum(integral, window, corner, k):
    """Sum of the block whose upper left corner is number k of the 4 x 4 corners."""
    upper = integral[window + corner[k + 1]] - integral[window + corner[k]]
    return integral[window + corner[k + 5]] - integral[window + corner[k + 4]] - upper
