#!/usr/bin/env bash
# Guess: a checkpoint whose data file has one changed bit is refused, by a checksum of Orbax, TensorStore or Zstandard.
# Behaviour: it is restored without an error or warning, with other numbers.
# Versions: orbax-checkpoint 0.12.8 (VERSION=... tries another), TensorStore 0.1.86, JAX 0.10.2.
# Why it matters: disks of a training run that lasts days do fail. A run that continues from such a state trains on, with
#   damaged weights. A hash of each array, kept beside the checkpoint, finds it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "orbax-checkpoint==${VERSION:-0.12.8}" tensorstore==0.1.86 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" 2> "$folder/messages" <<'PYTHON'
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp

folder = pathlib.Path(sys.argv[1]) / "state"
kernel = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, {"kernel": kernel})
    checkpointer.wait_until_finished()
data = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
content = data.read_bytes()
changed = 0
for place in range(len(content) // 3, len(content) // 3 + 200, 20):
    flipped = bytearray(content)
    flipped[place] ^= 1
    data.write_bytes(flipped)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = np.asarray(checkpointer.restore(folder, {"kernel": np.zeros_like(kernel)})["kernel"])
    changed += not np.array_equal(restored, kernel)
print(f"10 damaged files: {changed} restored with other numbers, without an error")
assert changed == 10
PYTHON
echo "lines of warnings: $(grep -ci 'warn\|corrupt\|checksum' "$folder/messages" || true)"
