"""Random colours of the face: skin, lips, brows, eyes, blush, freckles, beard, hair."""

from __future__ import annotations

from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from twodal_jax.face_models.procedural.bumps import step

if TYPE_CHECKING:
    from twodal_jax.face_models.procedural.model import FaceModel

# Skin from light to dark; red, green, blue, 0 to 1.
_SKINS = np.array(
    [
        [0.93, 0.76, 0.68],
        [0.88, 0.70, 0.59],
        [0.82, 0.63, 0.50],
        [0.72, 0.53, 0.40],
        [0.59, 0.41, 0.30],
        [0.46, 0.31, 0.22],
        [0.36, 0.24, 0.17],
    ]
)
_HAIRS = np.array(
    [
        [0.07, 0.06, 0.05],
        [0.13, 0.09, 0.06],
        [0.24, 0.15, 0.09],
        [0.36, 0.22, 0.12],
        [0.58, 0.43, 0.24],
        [0.52, 0.25, 0.12],
        [0.55, 0.54, 0.52],
    ]
)
_IRISES = np.array(
    [
        [0.16, 0.09, 0.05],
        [0.25, 0.15, 0.07],
        [0.33, 0.26, 0.14],
        [0.28, 0.36, 0.24],
        [0.26, 0.37, 0.46],
        [0.30, 0.34, 0.37],
    ]
)


class Look(NamedTuple):
    """Parameters of the colours of a face; a colour is red, green, blue from 0 to 1.

    Attributes:
      skin, hair, iris, lips: colours. brow: darkness of the brows, 0 to 1. brow_width: half thickness, millimetres.
      beard, moustache, blush, freckles, makeup, socket_shade: strengths, 0 to 1.
      hairline: downward shift of the hairline, millimetres. hair_cover: 0 is bald, 1 full hair.
      hair_volume: height of the hair above the head, millimetres. seed: of freckles and mottling.
    """

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    brow: float
    brow_width: float
    beard: float
    moustache: float
    blush: float
    freckles: float
    makeup: float
    socket_shade: float
    hairline: float
    hair_cover: float
    hair_volume: float
    seed: int


AVERAGE_LOOK = Look(
    skin=np.array([0.84, 0.65, 0.54]),
    hair=_HAIRS[2],
    iris=_IRISES[1],
    lips=np.array([0.70, 0.38, 0.36]),
    brow=0.8,
    brow_width=2.6,
    beard=0.0,
    moustache=0.0,
    blush=0.25,
    freckles=0.0,
    makeup=0.2,
    socket_shade=0.4,
    hairline=0.0,
    hair_cover=1.0,
    hair_volume=7.0,
    seed=0,
)


def sample_look(rng: np.random.Generator) -> Look:
    """Samples a look; dark skin mostly has dark hair and eyes."""
    tone = rng.uniform(0, len(_SKINS) - 1)
    low = min(int(tone), len(_SKINS) - 2)
    skin = _SKINS[low] + (tone - low) * (_SKINS[low + 1] - _SKINS[low])
    skin = np.clip(skin * rng.normal(1.0, 0.04) + rng.normal(0, 0.012, 3), 0.1, 0.97)
    dark = tone > 3.2 and rng.random() < 0.9
    hair = _HAIRS[rng.integers(2 if dark else len(_HAIRS))] * rng.uniform(0.8, 1.2)
    iris = _IRISES[rng.integers(2 if dark else len(_IRISES))] * rng.uniform(0.8, 1.2)
    redness = rng.uniform(0.25, 1.0)
    lips = skin * (np.array([0.92, 0.68, 0.68]) - 0.22 * redness * np.array([0.3, 1.0, 0.85]))
    bearded, painted = rng.random() < 0.3, rng.random() < 0.3
    bald = rng.random() < 0.12
    return Look(
        skin=skin,
        hair=np.clip(hair, 0, 0.9),
        iris=iris,
        lips=lips,
        brow=float(rng.uniform(0.6, 0.98)),
        brow_width=float(rng.uniform(1.6, 3.6)),
        beard=float(rng.uniform(0.1, 0.9)) if bearded else 0.0,
        moustache=float(rng.uniform(0.1, 0.9)) if bearded or rng.random() < 0.05 else 0.0,
        blush=float(rng.uniform(0, 0.6)),
        freckles=float(max(0, rng.normal(0.1, 0.25))),
        makeup=float(rng.uniform(0.3, 1.0)) if painted else float(rng.uniform(0, 0.3)),
        socket_shade=float(rng.uniform(0.3, 0.85)),
        hairline=float(rng.normal(2.0, 7.0)),
        hair_cover=0.15 if bald else 1.0,
        hair_volume=1.0 if bald else float(rng.uniform(2.0, 16.0)),
        seed=int(rng.integers(2**31)),
    )


def _mix(colours: np.ndarray, weight: np.ndarray, colour: np.ndarray) -> None:
    # Only the vertices of the region: most regions have a few per cent of all vertices.
    at = np.flatnonzero(weight > 0.002)
    colours[at] += weight[at, None] * (np.asarray(colour, np.float32) - colours[at])


def _paint_skin(colours: np.ndarray, face: FaceModel, look: Look, rng: np.random.Generator) -> None:
    r = face.regions
    skin = look.skin
    mottling = face.waves @ rng.normal(0, 1, face.waves.shape[1]).astype(np.float32)
    colours *= (1 + 0.02 * mottling)[:, None]
    red = np.clip(skin * np.array([1.02, 0.72, 0.70]), 0, 1)
    _mix(colours, look.blush * (0.5 * r["cheeks"] + 0.35 * r["nose"] + 0.4 * r["ear"]), red)
    _mix(
        colours,
        look.socket_shade * (0.65 * r["eye_socket"] + 0.4 * r["under_eye"]),
        skin * np.array([0.66, 0.56, 0.55]),
    )
    dots = rng.random(len(colours)) < 0.10
    freckles = min(look.freckles, 0.8) * dots * np.clip(r["cheeks"] + r["nose"], 0, 1)
    _mix(colours, freckles.astype(np.float32), skin * np.array([0.66, 0.52, 0.45]))
    _mix(
        colours,
        0.30 * r["fold"] + 0.30 * r["under_lip"] + 0.45 * r["nose_shadow"] + 0.35 * r["under_chin"],
        skin * np.array([0.55, 0.45, 0.43]),
    )
    grain = rng.normal(0, 0.25, len(colours)).astype(np.float32)
    fuzz = np.clip(1 + grain, 0.4, 1.4)
    _mix(colours, np.clip(look.beard * 0.75 * r["beard"] * fuzz, 0, 0.92), look.hair)
    _mix(colours, np.clip(look.moustache * 0.8 * r["moustache"] * fuzz, 0, 0.92), look.hair)


def _paint_mouth_and_nose(colours: np.ndarray, face: FaceModel, look: Look) -> None:
    r = face.regions
    _mix(colours, 0.95 * r["upper_lip"], look.lips * 0.90)
    _mix(colours, 0.95 * r["lower_lip"], look.lips)
    _mix(colours, r["mouth_inside"], np.array([0.17, 0.06, 0.06]))
    _mix(colours, 0.95 * r["teeth"], np.array([0.86, 0.83, 0.76]))
    _mix(colours, 0.75 * r["lip_line"] * (1 - r["teeth"]), look.lips * 0.35)
    _mix(colours, 0.85 * r["nostril"], look.skin * 0.22)


def _paint_eyes(colours: np.ndarray, face: FaceModel, look: Look) -> None:
    r = face.regions
    _mix(colours, 0.55 * r["lid_crease"], look.skin * 0.5)
    _mix(colours, r["eye"], np.array([0.74, 0.71, 0.69]))
    _mix(colours, r["tear_duct"], look.skin * np.array([0.95, 0.66, 0.62]))
    _mix(colours, r["iris"], look.iris)
    _mix(colours, 0.85 * r["iris_rim"], look.iris * 0.35)
    _mix(colours, r["pupil"], np.array([0.02, 0.02, 0.02]))
    _mix(colours, 0.5 * r["eye_shadow"], look.skin * 0.3)
    _mix(colours, (0.6 + 0.35 * look.makeup) * r["lashes"], np.array([0.06, 0.04, 0.04]))
    _mix(colours, (0.25 + 0.35 * look.makeup) * r["lower_lashes"], np.array([0.15, 0.10, 0.09]))


def brow_weight(face: FaceModel, look: Look) -> np.ndarray:
    """Share of brow at each vertex, float32 [N] from 0 to 1."""
    along = face.brow_along
    width = look.brow_width * (1.15 - 0.65 * np.clip(along, 0, 1) ** 1.5)
    ends = step(along, -0.06, 0.10) * step(along, 1.05, 0.80)
    return step(np.abs(face.brow_height), width + 0.9, width - 0.9) * ends


def hair_weight(face: FaceModel, look: Look) -> np.ndarray:
    """Share of hair at each vertex, float32 [N] from 0 to 1."""
    rng = np.random.default_rng(look.seed + 1)
    ragged = 2.5 * (face.waves @ rng.normal(0, 1, face.waves.shape[1]).astype(np.float32))
    return step(face.hair_height + look.hairline + ragged, -2.0, 3.0) * (1 - face.regions["ear"])


def vertex_colours(face: FaceModel, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Colours and gloss of all vertices, for `rendering.shading.render`.

    Returns:
      colours float32 [N, 3], red, green, blue from 0 to 1, and gloss float32 [N, 1] (1 for skin).
    """
    rng = np.random.default_rng(look.seed)
    colours = np.tile(look.skin.astype(np.float32), (len(face.brow_along), 1))
    _paint_skin(colours, face, look, rng)
    _paint_mouth_and_nose(colours, face, look)
    _paint_eyes(colours, face, look)
    _mix(colours, look.brow * brow_weight(face, look), look.hair * 0.8)
    hair = look.hair_cover * hair_weight(face, look)
    strands = 1 + 0.10 * rng.normal(0, 1, len(colours)).astype(np.float32)
    _mix(colours, hair, look.hair)
    colours *= (1 + hair * (strands - 1))[:, None]
    r = face.regions
    gloss = 1 + 3.5 * r["eye"] + 1.2 * r["lower_lip"] + 0.4 * r["nose"] - 0.7 * hair
    gloss = gloss * (1 - 0.9 * r["mouth_inside"])
    return np.clip(colours, 0, 1), gloss[:, None].astype(np.float32)


def hair_offset(face: FaceModel, look: Look) -> np.ndarray:
    """Displacement of the surface by hair: float32 [N, 3], model frame, millimetres.

    It is not part of the face's shape and is added only for rendering.
    """
    rise = step(face.hair_height + look.hairline, -1.0, 28.0) * hair_weight(face, look)
    return (rise * look.hair_cover * look.hair_volume)[:, None] * face.normals
