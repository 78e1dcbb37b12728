"""The 52 face units with ARKit's names, and random plausible activations of them.

A unit is one blendshape with an activation from 0 (rest) to 1 (full). An expression is a vector [52] in the
order of `UNIT_NAMES`.
"""

from __future__ import annotations

import numpy as np

UNIT_NAMES: tuple[str, ...] = (
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight"),
    *("eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft"),
    *("eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight"),
    *("eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose"),
    *("mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft"),
    *("mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker"),
    *("mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft"),
    *("mouthUpperUpRight", "noseSneerLeft", "noseSneerRight", "tongueOut"),
)
INDEX = {name: index for index, name in enumerate(UNIT_NAMES)}

# How often a unit acts, in left-right pairs and single. Choice of ours: speech, smiles and raised brows are common.
_PAIR_SHARE = {
    "browDown": 0.20,
    "browOuterUp": 0.20,
    "cheekSquint": 0.10,
    "eyeSquint": 0.20,
    "eyeWide": 0.12,
    "mouthDimple": 0.10,
    "mouthFrown": 0.12,
    "mouthLowerDown": 0.15,
    "mouthPress": 0.10,
    "mouthSmile": 0.35,
    "mouthStretch": 0.12,
    "mouthUpperUp": 0.15,
    "noseSneer": 0.12,
}
_SINGLE_SHARE = {
    "browInnerUp": 0.20,
    "cheekPuff": 0.05,
    "jawForward": 0.08,
    "mouthFunnel": 0.10,
    "mouthPucker": 0.12,
    "mouthRollLower": 0.08,
    "mouthRollUpper": 0.08,
    "mouthShrugLower": 0.10,
    "mouthShrugUpper": 0.10,
}
_ONE_SIDED_SHARE = 0.12
_EYE_LOOK = (("eyeLookInLeft", "eyeLookOutRight"), ("eyeLookOutLeft", "eyeLookInRight"))  # to the right, to the left


def mirrored_name(name: str) -> str:
    """Name of the unit of the mirrored face: Left and Right exchanged."""
    if name.endswith("Left"):
        return name.removesuffix("Left") + "Right"
    return name.removesuffix("Right") + "Left" if name.endswith("Right") else name


MIRROR = np.array([INDEX[mirrored_name(name)] for name in UNIT_NAMES])


def sample_activations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random expressions, [count, 52] float64 from 0 to 1.

    Each unit or pair of units acts now and then, anywhere from little to full; the two sides mostly act
    together. Both eyes look the same way, `mouthClose` undoes a part of `jawOpen`, and the tongue needs an
    open jaw.
    """
    activation = np.zeros((count, len(UNIT_NAMES)))

    def worn(share: float) -> np.ndarray:
        return np.where(rng.random(count) < share, rng.uniform(0.05, 1.0, count), 0.0)

    for stem, share in _PAIR_SHARE.items():
        both = worn(share)
        weaker = np.clip(rng.normal(0.92, 0.08, count), 0, 1) * np.where(rng.random(count) < _ONE_SIDED_SHARE, 0.1, 1.0)
        left_is_weaker = rng.random(count) < 0.5
        activation[:, INDEX[stem + "Left"]] = both * np.where(left_is_weaker, weaker, 1.0)
        activation[:, INDEX[stem + "Right"]] = both * np.where(left_is_weaker, 1.0, weaker)
    for name, share in _SINGLE_SHARE.items():
        activation[:, INDEX[name]] = worn(share)
    jaw = np.where(rng.random(count) < 0.45, rng.beta(1.2, 2.2, count), 0.0)
    activation[:, INDEX["jawOpen"]] = jaw
    activation[:, INDEX["mouthClose"]] = jaw * worn(0.15)
    activation[:, INDEX["tongueOut"]] = np.where(jaw > 0.3, worn(0.06), 0.0)
    for left, right in (("jawLeft", "jawRight"), ("mouthLeft", "mouthRight")):
        signed = worn(0.10) * np.where(rng.random(count) < 0.5, 1, -1)
        activation[:, INDEX[left]], activation[:, INDEX[right]] = np.maximum(signed, 0), np.maximum(-signed, 0)
    _sample_eyes(rng, activation)
    return activation


def _sample_eyes(rng: np.random.Generator, activation: np.ndarray) -> None:
    count = len(activation)
    closed = np.where(rng.random(count) < 0.15, rng.uniform(0.2, 1.0, count), rng.beta(1.0, 12.0, count))
    wink = np.where(rng.random(count) < 0.03, rng.random(count), 1.0)
    winking_left = rng.random(count) < 0.5
    for side, here in (("Left", winking_left), ("Right", ~winking_left)):
        blink = closed * np.where(here, wink, 1.0)
        activation[:, INDEX["eyeBlink" + side]] = blink
        activation[:, INDEX["eyeWide" + side]] *= 1 - blink
    across, up = np.clip(rng.normal(0, 0.3, (2, count)), -1, 1)
    for names, amount in zip(_EYE_LOOK, (across, -across)):
        for name in names:
            activation[:, INDEX[name]] = np.maximum(amount, 0)
    for side in ("Left", "Right"):
        activation[:, INDEX["eyeLookUp" + side]] = np.maximum(up, 0)
        activation[:, INDEX["eyeLookDown" + side]] = np.maximum(-up, 0)
