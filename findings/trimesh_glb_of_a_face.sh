#!/usr/bin/env bash
# Guess: a textured face written to GLB by trimesh shows its texture as it is, and a face with morph targets that trimesh
#   reads and writes again still has them.
# Behaviour: trimesh gives the material a base colour of 0.4 grey, by which viewers multiply the texture, and no word of
#   `metallicFactor`, whose default in glTF is 1: the face is dark metal. Morph targets and their names are dropped at the
#   reading, without a message.
# Versions: trimesh 5.2.0 (VERSION=... tries another), NumPy 2.4.6, Pillow 12.3.0.
# Why it matters: it is the usual way from a reconstruction to a file, and from a file with expressions to a smaller one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "trimesh==${VERSION:-5.2.0}" numpy==2.4.6 pillow==12.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import json
import struct

import numpy as np
import trimesh
from PIL import Image


def split(glb):
    length = struct.unpack("<I", glb[12:16])[0]
    return json.loads(glb[20 : 20 + length]), glb[20 + length + 8 :]


def joined(document, binary):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(binary)
    return b"glTF" + struct.pack("<III", 2, size, len(text)) + b"JSON" + text + struct.pack("<I", len(binary)) + b"BIN\0" + binary


picture = Image.new("RGB", (4, 4), (200, 150, 120))
visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [0, 1]], image=picture)
face = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], visual=visual, process=False)
document, binary = split(face.export(file_type="glb"))
material = document["materials"][0]["pbrMetallicRoughness"]
print("base colour:", material["baseColorFactor"], "- metallic factor:", material.get("metallicFactor", "missing, so 1"))

smile = np.float32([[0, 0, 0], [0, 0.1, 0], [0, 0, 0]]).tobytes()
document["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(smile)})
document["accessors"].append(
    {"bufferView": len(document["bufferViews"]) - 1, "componentType": 5126, "count": 3, "type": "VEC3",
     "min": [0, 0, 0], "max": [0, 0.1, 0]}
)
mesh = document["meshes"][0]
mesh["primitives"][0]["targets"] = [{"POSITION": len(document["accessors"]) - 1}]
mesh |= {"weights": [0.0], "extras": {"targetNames": ["mouthSmile"]}}
document["buffers"][0]["byteLength"] = len(binary) + len(smile)
with_target = joined(document, binary + smile)
again, _ = split(trimesh.load(io.BytesIO(with_target), file_type="glb").export(file_type="glb"))
kept = "targets" in again["meshes"][0]["primitives"][0]
print("morph targets before: 1, after reading and writing:", int(kept))
assert np.allclose(material["baseColorFactor"][:3], 0.4) and "metallicFactor" not in material
assert not kept
PYTHON
