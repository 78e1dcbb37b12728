"""An image with its reconstructed faces, and intermediate results that several outputs share, computed on demand."""

import dataclasses
import functools

import numpy as np

from twodal_jax.detection.types import Face
from twodal_jax.export import frames
from twodal_jax.geometry import coefficients, morphable_model
from twodal_jax.geometry.morphable_model import MorphableModel


class Surface:
    """The parts of a morphable model that all faces share: triangles, UV map, mirror map, unit.

    Args:
      model: with its mesh.
      uv: [N, 2], v up, as in `rendering.uv`; default: MakeHuman's of the built-in head, else a cylindrical projection.
    """

    def __init__(self, model: MorphableModel, uv: np.ndarray | None = None):
        self.model = model
        self.triangles = np.asarray(model.triangles)
        self.landmark_indices = np.asarray(model.landmark_indices)
        self.mean = np.asarray(model.mean)
        self._uv = uv

    @functools.cached_property
    def uv_map(self):
        """`rendering.uv.UvMap`: the mesh with copies of the vertices at the texture's seams."""
        from twodal_jax.rendering import uv

        if self._uv is not None:
            return uv.split_seam(self._uv, self.triangles)
        if self._head is not None:
            return uv.of_corners(self._head.uv, self.triangles)
        return uv.split_seam(uv.cylinder_uv(self.mean, self.triangles), self.triangles)

    @functools.cached_property
    def _head(self):
        from twodal_jax.face_models import cc0_head

        return cc0_head.head_of(self.triangles)

    @functools.cached_property
    def morph_names(self) -> tuple[str, ...]:
        """Names of the K morph targets: ARKit's 52 of the built-in head, or the 10 expression directions."""
        if self._head is not None:
            return self._head.unit_names
        return tuple(f"expression_{n}" for n in range(coefficients.NUM_EXPRESSION))

    @functools.cached_property
    def morph_targets(self) -> np.ndarray:
        """float32 [K, M, 3], displacements of `uv_map`'s vertices at a weight of 1, model unit.

        A weight of 1 is a face unit's full activation, or one standard deviation of an expression coefficient.
        """
        if self._head is not None:
            fields = self._head.units
        else:
            fields = np.asarray(self.model.basis)[coefficients.NUM_SHAPE :] * self._expression_std[:, None, None]
        return np.ascontiguousarray(np.moveaxis(fields[:, :, self.uv_map.vertex], 1, 2), np.float32)

    def morph_weights(self, expression: np.ndarray) -> np.ndarray:
        """Expression coefficients [..., 10] -> weights [..., K] of the morph targets."""
        from twodal_jax.face_models import cc0_head

        if self._head is not None:
            return cc0_head.solve_activations(self._head, expression)
        return np.asarray(expression / self._expression_std, np.float32)

    @property
    def _expression_std(self) -> np.ndarray:
        return np.asarray(self.model.alpha_std)[-coefficients.NUM_EXPRESSION :]

    @functools.cached_property
    def mirror(self):
        """The mirror point of each vertex on the other side of the face (`rendering.symmetric_fill`)."""
        from twodal_jax.rendering.symmetric_fill import mirror_points

        return mirror_points(self.mean, self.triangles)

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """[N, 3], the vertices' PNCC."""
        from twodal_jax.rendering.maps import normalised_coordinates

        return normalised_coordinates(self.mean)

    @functools.cached_property
    def unit(self) -> float | None:
        """The morphable model's unit in metres, or None if unknown."""
        return frames.metres_per_unit(np.asarray(self.model.landmark_mean).T)

    @functools.cached_property
    def metres(self) -> float:
        """`unit`; if it is unknown, the unit that gives the mean face the usual eye distance."""
        return self.unit or frames.usual_unit(np.asarray(self.model.landmark_mean).T)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image and its faces.

    Attributes:
      name: of the image, for display.
      image: BGR uint8 [H, W, 3].
      faces: reconstructed.
      surface: of the morphable model.
      frame: of exported meshes, "image" or "model".
      texture_size: texels a side.
    """

    name: str
    image: np.ndarray
    faces: list[Face]
    surface: Surface
    frame: str = frames.IMAGE
    texture_size: int = 1024

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[:2]

    @functools.cached_property
    def vertices(self) -> np.ndarray:
        """All faces' vertices as one mesh [F N, 3], image pixels; `triangles` goes with it."""
        return np.concatenate([face.vertices for face in self.faces])

    @functools.cached_property
    def triangles(self) -> np.ndarray:
        """[F T, 3] into `vertices`."""
        count = len(self.surface.mean.T)
        return np.concatenate([self.surface.triangles + count * i for i in range(len(self.faces))])

    @functools.cached_property
    def fragments(self):
        """`rendering.rasterizer.Fragments` of all faces in the image."""
        from twodal_jax.rendering.rasterizer import rasterize

        return rasterize(self.vertices, self.triangles, *self.size)

    @functools.cached_property
    def landmarks_visible(self) -> list[np.ndarray]:
        """[68] booleans for each face: landmarks that its own surface does not hide."""
        from twodal_jax.rendering.landmarks import visible_landmarks

        surface = self.surface
        return [visible_landmarks(face.vertices, surface.triangles, surface.landmark_indices) for face in self.faces]

    @functools.cached_property
    def visibilities(self) -> list:
        """`rendering.texture.VertexVisibility` of each face."""
        from twodal_jax.rendering.texture import vertex_visibility

        return [vertex_visibility(face.vertices, self.surface.triangles) for face in self.faces]

    @functools.cached_property
    def textures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each face's texture, BGR uint8 [S, S, 3], and the source of each texel (`rendering.texture`)."""
        from twodal_jax.rendering.texture import uv_texture

        surface = self.surface
        return [
            uv_texture(
                self.image, face.vertices, surface.triangles, surface.uv_map, self.texture_size, surface.mirror, seen
            )
            for face, seen in zip(self.faces, self.visibilities)
        ]

    def exported(self, face: Face) -> np.ndarray:
        """[N, 3]: the face's vertices in the frame of exported files."""
        if self.frame == frames.MODEL:
            shape = np.asarray(morphable_model.vertices_model(self.surface.model, face.alpha))
            return frames.to_export_frame(shape, self.frame, unit=self.surface.unit)
        return frames.to_export_frame(face.vertices, self.frame, image_height=self.size[0])
