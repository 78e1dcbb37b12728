"""The data of a face in the viewer, and their conversion from a reconstruction. NumPy arrays on the host."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from twodal_jax.detection.types import Face
from twodal_jax.geometry import coefficients, morphable_model
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.rendering.uv import UvMap

# Largest distance between a mesh and its coefficients' shape in the fitted pose, as a share of the mesh's size.
_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class ViewerFace:
    """One face of the page. N vertices, T triangles, K directions of expression.

    Attributes:
      name: label of the face; any text.
      vertices_model: [N, 3], model frame: x right, y up, z towards the viewer; any unit.
      triangles: [T, 3] integers, 0-based, counter-clockwise seen from outside.
      expression_directions: [K, 3, N], displacement for one standard deviation of each expression coefficient; K may
        be 0.
      landmark_indices: [68] integers, vertices of the landmarks.
      pose_image: [3, 4], maps (x, y, z, 1) of the model frame to image pixels: x right, y down, z towards the viewer.
      roi_box: [4] sx, sy, ex, ey, image pixels (edges, see `projection`), drawn on the photo; or None.
      uv: [N, 2] from 0 to 1, v up, and texture: BGR uint8 [S, S, 3]; both or none.
      colours: BGR uint8 [N, 3], shown without a texture; None: a uniform clay colour.
      landmarks_visible: [68] booleans, False for hidden landmarks, drawn as rings; or None.
      expression_names: labels of the K sliders; missing ones are numbered.
      facts: label -> text, shown below the face.
    """

    name: str
    vertices_model: np.ndarray
    triangles: np.ndarray
    expression_directions: np.ndarray
    landmark_indices: np.ndarray
    pose_image: np.ndarray
    roi_box: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    colours: np.ndarray | None = None
    landmarks_visible: np.ndarray | None = None
    expression_names: Sequence[str] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def rotation(self) -> np.ndarray:
        """[3, 3] float64, the rotation nearest to the pose's, y up."""
        upwards = np.array([[1.0], [-1.0], [1.0]]) * np.asarray(self.pose_image, np.float64)[:, :3]
        left, _, right = np.linalg.svd(upwards)
        return left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right

    def check(self) -> None:
        """Raises ValueError for an invalid field; the message names it and what was expected."""
        num_vertices = len(self.vertices_model)
        expected = {
            "vertices_model": (num_vertices, 3),
            "triangles": (len(self.triangles), 3),
            "expression_directions": (len(self.expression_directions), 3, num_vertices),
            "landmark_indices": (68,),
            "pose_image": (3, 4),
            "roi_box": (4,),
            "uv": (num_vertices, 2),
            "colours": (num_vertices, 3),
            "landmarks_visible": (68,),
        }
        for field, shape in expected.items():
            value = getattr(self, field)
            if value is None:
                continue
            if np.shape(value) != shape:
                raise ValueError(f"`{field}` of a viewer's face: expected {shape}, got {np.shape(value)}.")
            if not np.isfinite(value).all():
                raise ValueError(f"`{field}` of a viewer's face has entries that are not finite.")
        for field in ("triangles", "landmark_indices"):
            index = getattr(self, field)
            if index.size and (index.min() < 0 or index.max() >= num_vertices):
                raise ValueError(f"`{field}` must lie in [0, {num_vertices}), got {index.min()} to {index.max()}.")
        if (self.uv is None) != (self.texture is None):
            raise ValueError("Give a viewer's face both `uv` and `texture`, or neither.")
        if self.uv is not None and (np.min(self.uv) < -1e-4 or np.max(self.uv) > 1 + 1e-4):
            raise ValueError(f"`uv` must lie in 0 to 1, got {np.min(self.uv):.3g} to {np.max(self.uv):.3g}.")
        if self.colours is not None and self.colours.dtype != np.uint8:
            raise ValueError(f"`colours` must be BGR uint8, got {self.colours.dtype}.")


def viewer_face(
    face: Face,
    model: MorphableModel,
    uv: np.ndarray | UvMap | None = None,
    texture: np.ndarray | None = None,
    name: str = "",
    *,
    colours: np.ndarray | None = None,
    landmarks_visible: np.ndarray | None = None,
    expression_names: Sequence[str] = (),
) -> ViewerFace:
    """The viewer's data of a reconstruction.

    Args:
      face: reconstructed with `model`.
      model: its whitening gives the unit of the sliders.
      uv: as in `ViewerFace`, or a `rendering.uv.UvMap` of the mesh.
      texture: as in `ViewerFace`.
      name: label of the face.
      colours: as in `ViewerFace`.
      landmarks_visible: as in `ViewerFace`.
      expression_names: of the model's 10 directions; missing ones are numbered.

    Raises:
      ValueError: the face's vertices are not those of `model` with the face's coefficients.
    """
    vertices = np.asarray(morphable_model.vertices_model(model, np.asarray(face.alpha, np.float32)))
    first = coefficients.NUM_COEFFICIENTS - coefficients.NUM_EXPRESSION
    std = np.asarray(model.alpha_std)[first:]
    directions = np.asarray(model.basis)[coefficients.NUM_SHAPE :] * std[:, None, None]
    triangles, vertex = np.asarray(model.triangles), slice(None)
    if isinstance(uv, UvMap):
        uv, triangles, vertex = uv
    pose = {"Yaw": face.pose.yaw, "Pitch": face.pose.pitch, "Roll": face.pose.roll}
    facts = {label: f"{value:+.0f}°".replace("-", "−") for label, value in pose.items()}
    return ViewerFace(
        name=name,
        vertices_model=vertices[vertex],
        triangles=triangles,
        expression_directions=directions[:, :, vertex],
        landmark_indices=np.asarray(model.landmark_indices),
        pose_image=_affine_map(vertices, np.asarray(face.vertices)),
        roi_box=np.asarray(face.roi_box),
        uv=uv,
        texture=texture,
        colours=None if colours is None else colours[vertex],
        landmarks_visible=landmarks_visible,
        expression_names=[text.replace("_", " ").capitalize() for text in expression_names],
        facts=facts | {"Confidence": f"{face.confidence:.2f}"},
    )


def _affine_map(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[3, 4] float64, the least-squares affine map from source [N, 3] to target [N, 3].

    A pose from the mesh itself is exact for every crop, box and roll.
    """
    if source.shape != target.shape:
        raise ValueError(f"The face has vertices of shape {target.shape}, its face model {source.shape}.")
    source, target = source.astype(np.float64), target.astype(np.float64)
    centre, size = source.mean(axis=0), source.std()
    normal = np.column_stack([(source - centre) / size, np.ones(len(source))])
    solution = np.linalg.lstsq(normal, target, rcond=None)[0].T
    error = np.sqrt(np.mean((normal @ solution.T - target) ** 2))
    if not error <= _TOLERANCE * target.std():
        raise ValueError(
            "The face's vertices are not its coefficients' shape in any pose: "
            f"root mean square {error:.3g} pixels apart. It may be of another face model; give the right one."
        )
    linear = solution[:, :3] / size
    return np.column_stack([linear, solution[:, 3] - linear @ centre])
