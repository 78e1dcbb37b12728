"""Pictures of the head in grey: one face, or a sheet of many."""

from __future__ import annotations

import pathlib

import numpy as np

from twodal_jax.face_models import face_units, sampling
from twodal_jax.face_models.cc0_head import Cc0Head
from twodal_jax.geometry.coefficients import NUM_SHAPE
from twodal_jax.rendering import shading

_LIGHT = shading.Light(direction=(0.35, 0.45, 0.82))
_HEIGHT, _CENTRE = 0.32, (0.0, -0.035, 0.0)  # metres of the head in a picture
_YAWS = (0, 0, -30, 60, 90)  # of the rows of people


def turned(vertices: np.ndarray, yaw: float) -> np.ndarray:
    """Vertices [N, 3] turned about the vertical axis by `yaw` degrees; positive shows the person's right side."""
    cosine, sine = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    return vertices @ np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]).T


def draw(
    vertices: np.ndarray,
    triangles: np.ndarray,
    size: int,
    *,
    yaw: float = 0.0,
    colours: np.ndarray | None = None,
    points: np.ndarray | None = None,
) -> np.ndarray:
    """Picture [size, size, 3] uint8 of a head [N, 3] in metres, grey unless `colours` [N, 3] are given.

    Args:
      vertices: [N, 3], metres.
      triangles: [T, 3].
      size: pixels of the picture's side.
      yaw: degrees, see `turned`.
      colours: [N, 3] from 0 to 1.
      points: indices of vertices to mark with red dots, hidden or not.
    """
    scale = size / _HEIGHT
    seen = (turned(vertices, yaw) - _CENTRE) * scale * [1, -1, 1] + [size / 2, size / 2, 0]
    grey = np.full((len(vertices), 3), 0.72)
    image, _ = shading.render(seen, triangles, grey if colours is None else colours, size, size, _LIGHT)
    image = np.rint(image * 255).astype(np.uint8)
    for x, y in np.rint(seen[[] if points is None else points, :2]).astype(int):
        image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = (220, 30, 30)
    return image


def sheet(pictures: list[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size in rows of `columns`; empty places are black."""
    empty = np.zeros_like(pictures[0])
    padded = pictures + [empty] * (-len(pictures) % columns)
    return np.concatenate([np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)])


def model_sheet(head: Cc0Head, size: int = 400) -> np.ndarray:
    """The mean head from three sides, its landmarks, and its masks in colour."""
    mean, triangles = head.model.mean.T, head.model.triangles
    colours = np.full((len(mean), 3), 0.72)
    for colour, names in (
        ((0.75, 0.3, 0.3), ("lips", "tongue")),
        ((0.3, 0.75, 0.75), ("eyelids",)),
        ((0.25, 0.2, 0.15), ("brows", "scalp")),
        ((0.95, 0.95, 0.95), ("sclera", "teeth")),
        ((0.3, 0.45, 0.7), ("iris",)),
        ((0.0, 0.0, 0.0), ("pupil",)),
    ):
        weight = sum(head.masks[name] for name in names)[:, None]
        colours = colours * (1 - weight) + weight * colour
    views = [draw(mean, triangles, size, yaw=yaw) for yaw in (0, 45, 90)]
    views.append(draw(mean, triangles, size, points=head.model.landmark_indices))
    return sheet([*views, *(draw(mean, triangles, size, yaw=yaw, colours=colours) for yaw in (0, 45, 90, 180))], 4)


def people_sheet(head: Cc0Head, size: int = 260) -> np.ndarray:
    """5 x 8 random people at rest: two rows from the front, then turned by 30, 60 and 90 degrees."""
    rng = np.random.default_rng(5)
    shapes = [sampling.sample_shape(rng) for _ in range(8 * len(_YAWS))]
    return sheet(
        [_draw_coefficients(head, shape, size, _YAWS[index // 8]) for index, shape in enumerate(shapes)], columns=8
    )


def directions_sheet(head: Cc0Head, size: int = 260) -> np.ndarray:
    """The first 10 shape directions at -3 and +3 standard deviations, each from the front and turned by 75 degrees."""
    steps = [step * row for row in np.eye(NUM_SHAPE)[:10] for step in (-3, 3)]
    return sheet([_draw_coefficients(head, step, size, yaw) for step in steps for yaw in (0, 75)], columns=8)


def units_sheet(head: Cc0Head, size: int = 240) -> np.ndarray:
    """All face units at full activation; `mouthClose` and `tongueOut` with the open jaw they belong to."""
    activations = np.eye(len(face_units.UNIT_NAMES))
    for name in ("mouthClose", "tongueOut"):
        activations[face_units.INDEX[name], face_units.INDEX["jawOpen"]] = 1
    moved = head.model.mean + np.tensordot(activations, head.units, axes=1)
    return sheet([draw(vertices.T, head.model.triangles, size, yaw=-12) for vertices in moved], columns=9)


def _draw_coefficients(head: Cc0Head, shape: np.ndarray, size: int, yaw: float) -> np.ndarray:
    vertices = head.model.mean + np.tensordot(shape, head.model.basis[:NUM_SHAPE], axes=1)
    return draw(vertices.T, head.model.triangles, size, yaw=yaw)


def save(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes an image [H, W, 3] uint8 in the format of the path's suffix."""
    from PIL import Image

    Image.fromarray(image).save(path)
