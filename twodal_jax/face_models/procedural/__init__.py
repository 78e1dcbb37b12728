"""The built-in face: a 3D morphable model made by code, free of licences, no data file.

face = build_face_model()
face.model          # MorphableModel, like any other
"""

from twodal_jax.face_models.procedural.albedo import AVERAGE_LOOK, hair_offset, Look, sample_look, vertex_colours
from twodal_jax.face_models.procedural.expression_directions import EXPRESSION_NAMES
from twodal_jax.face_models.procedural.model import build_face_model, FaceModel
from twodal_jax.face_models.procedural.sampling import sample_alpha, sample_expression, sample_pose, sample_shape
from twodal_jax.face_models.procedural.shape_directions import SHAPE_NAMES

__all__ = [
    "AVERAGE_LOOK",
    "EXPRESSION_NAMES",
    "FaceModel",
    "Look",
    "SHAPE_NAMES",
    "build_face_model",
    "hair_offset",
    "sample_alpha",
    "sample_expression",
    "sample_look",
    "sample_pose",
    "sample_shape",
    "vertex_colours",
]
