"""Smooth functions that the face, its regions and its directions are built from."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator


def step(value: np.ndarray, start: float, end: float) -> np.ndarray:
    """Smooth step from 0 at `start` to 1 at `end`; `end` may be smaller than `start`."""
    t = np.clip((value - start) / (end - start), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def bump(
    x: np.ndarray, y: np.ndarray, x0: float, y0: float, width: float, height: float, power: float = 2.0
) -> np.ndarray:
    """Bump exp(-r^power / 2) of the elliptical radius r around (x0, y0); power 4 has a flat top."""
    radius = np.sqrt(((x - x0) / width) ** 2 + ((y - y0) / height) ** 2)
    return np.exp(-0.5 * radius**power)


def both(
    x: np.ndarray, y: np.ndarray, x0: float, y0: float, width: float, height: float, power: float = 2.0
) -> np.ndarray:
    """Two symmetric bumps, at x0 and at -x0."""
    return bump(np.abs(x), y, abs(x0), y0, width, height, power)


def curve(at: np.ndarray, table: list[tuple[float, float]]) -> np.ndarray:
    """Monotone cubic interpolation of (position, value) pairs, constant beyond the ends."""
    positions, values = np.array(sorted(table), float).T
    return PchipInterpolator(positions, values)(np.clip(at, positions[0], positions[-1]))


def smooth_max(a: np.ndarray, b: np.ndarray, softness: float) -> np.ndarray:
    """Smooth maximum with a transition of about `softness`, in the unit of the values."""
    return np.logaddexp(a / softness, b / softness) * softness
