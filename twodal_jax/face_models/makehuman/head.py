"""The head cut out of MakeHuman's body: which faces and vertices, their mirror pairs, the frame.

The cut is a loop of edges around the middle of the neck. Eyeballs, teeth and tongue are closed parts of
their own; everything is symmetric.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twodal_jax.face_models import subdivision
from twodal_jax.face_models.makehuman.source import BaseMesh

EYES = ("helper-l-eye", "helper-r-eye")
TEETH = ("helper-upper-teeth", "helper-lower-teeth")
TONGUE = "helper-tongue"
PARTS = ("body", *EYES, *TEETH, TONGUE)
# An edge of the middle line in front of the neck, upper end first; the cut goes through its lower end.
CUT_EDGE = (815, 1522)
NOSE_TIP = 5134
METRES = 0.1  # a decimetre
# Teeth and tongue are set back and narrowed, in decimetres and as a factor, so that no mouth at rest shows them.
_SET_BACK, _NARROWED = 0.025, 0.9


class Head(NamedTuple):
    """The coarse head. Vertices are renumbered; order as in the base mesh.

    Attributes:
      vertex_ids: [N] int64, their numbers in the base mesh. faces: [F, 4] int64. face_uv: [F, 4, 2].
      mirror: [N] int64. parts: [F] str, the group of each face.
    """

    vertex_ids: np.ndarray
    faces: np.ndarray
    face_uv: np.ndarray
    mirror: np.ndarray
    parts: np.ndarray


def edge_ring(faces: np.ndarray, start: tuple[int, int]) -> list[tuple[int, int]]:
    """The edges met by walking from edge `start` straight across quads until it is reached again.

    Raises:
      ValueError: the walk leaves the mesh.
    """
    faces_of: dict[frozenset, list[int]] = {}
    for index, face in enumerate(faces.tolist()):
        for a, b in zip(face, face[1:] + face[:1]):
            faces_of.setdefault(frozenset((a, b)), []).append(index)
    ring, edge, face = [start], start, faces_of[frozenset(start)][0]
    while True:
        corners = faces[face].tolist()
        place = corners.index(edge[0])
        step = -1 if corners[(place + 1) % 4] == edge[1] else 1
        edge = (corners[(place + step) % 4], corners[(place + 2) % 4])
        if set(edge) == set(start):
            return ring
        ring.append(edge)
        others = [index for index in faces_of[frozenset(edge)] if index != face]
        if not others:
            raise ValueError(f"Expected a closed ring of quads from edge {start}, reached the boundary.")
        face = others[0]


def faces_above(faces: np.ndarray, loop: np.ndarray, inside: int) -> np.ndarray:
    """Faces, as bool [F], on the side of a closed loop of vertices where the vertex `inside` is."""
    on_loop = np.zeros(faces.max() + 1, bool)
    on_loop[loop] = True
    reached = np.zeros(len(on_loop), bool)
    reached[inside] = True
    while True:
        # A face spreads from its vertices off the loop only, so that nothing crosses it.
        chosen = (reached[faces] & ~on_loop[faces]).any(axis=1)
        before = reached.sum()
        reached[faces[chosen]] = True
        if reached.sum() == before:
            return chosen


def close_strip(faces: np.ndarray, vertices: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Quads [K, 4] that close the one boundary loop of a symmetric strip, zipped across its shorter way."""
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    edges, inverse, uses = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True, return_counts=True)
    following = {int(b): int(a) for a, b in ends[uses[inverse.ravel()] == 1]}  # against the faces' direction
    loop = [min(following)]
    while following[loop[-1]] != loop[0]:
        loop.append(following[loop[-1]])
    loop, half = np.array(loop), len(following) // 2
    best, best_length = None, np.inf
    for turn in range(half):
        turned = np.roll(loop, -turn)
        one, other = turned[:half], turned[half:][::-1]
        symmetric = {frozenset(pair) for pair in zip(one, other)} == {
            frozenset(pair) for pair in zip(mirror[one], mirror[other])
        }
        length = np.linalg.norm(vertices[one] - vertices[other], axis=1).sum()
        if symmetric and length < best_length:
            best, best_length = np.stack([one[:-1], one[1:], other[1:], other[:-1]], axis=1), length
    if best is None:
        raise ValueError("Expected a strip whose boundary is symmetric, found no symmetric way to close it.")
    return best


def cut_head(mesh: BaseMesh, cut_edge: tuple[int, int] = CUT_EDGE, nose_tip: int = NOSE_TIP) -> Head:
    """The faces of the head and its inner parts, with vertices renumbered.

    Args:
      mesh: the base mesh.
      cut_edge: an edge across the cut, its end away from the head second.
      nose_tip: a vertex of the head.

    Raises:
      ValueError: the mesh has no closed ring of quads there, or is not symmetric.
    """
    body = mesh.faces[mesh.groups == "body"]
    loop = np.array([lower for _, lower in edge_ring(body, cut_edge)])
    faces, uv, parts = [], [], []
    for part in PARTS:
        chosen = np.flatnonzero(mesh.groups == part)
        if part == "body":
            chosen = chosen[faces_above(body, loop, nose_tip)]
        part_faces, part_uv = mesh.faces[chosen], mesh.uv[mesh.face_uv[chosen]]
        if part in TEETH:
            lid = close_strip(part_faces, mesh.vertices, mesh.mirror)
            uv_of = dict(zip(part_faces.ravel().tolist(), part_uv.reshape(-1, 2)))
            part_uv = np.concatenate([part_uv, [[uv_of[vertex] for vertex in face] for face in lid.tolist()]])
            part_faces = np.concatenate([part_faces, lid])
        faces.append(part_faces)
        uv.append(part_uv)
        parts += [part] * len(part_faces)
    faces = np.concatenate(faces)
    vertex_ids = np.unique(faces)
    number = np.full(len(mesh.vertices), -1)
    number[vertex_ids] = np.arange(len(vertex_ids))
    head = Head(vertex_ids, number[faces], np.concatenate(uv), number[mesh.mirror[vertex_ids]], np.array(parts))
    subdivision.refine_mirror(head.mirror, head.faces)  # raises where the mesh is not symmetric
    return head


def part_vertices(head: Head, *parts: str) -> np.ndarray:
    """Vertices of the given parts, bool [N]."""
    chosen = np.zeros(len(head.vertex_ids), bool)
    chosen[head.faces[np.isin(head.parts, parts)]] = True
    return chosen


def mirrored(fields: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """The mirror image of fields over the vertices, [..., N, 3]: x changes its sign."""
    return fields[..., mirror, :] * np.array([-1.0, 1.0, 1.0])


def set_teeth_back(vertices: np.ndarray, head: Head) -> np.ndarray:
    """Base vertices [N, 3] with teeth and tongue moved away from the lips."""
    moved = vertices.copy()
    chosen = head.vertex_ids[part_vertices(head, *TEETH, TONGUE)]
    moved[chosen] = moved[chosen] * [_NARROWED, 1, 1] - [0, 0, _SET_BACK]
    return moved
