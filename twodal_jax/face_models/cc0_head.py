"""The CC0 head: a morphable model made of MakeHuman's base mesh and targets, free of licences.

    head = cc0_head.load()
    head.model          # MorphableModel, like any other

Frame: metres, x to the right in the picture of a frontal face, y up, z to the viewer; the origin lies midway
between the ears at the height of the pupils. A shape coefficient of 1 is one standard deviation; the face at rest
has expression coefficients of 0. `docs/face-model.md` says how the model was made and whom it covers.

The file holds the head before its last subdivision, with directions as 16-bit integers; `load` subdivides it.
"""

from __future__ import annotations

import functools
import io
import pathlib
from typing import Any, NamedTuple

import numpy as np

from twodal_jax.face_models import face_units, subdivision
from twodal_jax.geometry import morphable_model
from twodal_jax.geometry.coefficients import NUM_SHAPE

FILE = pathlib.Path(__file__).parent / "data" / "cc0_head.npz"
_STEPS = 32767  # of a quantised direction
# Of `solve_activations`, choices of ours: they halve the number of acting units and raise the residual from 10 to 12 %.
_RIDGE, _SPARSITY, _SWEEPS = 1e-2, 5e-3, 200
# Stored to 4 digits and without a negative zero, so that the order of sums in BLAS does not change the file.
_ROUNDED = ("unit_coefficients", "expression_mean", "expression_std")


class Cc0Head(NamedTuple):
    """The head with everything that belongs to it. N vertices, T triangles, two for each quad.

    Attributes:
      model: the MorphableModel, whitened for `sampling.sample_alpha`.
      shape_std: float32 [40], standard deviations of the shape coefficients (1); their means are 0.
      expression_mean, expression_std: float32 [10], of random expressions.
      mirror: int64 [N], the vertex at the mirrored place.
      uv: float32 [T, 3, 2], MakeHuman's texture coordinates of each triangle's corners, u right, v up.
      masks: name -> float32 [N] from 0 to 1: lips, eyelids, ears, face, mouth_inside, sclera, iris, pupil, brows,
        scalp, teeth, tongue.
      units: float32 [52, 3, N], metres: the face units in the order of `face_units.UNIT_NAMES`.
      unit_coefficients: float32 [52, 10], the expression coefficients nearest to each unit.
    """

    model: morphable_model.MorphableModel
    shape_std: np.ndarray
    expression_mean: np.ndarray
    expression_std: np.ndarray
    mirror: np.ndarray
    uv: np.ndarray
    masks: dict[str, np.ndarray]
    units: np.ndarray
    unit_coefficients: np.ndarray

    @property
    def unit_names(self) -> tuple[str, ...]:
        """ARKit's names of the units."""
        return face_units.UNIT_NAMES


def pack(arrays: dict[str, Any]) -> bytes:
    """The content of the model file: a compressed .npz, the same bytes for the same arrays.

    Args:
      arrays: coarse head of N0 vertices and F faces, N vertices when refined: mean [N0, 3], basis [50, N0, 3], units
        [52, N0, 3], faces [F, 4], face_uv [F, 4, 2], mirror [N0], landmark_indices [68] of the refined head,
        masks name -> [N], unit_coefficients [52, 10], expression_mean and expression_std [10].
    """
    uv, face_uv = np.unique(arrays["face_uv"].reshape(-1, 2), axis=0, return_inverse=True)
    used = np.abs(arrays["units"]).max(axis=2) > 0
    units, unit_scale = _quantise(arrays["units"])
    basis, basis_scale = _quantise(arrays["basis"])
    masks = arrays["masks"]
    file = io.BytesIO()
    np.savez_compressed(
        file,
        mean=(np.round(arrays["mean"], 7) + 0.0).astype(np.float32),
        basis=basis,
        basis_scale=basis_scale,
        unit_starts=np.cumsum(used.sum(axis=1))[:-1].astype(np.int32),
        unit_vertices=np.nonzero(used)[1].astype(np.uint16),
        unit_offsets=units[used],
        unit_scale=unit_scale,
        faces=arrays["faces"].astype(np.uint16),
        uv=uv.astype(np.float32),
        face_uv=face_uv.reshape(-1, 4).astype(np.uint16),
        mirror=arrays["mirror"].astype(np.uint16),
        landmark_indices=arrays["landmark_indices"].astype(np.int32),
        mask_names=np.array(sorted(masks)),
        masks=np.stack([np.rint(np.clip(masks[name], 0, 1) * 255) for name in sorted(masks)]).astype(np.uint8),
        **{name: (np.round(arrays[name], 4) + 0.0).astype(np.float32) for name in _ROUNDED},
    )
    return file.getvalue()


def add_whitening(content: bytes, mean: np.ndarray, std: np.ndarray) -> bytes:
    """A model file's content with the mean and standard deviation [62] of alpha."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    file = io.BytesIO()
    rounded = (np.array([float(f"{value:.5g}") for value in values], np.float32) for values in (mean, std))
    np.savez_compressed(file, **arrays | dict(zip(("alpha_mean", "alpha_std"), rounded)))
    return file.getvalue()


def _quantise(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fields [K, N, 3] as int16 and the metres [K] of one step of each."""
    scale = np.maximum(np.abs(fields).max(axis=(1, 2)), 1e-12).astype(np.float32) / np.float32(_STEPS)
    return np.clip(np.rint(fields / scale[:, None, None]), -_STEPS, _STEPS).astype(np.int16), scale


def unpack(content: bytes) -> Cc0Head:
    """The head of a model file's content, subdivided."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    count = len(stored["mean"])
    refinement = subdivision.catmull_clark(stored["faces"].astype(np.int64), count)
    mirror = subdivision.refine_mirror(stored["mirror"].astype(np.int64), stored["faces"].astype(np.int64))
    mean = _refined(refinement, stored["mean"][None])[0]
    # Sums in another order differ in the last bit; with the mirror image added they are the same.
    mean = (mean + mean[:, mirror] * np.array([[-1], [1], [1]], np.float32)) / 2
    basis = stored["basis"].astype(np.float32) * stored["basis_scale"][:, None, None]
    quads = refinement.faces
    model = morphable_model.create(
        mean,
        _refined(refinement, basis),
        subdivision.triangulate(quads),
        stored["landmark_indices"],
        stored.get("alpha_mean"),
        stored.get("alpha_std"),
    )
    return Cc0Head(
        model=model,
        shape_std=np.ones(NUM_SHAPE, np.float32),
        expression_mean=stored["expression_mean"],
        expression_std=stored["expression_std"],
        mirror=mirror,
        uv=subdivision.triangulate(subdivision.refine_corners(stored["uv"][stored["face_uv"]])),
        masks={str(name): mask / np.float32(255) for name, mask in zip(stored["mask_names"], stored["masks"])},
        units=_refined(refinement, _unit_fields(stored, count)),
        unit_coefficients=stored["unit_coefficients"],
    )


def _unit_fields(stored: dict[str, np.ndarray], count: int) -> np.ndarray:
    fields = np.zeros((len(stored["unit_scale"]), count, 3), np.float32)
    vertices, offsets = (np.split(stored[key], stored["unit_starts"]) for key in ("unit_vertices", "unit_offsets"))
    for field, chosen, offset, scale in zip(fields, vertices, offsets, stored["unit_scale"]):
        field[chosen] = offset * scale
    return fields


def _refined(refinement: subdivision.Refinement, fields: np.ndarray) -> np.ndarray:
    """Fields [K, N0, 3] of the coarse head -> planes [K, 3, N] of the refined one, float32."""
    planes = np.swapaxes(fields, 1, 2).reshape(-1, fields.shape[1])
    refined = np.ascontiguousarray((refinement.matrix @ planes.T).T, np.float32)
    return refined.reshape(len(fields), 3, -1)


@functools.lru_cache(maxsize=1)
def load() -> Cc0Head:
    """The head of this package (once per process)."""
    return unpack(FILE.read_bytes())


def expression_coefficients(head: Cc0Head, activations: np.ndarray) -> np.ndarray:
    """Expression coefficients [..., 10] nearest to activations [..., 52] of the face units."""
    return (activations @ head.unit_coefficients).astype(np.float32)


def solve_activations(head: Cc0Head, expression: np.ndarray) -> np.ndarray:
    """Activations of the face units whose mesh is nearest to an expression's: [..., 10] -> float32 [..., 52].

    Least squares over all vertices with bounds 0 and 1, a small ridge and a small price for each acting unit (lasso),
    by coordinate descent over all expressions at once.
    """
    units = head.units.reshape(len(head.units), -1)
    directions = np.asarray(head.model.basis)[NUM_SHAPE:].reshape(head.unit_coefficients.shape[1], -1)
    gram = (units @ units.T).astype(np.float64)
    size = gram.diagonal()
    flat = np.asarray(expression, np.float64).reshape(-1, len(directions))
    length = np.sqrt(np.einsum("fk,kl,fl->f", flat, (directions @ directions.T).astype(np.float64), flat))
    wanted = flat @ (directions @ units.T).astype(np.float64) - _SPARSITY * length[:, None] * np.sqrt(size)
    found = np.zeros_like(wanted)
    for _ in range(_SWEEPS):
        before = found.copy()
        for k in range(len(units)):
            slope = wanted[:, k] - found @ gram[k] - _RIDGE * size[k] * found[:, k]
            found[:, k] = np.clip(found[:, k] + slope / ((1 + _RIDGE) * size[k]), 0, 1)
        if np.abs(found - before).max(initial=0) < 1e-4:
            break
    return found.astype(np.float32).reshape(*np.shape(expression)[:-1], len(units))


def head_of(triangles: np.ndarray) -> Cc0Head | None:
    """The head of this package if a mesh has its triangles [T, 3]."""
    head = load()
    return head if np.array_equal(triangles, head.model.triangles) else None
