"""What the viewer shows of a face, and how it is made from a reconstruction. NumPy arrays on the host."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from twodal_jax.detection.types import Face
from twodal_jax.geometry import coefficients, morphable_model
from twodal_jax.geometry.morphable_model import MorphableModel

# Of the distance between a mesh and its own shape in its own pose, as a share of the mesh's size.
_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class ViewerFace:
    """One face of the page. N vertices, T triangles, K directions of expression.

    Attributes:
      name: shown where faces are chosen; any text.
      vertices_model: [N, 3], the reconstruction, model frame: x right, y up, z towards the viewer; any unit.
      triangles: [T, 3] integers, 0-based, counter-clockwise seen from outside.
      expression_directions: [K, 3, N], what one standard deviation of each expression coefficient adds to
        the vertices; K may be 0.
      landmark_indices: [68] integers, vertices of the landmarks.
      pose_image: [3, 4], takes (x, y, z, 1) of the model frame to image pixels: x right, y down, z towards
        the viewer.
      roi_box: [4] sx, sy, ex, ey, image pixels (edges, see `projection`), drawn on the photo; or None.
      uv: [N, 2] from 0 to 1, v up, and texture: BGR uint8 [S, S, 3]; both or none.
      colours: BGR uint8 [N, 3], shown where there is no texture; or None: plain clay.
      landmarks_visible: [68] booleans, False for those drawn as rings because the face hides them; or None.
      expression_names: K labels of the sliders; those that are missing are numbered.
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
        """Raises ValueError, which names the field, what is wrong with it and what was expected."""
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
    uv: np.ndarray | None = None,
    texture: np.ndarray | None = None,
    name: str = "",
    *,
    colours: np.ndarray | None = None,
    landmarks_visible: np.ndarray | None = None,
    expression_names: Sequence[str] = (),
) -> ViewerFace:
    """A reconstruction as the page shows it.

    Args:
      face: what was reconstructed with `procedural.model`, whose whitening gives the sliders their unit.
      uv, texture, colours, landmarks_visible: as in `ViewerFace`.
      name: shown where faces are chosen.
      expression_names: of the model's 10 directions, such as `procedural.EXPRESSION_NAMES`.

    Raises:
      ValueError: the face's vertices are not those of `procedural.model` with the face's coefficients.
    """
    vertices = np.asarray(morphable_model.vertices_model(model, np.asarray(face.alpha, np.float32)))
    first = coefficients.NUM_COEFFICIENTS - coefficients.NUM_EXPRESSION
    std = np.asarray(model.alpha_std)[first:]
    directions = np.asarray(model.basis)[coefficients.NUM_SHAPE :] * std[:, None, None]
    pose = {"Yaw": face.pose.yaw, "Pitch": face.pose.pitch, "Roll": face.pose.roll}
    facts = {label: f"{value:+.0f}°".replace("-", "−") for label, value in pose.items()}
    return ViewerFace(
        name=name,
        vertices_model=vertices,
        triangles=np.asarray(model.triangles),
        expression_directions=directions,
        landmark_indices=np.asarray(model.landmark_indices),
        pose_image=_affine_map(vertices, np.asarray(face.vertices)),
        roi_box=np.asarray(face.roi_box),
        uv=uv,
        texture=texture,
        colours=colours,
        landmarks_visible=landmarks_visible,
        expression_names=[text.replace("_", " ").capitalize() for text in expression_names],
        facts=facts | {"Confidence": f"{face.confidence:.2f}"},
    )


def _affine_map(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[3, 4] float64, the affine map of least squares from source [N, 3] to target [N, 3].

    Taken from the mesh itself, the pose is exact in whatever crop, box and turn the face was found.
    """
    if source.shape != target.shape:
        raise ValueError(f"The face has vertices of shape {target.shape}, the face model {source.shape}.")
    source, target = source.astype(np.float64), target.astype(np.float64)
    centre, size = source.mean(axis=0), source.std()
    normal = np.column_stack([(source - centre) / size, np.ones(len(source))])
    solution = np.linalg.lstsq(normal, target, rcond=None)[0].T
    error = np.sqrt(np.mean((normal @ solution.T - target) ** 2))
    if not error <= _TOLERANCE * target.std():
        raise ValueError(
            "The face's vertices are not its coefficients' shape in any pose: "
            f"root mean square {error:.3g} pixels apart. Was it reconstructed with another face model?"
        )
    linear = solution[:, :3] / size
    return np.column_stack([linear, solution[:, 3] - linear @ centre])
