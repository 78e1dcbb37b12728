"""Weights from 0 to 1 over the vertices: painted masks, and regions defined by places on the mean head.

Frame: that of the finished model (metres, origin between the ears at the height of the pupils).
"""

from __future__ import annotations

import numpy as np

from twodal_jax.face_models.appearance import HAIRLINE, height_above_line
from twodal_jax.face_models.makehuman import head as heads, source
from twodal_jax.rendering.shading import smooth_step

# Masks that MPFB paints in UV, by our names.
PAINTED = {"lips": "lips", "eyelids": "eyelids", "ears": "ears", "face": "face", "mouth_inside": "inside-mouth"}
_IRIS_DEGREES, _PUPIL_DEGREES, _RIM_DEGREES = 29.0, 11.0, 4.0
_BROW_BELOW, _BROW_INNER, _BROW_OUTER = 0.002, 0.0050, 0.0028  # below the landmarks; half widths
_HAIR_SOFTNESS = 0.006


def corner_mean(values: np.ndarray, faces: np.ndarray, num_vertices: int) -> np.ndarray:
    """Mean over the corners of each vertex: values [F, 4], faces [F, 4] -> [N]; 0 without faces."""
    total = np.bincount(faces.ravel(), values.ravel(), num_vertices)
    return total / np.maximum(np.bincount(faces.ravel(), minlength=num_vertices), 1)


def painted_masks(masks: dict[str, np.ndarray], faces: np.ndarray, uv: np.ndarray, num_vertices: int) -> dict:
    """The masks [H, W] of `PAINTED` at the vertices of the skin faces [F, 4] with corner uv [F, 4, 2]: name -> [N]."""
    return {name: corner_mean(source.sample_mask(mask, uv), faces, num_vertices) for name, mask in masks.items()}


def face_weight(mean: np.ndarray, skin: np.ndarray, mouth_inside: np.ndarray) -> np.ndarray:
    """[N]: 1 on the front of the face from chin to forehead, 0 behind the ears and inside the head."""
    _, y, z = mean.T
    front = smooth_step(z, 0.0, 0.06) * smooth_step(y, -0.14, -0.11) * smooth_step(y, 0.11, 0.06)
    return front * skin * (mouth_inside <= 0.5)


def eye_masks(mean: np.ndarray, eyes: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Sclera, iris and pupil, by the angle from the axis through the pupil; `eyes` are bool [N] each."""
    iris, pupil, white = (np.zeros(len(mean)) for _ in range(3))
    for eye in eyes:
        low, high = mean[eye].min(axis=0), mean[eye].max(axis=0)
        out = mean[eye] - (low + high) / 2
        degrees = np.degrees(np.arctan2(np.hypot(out[:, 0], out[:, 1]), out[:, 2]))
        within = [
            smooth_step(degrees, limit + _RIM_DEGREES, limit - _RIM_DEGREES)
            for limit in (_IRIS_DEGREES, _PUPIL_DEGREES)
        ]
        pupil[eye] = within[1]
        iris[eye] = within[0] - within[1]
        white[eye] = 1 - within[0]
    return {"sclera": white, "iris": iris, "pupil": pupil}


def brow_mask(mean: np.ndarray, brow: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Both brows along the five landmarks [5, 3] of the left one, from the inner to the outer end."""
    x, y, z = np.abs(mean[:, 0]), mean[:, 1], mean[:, 2]
    inner, outer = brow[0, 0], brow[-1, 0]
    along = (x - inner) / (outer - inner)
    middle = np.interp(x, brow[:, 0], brow[:, 1]) - _BROW_BELOW
    half = np.interp(along, [0, 1], [_BROW_INNER, _BROW_OUTER])
    ends = smooth_step(along, -0.12, 0.03) * smooth_step(along, 1.08, 0.9)
    across = smooth_step(np.abs(y - middle), 1.25 * half, 0.6 * half)
    return across * ends * skin * (z > brow[-1, 2] - 0.02)


def scalp_mask(mean: np.ndarray, skin: np.ndarray, ears: np.ndarray) -> np.ndarray:
    """The skin above a hairline that runs over the forehead, in front of the ears and around the nape."""
    height = height_above_line(mean, HAIRLINE)
    return smooth_step(height, -_HAIR_SOFTNESS, _HAIR_SOFTNESS) * skin * (1 - np.clip(2 * ears, 0, 1))


def all_masks(
    mean: np.ndarray, faces: np.ndarray, uv: np.ndarray, parts: np.ndarray, landmarks: np.ndarray, masks: dict
) -> dict[str, np.ndarray]:
    """Every mask of the refined head, name -> float64 [N].

    Args:
      mean: [N, 3].
      faces: [F, 4], vertices.
      uv: [F, 4, 2], at the corners of the faces.
      parts: [F] str, the group of each face.
      landmarks: [68], vertices.
      masks: name of `PAINTED` -> [H, W].
    """
    count = len(mean)

    def of(*names: str) -> np.ndarray:
        chosen = np.zeros(count, bool)
        chosen[faces[np.isin(parts, names)]] = True
        return chosen

    body = parts == "body"
    found = painted_masks(masks, faces[body], uv[body], count)
    skin = of("body") * (1.0 - np.clip(found["mouth_inside"], 0, 1))
    found |= eye_masks(mean, (of(heads.EYES[0]), of(heads.EYES[1])))
    found["brows"] = brow_mask(mean, mean[landmarks[22:27]], skin * (1 - np.clip(2 * found["eyelids"], 0, 1)))
    found["scalp"] = scalp_mask(mean, skin, found["ears"])
    found["teeth"], found["tongue"] = (of(*heads.TEETH).astype(float), of(heads.TONGUE).astype(float))
    return found
