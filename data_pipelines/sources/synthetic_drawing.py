"""Drawing of a synthetic face: appearance, hair, clothes, glasses, light, surroundings and camera.

Meshes are in the model frame (metres, y up); images are BGR. Light is linear until `shading.encode_srgb`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipelines.sources import synthetic_scenery as scenery
from twodal_jax.face_models import appearance
from twodal_jax.face_models.appearance import Look
from twodal_jax.face_models.cc0_head import Cc0Head
from twodal_jax.rendering import shading

_BGR = [2, 1, 0]


class Mesh(NamedTuple):
    """Vertices float [N, 3], triangles int [T, 3], linear RGB float [N, 3] and gloss float [N, 1]."""

    vertices: np.ndarray
    triangles: np.ndarray
    colours: np.ndarray
    gloss: np.ndarray


def _joined(meshes: list[Mesh]) -> Mesh:
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    triangles = np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts)])
    others = (np.concatenate([mesh[i] for mesh in meshes]).astype(np.float32) for i in (0, 2, 3))
    vertices, colours, gloss = others
    return Mesh(vertices, triangles.astype(np.int32), colours, gloss)


def _grid(points: np.ndarray, colours: np.ndarray, gloss: float) -> Mesh:
    """Mesh of a grid of points [R, C, 3]; its outside is where rows x columns point. Colours [R, C, 3] or [3]."""
    rows, columns, _ = points.shape
    first = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    right, below = first + 1, first + columns
    triangles = np.concatenate([np.stack([first, below, right], 1), np.stack([right, below, below + 1], 1)])
    colours = np.broadcast_to(colours, points.shape).reshape(-1, 3)
    return Mesh(points.reshape(-1, 3), triangles, colours, np.full((rows * columns, 1), gloss))


def _ribbon(line: np.ndarray, other: np.ndarray, colour: np.ndarray, gloss: float) -> Mesh:
    return _grid(np.stack([line, other]), colour, gloss)


def _long_hair(rng: np.random.Generator, look: Look, top: float) -> Mesh:
    """Hair that falls from the crown behind or over the ears to between chin and shoulders."""
    start = np.radians(rng.uniform(62, 100))
    turn = np.linspace(start, 2 * np.pi - start, 64)
    height = np.linspace(0, 1, 14)[:, None]
    length = rng.uniform(0.13, 0.30)
    width, depth = rng.uniform(0.082, 0.100), rng.uniform(0.085, 0.105)
    spread = np.sqrt(np.clip(1 - (1 - np.clip(height / 0.35, 0, 1)) ** 2, 0, 1)) * (1 + rng.uniform(0, 0.35) * height)
    locks = 1 + 0.04 * rng.normal(size=turn.shape) * height
    x, z = width * spread * locks * np.sin(turn), depth * spread * locks * np.cos(turn) - 0.008
    y = top + 0.012 - length * height * (1 + 0.06 * rng.normal(size=turn.shape)) + 0 * x
    colours = (
        look.hair * np.clip(1 + 0.22 * rng.normal(size=(1, len(turn), 1)), 0.4, 1.6) * (1 - 0.35 * height[..., None])
    )
    return _grid(np.stack([x, y, z], axis=-1), colours, 0.3)


def _torso(rng: np.random.Generator, look: Look, neck: float) -> Mesh:
    """Shoulders in clothes below the height of the neck's cut, turned by another angle than the head."""
    around, up = np.linspace(0, 2 * np.pi, 40), np.linspace(0.06, 0.5, 12)[:, None] * np.pi
    wide, deep, high = rng.uniform(0.17, 0.23), rng.uniform(0.09, 0.13), 0.16
    x, z = wide * np.sin(up) ** 0.55 * np.sin(around), deep * np.sin(up) ** 0.55 * np.cos(around) - 0.015
    y = neck + rng.uniform(0.015, 0.05) - high * (1 - np.cos(up)) + 0 * x
    turn = np.radians(rng.normal(0, 18))
    x, z = np.cos(turn) * x + np.sin(turn) * z, np.cos(turn) * z - np.sin(turn) * x
    wave = np.sin(rng.uniform(0, 60) * around + rng.uniform(0, 40) * up)[..., None]
    colours = np.clip(look.cloth[_BGR] * (1 + rng.uniform(0, 0.6) * wave), 0, 1)
    return _grid(np.stack([x, y, z], axis=-1), colours, 0.2)


def _brim(rng: np.random.Generator, look: Look, brow: float, front: float) -> Mesh:
    """The peak of a cap."""
    along = np.linspace(-1, 1, 17)
    inner = np.stack([0.070 * along, brow + 0.036 + 0 * along, front - 0.045 * along**2], axis=1)
    reach = rng.uniform(0.03, 0.065) * np.sqrt(np.clip(1 - along**2, 0, 1))
    outer = inner + np.stack([0 * along, -reach * rng.uniform(0.1, 0.5), reach], axis=1)
    return _ribbon(outer, inner, look.cloth * 0.8, 0.2)


def _glasses(rng: np.random.Generator, landmarks: np.ndarray, look: Look) -> list[Mesh]:
    """Rims, lenses if dark, bridge and temples, placed by the 68 landmarks [68, 3] of the person."""
    half_width, half_height = rng.uniform(0.022, 0.029), rng.uniform(0.015, 0.024)
    power, rim = rng.uniform(0.35, 1.0), rng.uniform(0.0014, 0.0045)
    colour = rng.uniform(0, 0.5, 3) ** 2.5
    angle = np.linspace(0, 2 * np.pi, 33)
    sine, cosine = np.sin(angle), np.cos(angle)
    shape = np.stack([np.sign(cosine) * np.abs(cosine) ** power, np.sign(sine) * np.abs(sine) ** power], axis=1)
    front = landmarks[27, 2] + rng.uniform(0.004, 0.010)
    meshes, inner_ends = [], []
    for side, eye in ((-1, landmarks[36:42].mean(axis=0)), (1, landmarks[42:48].mean(axis=0))):
        centre = np.array([eye[0] + side * 0.002, eye[1] - 0.003, 0])
        sizes = np.array([half_width, half_height])

        def at(scale, centre=centre, sizes=sizes):
            flat = shape * (sizes + scale)
            depth = front - 0.004 - 3.0 * np.maximum(np.abs(centre[0] + flat[:, 0]) - 0.03, 0) ** 2 / 0.06
            return np.column_stack([centre[:2] + flat, depth])

        meshes.append(_ribbon(at(rim / 2), at(-rim / 2), colour, 2.0))
        if look.glasses == "dark":
            lens = at(0)
            meshes.append(_ribbon(lens, np.repeat(lens.mean(axis=0)[None], len(lens), 0), colour * 0.3 + 0.004, 6.0))
        edge = at(0)
        outer, inner = edge[np.argmax(side * edge[:, 0])], edge[np.argmin(side * edge[:, 0])]
        inner_ends.append(inner)
        ear = landmarks[0 if side < 0 else 16] * [1.04, 1, 1] + [0, 0.012, -0.004]
        high = np.array([0, rng.uniform(0.0015, 0.003), 0])
        start = outer + [0, 0.006, 0]
        temple = np.stack([start, (start + ear) / 2 + [side * 0.003, 0, 0], ear])
        meshes.append(_ribbon(temple + high, temple - high, colour, 1.0))
    bridge = np.stack([inner_ends[0], (inner_ends[0] + inner_ends[1]) / 2 + [0, 0.002, 0.003], inner_ends[1]])
    return [*meshes, _ribbon(bridge + [0, rim, 0], bridge - [0, rim, 0], colour, 1.0)]


def _dressed(rng: np.random.Generator, head: Cc0Head, vertices: np.ndarray, look: Look) -> Mesh:
    """The head [N, 3] with everything it wears."""
    colours, gloss = appearance.vertex_colours(head, look)
    covered = vertices + appearance.hair_offset(head, look)
    meshes = [Mesh(covered, head.model.triangles, colours, gloss)]
    landmarks = vertices[head.model.landmark_indices]
    if not look.headwear and look.hair_cover == 1 and rng.random() < 0.38:
        meshes.append(_long_hair(rng, look, float(covered[:, 1].max())))
    if rng.random() < 0.9:
        meshes.append(_torso(rng, look, float(vertices[:, 1].min())))
    if look.headwear == "cap" and rng.random() < 0.6:
        meshes.append(_brim(rng, look, float(landmarks[19, 1]), float(landmarks[27, 2])))
    if look.glasses:
        meshes += _glasses(rng, landmarks, look)
    return _joined(meshes)


def sample_light(rng: np.random.Generator) -> shading.Light:
    """A main light that casts shadows and a coloured environment of lights from other sides."""
    direction = (rng.normal(0, 0.5), rng.normal(0.4, 0.3), rng.uniform(0.3, 1.2))
    warm = rng.normal(0, 0.1) * np.array([-1.0, 0.0, 1.0])  # BGR
    strength = rng.uniform(0.15, 0.9)
    count = int(rng.integers(2, 5))
    towards = rng.normal(size=(count, 3)) + [0, 0.7, 0.4]
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    tints = rng.uniform(0.15, 0.6, (count, 1)) * (1 + rng.normal(0, 0.13, (count, 3)))
    even = rng.uniform(0.12, 0.45) * (1 + rng.normal(0, 0.08, 3))
    around = np.concatenate([towards, [[0, 1, 0], [0, -1, 0]]])
    colours = np.concatenate([tints / np.sqrt(count), [even * 1.2, even * 0.8]])
    return shading.Light(
        direction,
        tuple(strength * (1 + warm)),
        (0.0, 0.0, 0.0),
        float(rng.uniform(0.0, 0.14)),
        float(rng.uniform(6, 25)),
        shading.harmonics_of(around, np.maximum(colours, 0)),
    )


def draw(
    rng: np.random.Generator,
    head: Cc0Head,
    vertices: np.ndarray,
    to_pixels: Callable[[np.ndarray], np.ndarray],
    size: int,
    occluders: bool,
) -> np.ndarray:
    """Draws a person with random appearance, light, surroundings and camera.

    Args:
      rng: source of all randomness.
      head: the face model.
      vertices: [N, 3], of the bare head, model frame.
      to_pixels: function from points [M, 3] of the model frame to pixels [M, 3], y down, larger z nearer.
      size: side of the image.
      occluders: whether a third of the faces are partly occluded, and some wear masks, glasses or headwear.

    Returns:
      uint8 [size, size, 3] BGR.
    """
    look = appearance.sample_look(rng)
    if not occluders:
        look = look._replace(glasses="", headwear="", mask=False)
    mesh, light = _dressed(rng, head, vertices, look), sample_light(rng)
    ground = shading.decode_srgb(scenery.background(rng, size))
    points = to_pixels(mesh.vertices).astype(np.float32)
    image, mask = shading.render(
        points, mesh.triangles, mesh.colours[:, _BGR], size, size, light, gloss=mesh.gloss, shadows=rng.random() < 0.75
    )
    image = _exposed(rng, image, mask) + (1 - mask[..., None]) * ground
    image = shading.encode_srgb(image)
    if occluders and rng.random() < 0.25:
        image = scenery.occlude(rng, image, shading.encode_srgb(look.skin[_BGR]))
    return scenery.photograph(rng, image)


def _exposed(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The linear image as a camera exposes it: bright and dark faces come nearer to middle grey."""
    brightness = max(float(image.mean(axis=2).sum() / max(mask.sum(), 1.0)), 1e-3)
    target = float(np.exp(rng.normal(np.log(0.21), 0.4)))
    return image * np.float32(min((target / brightness) ** 0.75, 5.0))


def draw_plain(head: Cc0Head, vertices: np.ndarray, to_pixels: Callable, size: int) -> np.ndarray:
    """Draws the average appearance in plain light on grey -> uint8 [size, size, 3] BGR; arguments as in `draw`."""
    look = appearance.AVERAGE_LOOK
    colours, gloss = appearance.vertex_colours(head, look)
    points = to_pixels(vertices + appearance.hair_offset(head, look)).astype(np.float32)
    ground = np.full((size, size, 3), 0.17, np.float32)
    light = shading.Light(direction=(0.3, 0.5, 0.8), colour=(0.75,) * 3, ambient=(0.5,) * 3)
    image, _ = shading.render(
        points, head.model.triangles, colours[:, _BGR], size, size, light, ground, gloss=gloss, shadows=True
    )
    return (shading.encode_srgb(image) * 255 + 0.5).astype(np.uint8)
