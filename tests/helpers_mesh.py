"""Meshes of known surfaces: a sphere and a flat sheet."""

import numpy as np


def ball(rows: int = 90, columns: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] of the unit sphere, y up, and triangles [T, 3], counter-clockwise seen from outside.

    The shape is symmetric about x = 0, the list of vertices is not; the seam is at the back (z < 0).
    """
    turn = -np.pi + 2 * np.pi * (np.arange(columns) + 0.5) / columns
    height = np.linspace(0.02, np.pi - 0.02, rows)
    turn, height = np.meshgrid(turn, height)
    points = np.stack([np.sin(height) * np.sin(turn), np.cos(height), np.sin(height) * np.cos(turn)], -1)
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, axis=1)
    a, b, c, d = index[:-1], right[:-1], right[1:], index[1:]
    triangles = np.concatenate([np.stack([a, d, b], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return points.reshape(-1, 3), triangles.astype(np.int32)


def in_picture(points: np.ndarray, size: int, yaw: float = 0.0, share: float = 0.4) -> np.ndarray:
    """Points [N, 3], y up, rotated by yaw degrees about y -> pixels of a size x size picture, y down, float32."""
    angle = np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    turned = points @ turn.T * [1, -1, 1]
    return (turned * share * size + [(size - 1) / 2, (size - 1) / 2, 0]).astype(np.float32)


def sheet(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 2] of a grid in the unit square, y up from the first row, and its triangles [T, 3]."""
    x, y = np.meshgrid(np.linspace(0, 1, columns), np.linspace(1, 0, rows))
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    triangles = np.concatenate([np.stack([a, d, b], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return np.stack([x, y], axis=-1).reshape(-1, 2), triangles.astype(np.int32)
