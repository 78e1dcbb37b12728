"""Shape: forty displacement fields in millimetres, each one standard deviation."""

from __future__ import annotations

import numpy as np

from twodal_jax.face_models.procedural.bumps import both, bump, step
from twodal_jax.face_models.procedural.features import FacePlan, nose_relief

# In descending order of size after orthogonalisation in this order.
SHAPE_NAMES: tuple[str, ...] = (
    "face_height",
    "head_depth",
    "face_width",
    "crown_height",
    "forehead_slope",
    "cheek_fullness",
    "lower_face_height",
    "chin_forward",
    "midface_depth",
    "jaw_shift",
    "jaw_width",
    "neck_width",
    "cheekbone_width",
    "cheek_asymmetry",
    "ear_flare",
    "nose_length",
    "mouth_height",
    "eye_depth",
    "brow_height",
    "temple_width",
    "lip_protrusion",
    "eye_distance",
    "chin_length",
    "brow_ridge",
    "chin_width",
    "mouth_width",
    "jowls",
    "nose_bend",
    "brow_slant",
    "nose_width",
    "eye_size",
    "nose_bridge",
    "nose_projection",
    "mouth_slant",
    "eye_level",
    "lower_lip_thickness",
    "upper_lip_thickness",
    "eye_tilt",
    "nose_tip_tilt",
    "nostril_flare",
)


def _head_fields(p: FacePlan, x, y, z, sign, front) -> dict[str, tuple]:
    jaw = step(z, -20.0, 25.0) * step(p.ring, 15.0, 12.8)
    return {
        "face_height": (0, 0.048 * y, 0),
        "face_width": (0.046 * x, 0, 0),
        "head_depth": (0, 0, 0.045 * (z - 60.0)),
        "crown_height": (0, 7.0 * step(y, 35.0, 118.0), 0),
        "forehead_slope": (0, 0, -6.0 * step(y, 24.0, 100.0) * front),
        "temple_width": (3.4 * sign * bump(y, z, 26.0, 20.0, 22.0, 45.0), 0, 0),
        "neck_width": (0.06 * x * step(p.ring, 12.5, 14.5), 0, 0.06 * z * step(p.ring, 12.5, 14.5)),
        "ear_flare": (5.0 * sign * bump(y, z, -8.0, -18.0, 22.0, 12.0) * step(p.side, 50, 66), 0, 0),
        "jaw_width": (4.2 * sign * bump(y, z, -74.0, 22.0, 22.0, 38.0) * step(p.side, 8, 45), 0, 0),
        "lower_face_height": (0, -4.5 * step(y, -40.0, -105.0) * jaw, 0),
        "jaw_shift": (2.6 * step(y, -35.0, -105.0) * jaw, 0, 0),
        "chin_forward": (0, 0, 5.0 * bump(x, y, 0.0, -99.0, 26.0, 17.0) * jaw),
        "chin_width": (3.6 * np.tanh(x / 24.0) * bump(x, y, 0.0, -100.0, 34.0, 13.0) * jaw, 0, 0),
        "chin_length": (0, -4.5 * bump(x, y, 0.0, -106.5, 24.0, 13.0) * jaw, 0),
        "jowls": (
            2.2 * sign * both(x, y, 40.0, -84.0, 12.0, 11.0) * jaw,
            -1.5 * both(x, y, 40.0, -84.0, 12.0, 11.0) * jaw,
            0,
        ),
    }


def _cheek_and_eye_fields(p: FacePlan, x, y, z, sign, front) -> dict[str, tuple]:
    cheek = both(x, y, 46.0, -46.0, 17.0, 20.0) * front
    bone = both(x, y, 60.0, -18.0, 16.0, 15.0) * front
    eye = both(x, y, 31.5, 0.0, 17.0, 10.0, 3.0) * front
    orbit = both(x, y, 31.5, 2.0, 19.0, 14.0) * front
    brow = both(x, y, 33.0, 22.0, 21.0, 9.0) * front
    return {
        "cheek_fullness": (3.4 * sign * cheek, 0, 3.0 * cheek),
        "cheek_asymmetry": (1.2 * cheek, 0, 1.8 * sign * cheek),
        "midface_depth": (0, 0, 3.4 * bump(x, y, 0.0, -26.0, 42.0, 26.0) * front),
        "cheekbone_width": (3.2 * sign * bone, 0, 2.0 * bone),
        "brow_ridge": (0, 0, 3.2 * both(x, y, 26.0, 18.0, 22.0, 8.0) * front),
        "brow_height": (0, 3.2 * brow, 0),
        "brow_slant": (0, 0.05 * x * brow, 0),
        "eye_distance": (2.4 * sign * orbit * step(p.side, 2.0, 16.0), 0, 0),
        "eye_depth": (0, 0, -2.8 * orbit),
        "eye_size": (0.10 * sign * p.eye_x * eye, 0.20 * p.eye_y * eye, 0),
        "eye_tilt": (0, 0.075 * p.eye_x * eye, 0),
        "eye_level": (0, 0.9 * sign * orbit, 0),
    }


def _nose_and_mouth_fields(p: FacePlan, x, y, z, sign, front) -> dict[str, tuple]:
    nose = nose_relief(p) * front
    tip = bump(x, y, 0.0, -38.0, 15.0, 10.0) * front
    wings = both(x, y, 13.0, -40.0, 8.0, 9.0) * front * step(p.side, 1.0, 10.0)
    stretch = step(y, 4.0, -38.0) * step(y, -64.0, -46.0) * np.exp(-0.5 * (x / 15.0) ** 2) * front
    mouth = bump(x, p.lip_y, 0.0, 0.0, 27.0, 13.0, 2.6) * front
    upper = bump(x, p.lip_y, 0.0, 7.5, 17.0, 2.9) * front * (p.pocket > 1)
    lower = bump(x, p.lip_y, 0.0, -9.5, 17.0, 3.6) * front * (p.pocket < -1)
    return {
        "nose_length": (0, -3.8 * stretch, 0),
        "nose_projection": (0, 0, 0.11 * nose),
        "nose_width": (2.2 * sign * both(x, y, 13.0, -34.0, 9.0, 16.0) * front * step(p.side, 0.0, 13.0), 0, 0),
        "nose_bridge": (0, 0, 3.0 * bump(x, y, 0.0, -4.0, 8.0, 13.0) * front),
        "nose_tip_tilt": (0, 3.2 * tip, 0.6 * tip),
        "nose_bend": (2.2 * bump(x, y, 0.0, -32.0, 14.0, 15.0) * front, 0, 0),
        "nostril_flare": (1.4 * sign * wings, 1.2 * wings, 0),
        "mouth_width": (3.2 * np.clip(x / 24.0, -1.2, 1.2) * mouth, 0, 0),
        "mouth_height": (0, 2.6 * bump(x, p.lip_y, 0.0, 0.0, 34.0, 13.0) * front, 0),
        "mouth_slant": (0, 0.055 * x * mouth, 0),
        "lip_protrusion": (0, 0, 3.0 * bump(x, p.lip_y, 0.0, -1.0, 22.0, 10.0) * front),
        "upper_lip_thickness": (0, 2.0 * upper, 1.2 * bump(x, p.lip_y, 0.0, 4.0, 15.0, 3.2) * front * (p.pocket >= 0)),
        "lower_lip_thickness": (
            0,
            -2.3 * lower,
            1.4 * bump(x, p.lip_y, 0.0, -5.0, 15.0, 3.6) * front * (p.pocket <= 0),
        ),
    }


def shape_fields(plan: FacePlan, neutral: np.ndarray) -> np.ndarray:
    """Displacement fields in the order of SHAPE_NAMES: float64 [40, 3, N], millimetres."""
    x, y, z = neutral.T
    # Smooth across the middle of the face, so that fields have no jump there.
    sign = np.tanh(x / 6.0)
    arguments = (plan, x, y, z, sign, plan.front)
    fields = {**_head_fields(*arguments), **_cheek_and_eye_fields(*arguments), **_nose_and_mouth_fields(*arguments)}
    return np.stack(
        [np.stack([np.broadcast_to(np.asarray(v, float), x.shape) for v in fields[name]]) for name in SHAPE_NAMES]
    )
