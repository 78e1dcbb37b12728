"""Random appearances of the CC0 head: skin, lips, brows, lashes, eyes, beard, hair, age, headwear, glasses.

Colours are linear light from 0 to 1 (encode with `rendering.shading.encode_srgb`), red, green, blue. Places on the head
are in its model frame (metres). Amounts and frequencies are choices of ours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twodal_jax.face_models import cc0_head
from twodal_jax.face_models.cc0_head import Cc0Head
from twodal_jax.rendering import shading
from twodal_jax.rendering.shading import smooth_step

# Skin is the dermis seen through melanin and blood, whose absorption in red, green and blue is relative to melanin's
# in red and to haemoglobin's in green.
_DERMIS = np.array([0.86, 0.72, 0.62])
_MELANIN = np.array([1.0, 1.25, 1.55])
_BLOOD = np.array([0.05, 1.0, 0.8])
_SURFACE = 0.008  # reflected before light enters the skin
_MIN_MELANIN, _MAX_MELANIN, _DARK_MELANIN = 0.05, 2.2, 0.7
_HAIRS = np.array(  # black, dark brown, brown, light brown, blond, red, grey, white
    [
        *([0.006, 0.005, 0.004], [0.018, 0.010, 0.006], [0.05, 0.024, 0.011], [0.12, 0.06, 0.026]),
        *([0.32, 0.19, 0.075], [0.22, 0.058, 0.017], [0.27, 0.26, 0.25], [0.55, 0.54, 0.52]),
    ]
)
_IRISES = np.array(  # dark brown, brown, hazel, green, blue, grey
    [
        *([0.022, 0.010, 0.005], [0.055, 0.023, 0.008], [0.09, 0.055, 0.02]),
        *([0.065, 0.10, 0.05], [0.06, 0.12, 0.20], [0.09, 0.12, 0.14]),
    ]
)
_OCCLUSION_DIRECTIONS = 48
# Upper border of a full beard, and the hairline; see `height_above_line`.
_BEARD_TOP = (
    (0, -0.049),
    (14, -0.053),
    (20, -0.068),
    (32, -0.074),
    (48, -0.062),
    (62, -0.045),
    (72, -0.015),
    (80, 0.0),
)

HAIRLINE = (
    *((0, 0.064), (25, 0.064), (40, 0.058), (52, 0.040), (62, 0.022), (72, 0.012), (84, -0.002), (95, -0.010)),
    *((110, -0.030), (130, -0.052), (155, -0.062), (180, -0.064)),
)


class Look(NamedTuple):
    """An appearance. Colours are linear RGB [3]; strengths are from 0 to 1; lengths are in metres.

    Attributes:
      melanin, blood: of the skin.
      hair, iris, cloth: colours; `cloth` is that of headwear and of the clothes.
      lipstick, lips: strength and colour of lipstick.
      makeup: dark lids and lashes.
      brow, brow_width: strength, and width from 0 (thin) to 1 (full).
      beard, moustache, beard_length: strengths, and the height of the hair above the skin.
      age: strength of folds and bags under the eyes.
      freckles, mottling: strengths of patterns in the skin.
      hairline: upward shift of the hairline. hair_cover: 0 is bald, 1 full. hair_volume: height of the hair.
      headwear: "", "cap" or "scarf".
      glasses: "", "clear" or "dark". mask: whether a cloth covers mouth and nose.
      seed: of the patterns.
    """

    melanin: float = 0.22
    blood: float = 0.28
    hair: np.ndarray = _HAIRS[2]
    iris: np.ndarray = _IRISES[1]
    cloth: np.ndarray = np.array([0.2, 0.25, 0.35])
    lipstick: float = 0.0
    lips: np.ndarray = np.array([0.45, 0.05, 0.06])
    makeup: float = 0.15
    brow: float = 0.8
    brow_width: float = 0.5
    beard: float = 0.0
    moustache: float = 0.0
    beard_length: float = 0.0
    age: float = 0.2
    freckles: float = 0.0
    mottling: float = 0.3
    hairline: float = 0.0
    hair_cover: float = 1.0
    hair_volume: float = 0.012
    headwear: str = ""
    glasses: str = ""
    mask: bool = False
    seed: int = 0

    @property
    def skin(self) -> np.ndarray:
        """Colour of the cheeks' skin, [3]."""
        return skin_colour(self.melanin, self.blood)


AVERAGE_LOOK = Look()


def skin_colour(melanin: np.ndarray | float, blood: np.ndarray | float) -> np.ndarray:
    """Linear RGB [..., 3] of skin with amounts [...] of melanin (0.05 light to 2.2 dark) and blood (0.1 to 1.5)."""
    depth = np.multiply.outer(melanin, _MELANIN) + np.multiply.outer(blood, _BLOOD)
    return _SURFACE + _DERMIS * np.exp(-depth)


def sample_look(rng: np.random.Generator) -> Look:
    """A random appearance; dark skin mostly has dark hair and eyes."""
    melanin = float(np.exp(rng.uniform(np.log(_MIN_MELANIN), np.log(_MAX_MELANIN))))
    dark = melanin > _DARK_MELANIN and rng.random() < 0.93
    old = rng.random() < 0.2
    hair = _HAIRS[rng.integers(2 if dark else 6)]
    hair = _HAIRS[rng.integers(6, 8)] if old and rng.random() < 0.6 else hair
    made_up = rng.random() < 0.3
    bearded, stubbly = (not made_up and rng.random() < share for share in (0.25, 0.2))
    bald = rng.random() < 0.1
    headwear = str(rng.choice(["", "cap", "scarf"], p=[0.86, 0.1, 0.04]))
    length = float(rng.uniform(0.0, 0.012)) if bearded else 0.0
    return Look(
        melanin=melanin,
        blood=float(rng.uniform(0.12, 0.38)),
        hair=np.clip(hair * rng.uniform(0.6, 1.5), 0, 0.8),
        iris=_IRISES[rng.integers(2 if dark else len(_IRISES))] * rng.uniform(0.7, 1.3),
        cloth=rng.uniform(0.01, 0.75, 3) ** 1.5 * rng.uniform(0.3, 1.2),
        lipstick=float(rng.uniform(0.3, 1.0)) if made_up else 0.0,
        lips=np.array([rng.uniform(0.15, 0.6), rng.uniform(0.01, 0.12), rng.uniform(0.02, 0.15)]),
        makeup=float(rng.uniform(0.3, 1.0)) if made_up else float(rng.uniform(0, 0.3)),
        brow=float(rng.uniform(0.45, 1.0)),
        brow_width=float(rng.uniform(0.0, 1.0)),
        beard=float(rng.uniform(0.5, 1.0)) if bearded else float(rng.uniform(0.1, 0.45)) if stubbly else 0.0,
        moustache=float(rng.uniform(0.3, 1.0)) if bearded or rng.random() < 0.04 else 0.0,
        beard_length=length,
        age=float(rng.uniform(0.5, 1.0)) if old else float(rng.uniform(0, 0.5)),
        freckles=float(max(0, rng.normal(-0.05, 0.3))),
        mottling=float(rng.uniform(0, 1)),
        hairline=float(np.clip(rng.normal(-0.002, 0.010), -0.03, 0.025)),
        hair_cover=float(rng.uniform(0, 0.25)) if bald else 1.0,
        hair_volume=0.0 if bald else float(rng.uniform(0.002, 0.028)),
        headwear=headwear,
        glasses=str(rng.choice(["", "clear", "dark"], p=[0.8, 0.15, 0.05])),
        mask=bool(rng.random() < 0.02),
        seed=int(rng.integers(2**31)),
    )


class _Places(NamedTuple):
    """Weights [N] of places on the head, from 0 to 1, and smooth patterns [N, 24] of unit variance."""

    occlusion: np.ndarray
    lashes: np.ndarray
    lower_lashes: np.ndarray
    eye_socket: np.ndarray
    under_eye: np.ndarray
    folds: np.ndarray
    cheeks: np.ndarray
    nose: np.ndarray
    nostrils: np.ndarray
    beard: np.ndarray
    moustache: np.ndarray
    lip_line: np.ndarray
    lower_face: np.ndarray
    iris_rim: np.ndarray
    above_hairline: np.ndarray
    normals: np.ndarray
    waves: np.ndarray


def _distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance [N] of points [N, 3] from an open polyline [K, 3]."""
    nearest = np.full(len(points), np.inf)
    for start, end in zip(line[:-1], line[1:]):
        along = end - start
        t = np.clip((points - start) @ along / (along @ along), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(points - start - t[:, None] * along, axis=1))
    return nearest


def _both_sides(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    mirrored = line * np.array([-1, 1, 1])
    return np.minimum(_distance(points, line), _distance(points, mirrored))


def _ambient_occlusion(mean: np.ndarray, triangles: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Share [N] of a uniform sky that each vertex sees: shadow maps from directions on a Fibonacci sphere."""
    index = np.arange(_OCCLUSION_DIRECTIONS) + 0.5
    height = 1 - 2 * index / _OCCLUSION_DIRECTIONS
    turn = np.pi * (1 + 5**0.5) * index
    flat = np.sqrt(1 - height**2)
    directions = np.stack([flat * np.cos(turn), height, flat * np.sin(turn)], axis=1).astype(np.float32)
    pixels = (mean * 1000 * [1, -1, 1]).astype(np.float32)
    seen, total = np.zeros(len(mean)), np.zeros(len(mean))
    for direction in directions:
        cosine = np.maximum(normals @ direction, 0)
        seen += cosine * shading.cast_shadow(pixels, triangles, direction, 200)[:, 0]
        total += cosine
    return (seen / np.maximum(total, 1e-6)).astype(np.float32)


def height_above_line(mean: np.ndarray, line: Sequence[tuple[float, float]]) -> np.ndarray:
    """Height [N] of points [N, 3] above a line around the head, metres.

    line: (degrees from the middle of the face around the vertical axis, metres above the pupils), such as HAIRLINE.
    """
    degrees = np.degrees(np.arctan2(np.abs(mean[:, 0]), mean[:, 2]))
    return mean[:, 1] - np.interp(degrees, *zip(*line))


def _find_places(head: Cc0Head) -> _Places:
    mean, masks = head.model.mean.T.astype(np.float64), head.masks
    at = mean[head.model.landmark_indices]
    normals = shading.vertex_normals(mean, head.model.triangles)
    part = masks["sclera"] + masks["iris"] + masks["pupil"] + masks["teeth"] + masks["tongue"]
    skin = (1 - np.clip(part, 0, 1)) * (1 - np.clip(2 * masks["mouth_inside"], 0, 1))
    upper, lower = _both_sides(mean, at[42:46]), _both_sides(mean, at[[42, 47, 46, 45]])
    eye = at[42:48].mean(axis=0)
    around_eye = np.linalg.norm((np.abs(mean) * [1, 0, 0] + mean * [0, 1, 1] - eye) * [1, 1.35, 0.7], axis=1)
    nose_wing, mouth_corner = at[35], at[54]
    fold = np.stack([nose_wing + [0.005, 0.004, -0.004], mouth_corner + [0.011, 0.010, -0.002]])
    fold = np.concatenate([fold, [mouth_corner + [0.013, -0.006, -0.004]]])
    bag = at[[42, 47, 46, 45]] + [[-0.001, -0.008, 0], [0, -0.010, 0], [0.001, -0.0095, 0], [0.002, -0.006, 0]]
    crow = np.stack([at[45] + [0.005, 0.001, -0.004], at[45] + [0.014, 0.006, -0.012]])
    lines = [
        0.9 * smooth_step(_both_sides(mean, fold), 0.005, 0.0),
        0.5 * smooth_step(_both_sides(mean, bag), 0.003, 0.0),
    ]
    lines += [0.5 * smooth_step(_both_sides(mean, crow), 0.003, 0.0)]
    for height in (0.045, 0.056, 0.067):
        wrinkle = smooth_step(np.abs(mean[:, 1] - height - 0.004 * np.cos(mean[:, 0] * 90)), 0.0025, 0.0)
        lines.append(0.5 * wrinkle * smooth_step(np.abs(mean[:, 0]), 0.045, 0.03) * (mean[:, 2] > 0.05))
    below_chin = at[8, 1] - 0.012
    lips = np.clip(masks["lips"], 0, 1)
    beard = smooth_step(height_above_line(mean, _BEARD_TOP), 0.004, -0.004) * smooth_step(
        mean[:, 1], below_chin - 0.02, below_chin
    )
    beard = beard * skin * (1 - lips) * smooth_step(mean[:, 2], -0.01, 0.01) * (1 - np.clip(2 * masks["ears"], 0, 1))
    cheek = np.array([0.040, -0.043, 0.088])
    across, up, _ = mean.T
    moustache = smooth_step(np.abs(across), mouth_corner[0] + 0.008, mouth_corner[0]) * smooth_step(
        up, at[33, 1] + 0.001, at[33, 1] - 0.002
    )
    moustache = moustache * (up > at[62, 1] - 0.004) * (mean[:, 2] > 0.08) * skin * (1 - lips)
    nostril = np.stack([at[32] + [0.0, 0.001, -0.003], at[31] + [0.003, -0.001, -0.002]])
    rng = np.random.default_rng(7)
    direction = rng.normal(size=(24, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    phase = mean @ (direction * (2 * np.pi / np.geomspace(0.008, 0.06, 24))[:, None]).T
    waves = np.sin(phase + rng.uniform(0, 2 * np.pi, 24)) * np.sqrt(2 / 24)
    places = _Places(
        occlusion=_ambient_occlusion(mean, head.model.triangles, normals),
        lashes=smooth_step(upper, 0.0032, 0.0012) * skin,
        lower_lashes=smooth_step(lower, 0.0020, 0.0005) * skin,
        eye_socket=smooth_step(around_eye, 0.030, 0.012) * skin,
        under_eye=smooth_step(_both_sides(mean, bag), 0.009, 0.001) * skin,
        folds=np.clip(sum(lines), 0, 1) * skin,
        cheeks=smooth_step(np.linalg.norm(np.abs(mean) * [1, 0, 0] + mean * [0, 1, 1] - cheek, axis=1), 0.032, 0.004)
        * skin,
        nose=smooth_step(np.linalg.norm(mean - at[30], axis=1), 0.026, 0.006) * skin,
        nostrils=smooth_step(_both_sides(mean, nostril), 0.005, 0.002) * skin,
        beard=beard,
        moustache=moustache,
        lip_line=smooth_step(_both_sides(mean, at[[60, 61, 62]]), 0.0025, 0.0005),
        lower_face=smooth_step(mean[:, 1], at[29, 1] + 0.002, at[29, 1] - 0.002)
        * smooth_step(mean[:, 2], 0.022, 0.030)
        * smooth_step(mean[:, 1], at[8, 1] - 0.02, at[8, 1] - 0.012)
        * (1 - np.clip(2 * masks["ears"], 0, 1)),
        iris_rim=np.clip(4 * masks["iris"] * masks["sclera"], 0, 1),
        above_hairline=height_above_line(mean, HAIRLINE),
        normals=normals,
        waves=waves,
    )
    return _Places(*(np.asarray(value, np.float32) for value in places))


@functools.lru_cache(maxsize=1)
def _own_places() -> _Places:
    return _find_places(cc0_head.load())


def _places(head: Cc0Head) -> _Places:
    return _own_places() if head.mirror is cc0_head.load().mirror else _find_places(head)


def _mix(colours: np.ndarray, weight: np.ndarray, colour: np.ndarray) -> None:
    at = np.flatnonzero(weight > 0.004)
    colour = np.asarray(colour, np.float32)
    colours[at] += weight[at, None] * ((colour[at] if colour.ndim == 2 else colour) - colours[at])


def _pattern(head: Cc0Head, seed: int) -> np.ndarray:
    waves = _places(head).waves
    strengths = np.random.default_rng(seed).normal(0, 1, waves.shape[1]).astype(np.float32)
    return np.einsum("nk,k->n", waves, strengths)  # not by BLAS, whose threads wait for a busy core


def sky_visibility(head: Cc0Head) -> np.ndarray:
    """Share of a uniform sky that each vertex of the mean head sees, float32 [N] from 0 to 1."""
    return _places(head).occlusion


def hair_weight(head: Cc0Head, look: Look) -> np.ndarray:
    """Share of scalp hair at each vertex, float32 [N] from 0 to 1."""
    places = _places(head)
    skin = 1 - np.clip(2 * head.masks["ears"], 0, 1)
    if look.headwear == "cap":
        tilted = head.model.mean[1] - 0.052 - 0.12 * (head.model.mean[2] - 0.09)
        return (smooth_step(tilted, -0.001, 0.001) * (head.model.mean[1] > 0.02)).astype(np.float32)
    if look.headwear == "scarf":
        degrees = np.degrees(np.arctan2(np.abs(head.model.mean[0]), head.model.mean[2]))
        x, y, _ = head.model.mean
        outside = np.hypot(x / 0.064, (y + 0.025) / 0.083)
        return (np.maximum(smooth_step(outside, 0.97, 1.03), smooth_step(degrees, 60, 66))).astype(np.float32)
    ragged = 0.003 * _pattern(head, look.seed + 1)
    return smooth_step(places.above_hairline - look.hairline + ragged, -0.004, 0.004) * skin.astype(np.float32)


def hair_offset(head: Cc0Head, look: Look) -> np.ndarray:
    """Displacement of the surface by hair, beard, headwear or mask: float32 [N, 3], metres, model frame.

    It is no part of the face's shape and serves for drawing only.
    """
    places, weight = _places(head), hair_weight(head, look)
    if look.headwear:
        rise = weight * (0.010 + 0.5 * look.hair_volume)
    else:
        inside = smooth_step(places.above_hairline - look.hairline, -0.002, 0.03)
        bumps = 1 + 0.25 * _pattern(head, look.seed + 2)
        rise = weight * inside * bumps * look.hair_cover * look.hair_volume
    rise = rise + look.beard_length * places.beard * (look.beard > 0.45)
    if look.mask:
        rise = np.maximum(rise, 0.005 * places.lower_face)
    return rise[:, None] * places.normals


def vertex_colours(head: Cc0Head, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Colours and gloss of all vertices, for `rendering.shading.render`.

    Returns:
      colours float32 [N, 3], linear RGB from 0 to 1, darkened where little of the sky is seen; and gloss float32
      [N, 1], 1 for skin.
    """
    places, masks = _places(head), head.masks
    rng = np.random.default_rng(look.seed)
    noise = rng.normal(0, 1, len(places.nose)).astype(np.float32)
    pattern = _pattern(head, look.seed)
    reddish = 0.25 * places.cheeks + 0.35 * places.nose + 0.2 * masks["ears"] + 0.12 * places.under_eye
    blood = look.blood * (1 + reddish + 0.08 * look.mottling * pattern)
    spots = (rng.random(len(noise)) < 0.12) * min(look.freckles, 0.9) * np.clip(places.cheeks + places.nose, 0, 1)
    melanin = look.melanin * (1 + 0.07 * look.mottling * _pattern(head, look.seed + 3) + 0.02 * noise)
    melanin = melanin + 0.35 * spots + 0.10 * places.eye_socket * (0.4 + look.age) + 0.05 * places.under_eye
    colours = skin_colour(melanin, np.maximum(blood, 0.02)).astype(np.float32)
    colours *= (1 - 0.35 * look.age * places.folds)[:, None]
    lips = np.clip(1.4 * masks["lips"], 0, 1)
    own = skin_colour(0.7 * look.melanin + 0.05, look.blood + 0.55) * (1 + 0.05 * pattern)[:, None]
    _mix(colours, 0.9 * lips, own)
    _mix(colours, lips * look.lipstick, look.lips)
    inside = np.clip(2 * masks["mouth_inside"], 0, 1)
    _mix(colours, inside, np.array([0.16, 0.03, 0.03]))
    _mix(colours, masks["tongue"], np.array([0.35, 0.10, 0.09]))
    _mix(colours, masks["teeth"], np.array([0.62, 0.58, 0.48]))
    _mix(colours, 0.5 * places.lip_line * lips, own * 0.25)
    _mix(colours, 0.9 * places.nostrils, look.skin * 0.04)
    _paint_eyes(colours, places, masks, look)
    hairy = look.hair * np.clip(1 + 0.35 * noise, 0.3, 1.8)[:, None]
    brow = smooth_step(masks["brows"] + 0.04 * noise, 0.45 - 0.4 * look.brow_width, 0.65 - 0.3 * look.brow_width)
    _mix(colours, look.brow * brow, hairy * 0.7)
    fuzz = np.clip(1 + 0.3 * noise + 0.2 * pattern, 0.3, 1.4)
    _mix(colours, np.clip(look.beard * places.beard * fuzz, 0, 0.95), hairy)
    _mix(colours, np.clip(look.moustache * places.moustache * fuzz, 0, 0.95), hairy)
    cover = hair_weight(head, look)
    strands = np.clip(1 + 0.3 * noise + 0.3 * _pattern(head, look.seed + 4), 0.2, 2.0)[:, None]
    cloth = look.cloth * (1 + 0.04 * noise)[:, None]
    _mix(colours, cover if look.headwear else cover * look.hair_cover, cloth if look.headwear else look.hair * strands)
    if look.mask:
        _mix(colours, places.lower_face, np.clip(look.cloth * 1.5 + 0.1, 0, 0.8))
        cover = np.maximum(cover, places.lower_face)
    open_sky = 0.30 + 0.70 * places.occlusion
    colours *= (open_sky * (1 - 0.5 * inside))[:, None]
    eyes = np.clip(masks["sclera"] + masks["iris"] + masks["pupil"], 0, 1)
    gloss = 1 + 5 * eyes + lips * (0.8 + 2 * look.lipstick) + 0.5 * places.nose - 0.8 * cover
    gloss = np.where(look.mask * places.lower_face > 0.5, 0.1, gloss) * (1 - 0.7 * inside)
    return np.clip(colours, 0, 1), np.maximum(gloss, 0)[:, None].astype(np.float32)


def _paint_eyes(colours: np.ndarray, places: _Places, masks: dict[str, np.ndarray], look: Look) -> None:
    _mix(colours, masks["sclera"], np.array([0.50, 0.45, 0.42]))
    _mix(colours, masks["iris"], look.iris)
    _mix(colours, 0.7 * places.iris_rim, look.iris * 0.2)
    _mix(colours, masks["pupil"], np.array([0.004, 0.004, 0.004]))
    dark = look.hair * 0.15 + 0.004
    _mix(colours, look.makeup * 0.5 * np.clip(masks["eyelids"], 0, 1) * places.eye_socket, look.skin * 0.3)
    _mix(colours, (0.7 + 0.3 * look.makeup) * places.lashes, dark)
    _mix(colours, (0.15 + 0.45 * look.makeup) * places.lower_lashes, dark)
