"""Frames of exported meshes. Pure, NumPy on the host.

Both are right-handed with x to the right of a frontal face's picture, y UP and z towards the viewer, as
in glTF and Wavefront OBJ; a program with z up, such as Blender, rotates them on import.

  image: unit 1 pixel. The origin is the picture's bottom left CORNER (half a pixel beyond the centre of its last row's
      first pixel); z = 0 is an arbitrary depth. The picture as the rectangle from (0, 0) to (width, height) lies
      exactly under the face.
          x = x_image + 1/2,   y = height - 1/2 - y_image,   z = z_image
      In a GLB, a node above the faces scales pixels to metres, so that a head has its natural size.
      (x_image, y_image as in `detection.types.Face`: y down, the first pixel's centre at (0, 0)).
  model: pose removed, the morphable model's own frame and origin, in metres.

Triangles are the same in both. They are counter-clockwise seen from outside in the morphable model's frame and, because
y is up, in both exported frames; with a picture's y, which is down, they are clockwise.
"""

import numpy as np

from twodal_jax.geometry.morphable_model import OUTER_EYE_CORNERS

IMAGE, MODEL = "image", "model"
FRAMES = (IMAGE, MODEL)
_AXES = "x right, y up, z towards the viewer, right-handed"
OUTER_EYE_DISTANCE = 0.09  # between adults' outer eye corners, metres (about 85 to 100 mm)
# Units of face models, metres: micrometre (BFM 2009), millimetre, centimetre, decimetre, metre (FLAME).
KNOWN_UNITS = (1e-6, 1e-3, 1e-2, 1e-1, 1.0)
MAX_RATIO = 2.0  # of a face's eye distance to the usual one, or its inverse


class FrameError(ValueError):
    """An unknown frame, or an argument that the frame needs is missing."""


def metres_per_unit(landmarks_model: np.ndarray) -> float | None:
    """The unit of a morphable model in metres, from the size of its mean face; None if no known unit fits.

    landmarks_model: [68, 3], of the mean face, model frame (`MorphableModel.landmark_mean.T`).
    """
    landmarks = np.asarray(landmarks_model, np.float64)
    if landmarks.shape != (68, 3):
        raise FrameError(f"Expected `landmarks_model` of shape (68, 3), got {landmarks.shape}.")
    first, second = OUTER_EYE_CORNERS
    distance = np.linalg.norm(landmarks[first] - landmarks[second])
    for unit in KNOWN_UNITS:
        if 1 / MAX_RATIO < distance * unit / OUTER_EYE_DISTANCE < MAX_RATIO:
            return unit
    return None


def usual_unit(landmarks_model: np.ndarray) -> float:
    """The unit in metres that gives a mean face of any unit the usual eye distance; argument as `metres_per_unit`."""
    first, second = OUTER_EYE_CORNERS
    landmarks = np.asarray(landmarks_model, np.float64)
    return OUTER_EYE_DISTANCE / float(np.linalg.norm(landmarks[first] - landmarks[second]))


def to_export_frame(
    points: np.ndarray, frame: str, *, image_height: float | None = None, unit: float | None = None
) -> np.ndarray:
    """Points in an exported frame, float32 [..., P, 3]; their triangles stay unchanged.

    Args:
      points: [..., P, 3]. For "image": image pixels, y down. For "model": the morphable model's frame and
        unit (`morphable_model.vertices_model`).
      frame: "image" or "model".
      image_height: of the picture in pixels, for "image".
      unit: of the morphable model in metres, for "model" (`metres_per_unit`); None keeps an unknown unit.

    Raises:
      FrameError: the frame is unknown, the points are not [..., 3], or the picture's height is missing.
    """
    points = np.asarray(points, np.float64)
    if points.ndim < 1 or points.shape[-1] != 3:
        raise FrameError(f"Expected `points` of shape [..., P, 3], got {points.shape}.")
    if frame == MODEL:
        return (points * (1.0 if unit is None else unit)).astype(np.float32)
    if frame != IMAGE:
        raise FrameError(f"Unknown frame {frame!r}; expected one of {', '.join(FRAMES)}.")
    if image_height is None:
        raise FrameError("Frame 'image' needs `image_height`, the picture's height in pixels.")
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([x + 0.5, image_height - 0.5 - y, z], axis=-1).astype(np.float32)


def describe(frame: str, unit: float | None = None) -> str:
    """A one-line description of a file's coordinates; arguments as in `to_export_frame`."""
    if frame == IMAGE:
        return f"frame image: {_AXES}; unit pixel; origin at the picture's bottom left corner"
    if frame == MODEL:
        length = "the morphable model's, not known" if unit is None else "metre"
        return f"frame model: pose removed, the morphable model's axes and origin; {_AXES}; unit {length}"
    raise FrameError(f"Unknown frame {frame!r}; expected one of {', '.join(FRAMES)}.")
