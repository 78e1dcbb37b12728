"""The 68 landmarks (iBUG order) on MakeHuman's base mesh.

A landmark is a vertex of the mesh subdivided once: a vertex of the base mesh (one number), the point of an edge (its
two ends) or the point of a face (its four corners). Only the person's left half and the middle line are given;
the mirror table gives the other half. Lid points lie on the margins of the lids, 48 to 67 on the border of the
lips' colour and on the line between the lips, 0 to 16 where the field's annotations have the jaw: in front of the
ear, along the jaw's edge, under the chin.
"""

from __future__ import annotations

import numpy as np

from twodal_jax.face_models import subdivision
from twodal_jax.geometry import heatmap

LANDMARKS: dict[int, tuple[int, ...]] = {
    # jaw
    8: (732, 747),
    9: (7616, 7618),
    10: (10365, 10366),
    11: (7595, 7596),
    12: (7459, 7613, 7614, 7597),
    13: (7571,),
    14: (12356, 12347, 7564, 11712),
    15: (12333, 12332, 12032, 12023),
    16: (12362,),
    # brow
    22: (6980, 6997, 7006, 6983),
    23: (6996, 6997),
    24: (7004, 7002, 6996, 6998),
    25: (7004, 7005),
    26: (7031,),
    # nose
    27: (133,),
    28: (131, 5063),
    29: (291,),
    30: (297, 302),
    33: (317, 343),
    34: (7054, 7076),
    35: (7082, 7096),
    # lids
    42: (6847,),
    43: (11483,),
    44: (11466, 11467),
    45: (6805,),
    46: (7760,),
    47: (6831, 6834),
    # outer lips
    51: (455,),
    52: (7210, 7215),
    53: (7170,),
    54: (7162,),
    55: (7166,),
    56: (7235, 7241),
    57: (492,),
    # inner lips
    62: (468,),
    63: (7218,),
    64: (7249,),
    65: (7236, 7242),
    66: (493,),
}


def landmark_indices(
    landmarks: dict[int, tuple[int, ...]], vertex_ids: np.ndarray, faces: np.ndarray, refined_mirror: np.ndarray
) -> np.ndarray:
    """Vertices of the 68 landmarks in the mesh refined once, int32 [68].

    Args:
      landmarks: as `LANDMARKS`, numbers of the base mesh.
      vertex_ids: [N], the base numbers of the coarse vertices.
      faces: [F, 4], of the coarse mesh.
      refined_mirror: mirror pairs of the refined mesh.

    Raises:
      ValueError: a landmark is no vertex, edge or face of the mesh, or lacks its mirror image.
    """
    edges, _ = subdivision.edges_of(faces)
    vertices = {(int(base),): index for index, base in enumerate(vertex_ids)}
    offset = len(vertex_ids)
    points = vertices | {tuple(sorted(vertex_ids[edge])): offset + i for i, edge in enumerate(edges)}
    offset += len(edges)
    points |= {tuple(sorted(vertex_ids[face])): offset + i for i, face in enumerate(faces)}
    indices = np.full(68, -1, np.int32)
    for landmark, place in landmarks.items():
        index = points.get(tuple(sorted(place)))
        if index is None:
            raise ValueError(f"Landmark {landmark}: {place} is no vertex, edge or face of the mesh.")
        indices[landmark] = index
        indices[heatmap.MIRROR_68[landmark]] = refined_mirror[index]
    if (indices < 0).any() or not np.array_equal(refined_mirror[indices], indices[heatmap.MIRROR_68]):
        raise ValueError("Expected the middle landmarks on the middle line and one landmark of each left-right pair.")
    return indices
