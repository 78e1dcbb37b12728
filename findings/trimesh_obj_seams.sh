#!/usr/bin/env bash
# Guess: `trimesh.load(..., process=False)` keeps the vertices of an OBJ as the file lists them.
# Behaviour: a vertex with two texture coordinates becomes two, in the order of the faces, and vertices without a face
#   disappear; all later vertices move up. Only `maintain_order=True` keeps number and order, and then one of the two
#   texture coordinates is lost.
# Versions: trimesh 5.2.0 (VERSION=... tries another), NumPy 2.4.6.
# Why it matters: landmarks, correspondences and bases of a morphable model are indices of vertices. After a textured head
#   was read so, they point to other places, and no error is raised.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "trimesh==${VERSION:-5.2.0}" numpy==2.4.6 pillow==12.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import trimesh

HEAD = """
v 5 5 5
v 6 6 6
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vt 0.5 0.5
f 3/1 4/2 5/3
f 3/1 5/5 6/4
"""
CHIN = 5  # the last vertex of the file


def read(**options):
    loaded = trimesh.load(io.StringIO(HEAD), file_type="obj", process=False, **options)
    mesh = loaded if isinstance(loaded, trimesh.Trimesh) else next(iter(loaded.geometry.values()))
    return mesh.vertices.tolist()


plain, ordered = read(), read(maintain_order=True)
print("vertices in the file: 6; process=False:", len(plain), "- with maintain_order=True:", len(ordered))
print("place of vertex 5 of the file, [0, 1, 0]:", plain.index([0, 1, 0]), "and", ordered.index([0, 1, 0]))
assert [5, 5, 5] not in plain and plain.count([1, 1, 0]) == 2 and plain.index([0, 1, 0]) == 4
assert len(ordered) == 6 and ordered.index([0, 1, 0]) == CHIN
PYTHON
