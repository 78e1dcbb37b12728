#!/usr/bin/env bash
# Guess: `safetensors.numpy.save` writes the values of any NumPy array, or refuses one that is not contiguous.
# Behaviour: it writes the memory of a transposed array as if it were in C order. The shape is right, the values are at
#   other places, and nothing is reported.
# Versions: safetensors 0.8.0 (VERSION=... tries another), NumPy 2.4.6.
# Why it matters: networks that change from PyTorch's layout to JAX's are transposed. Their converted kernels become
#   noise in the file, and only a prediction shows it. `np.ascontiguousarray` before the save mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "safetensors==${VERSION:-0.8.0}" numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

torch_kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)  # out, in, height, width
kernel = torch_kernel.transpose(2, 3, 1, 0)
read = load(save({"kernel": kernel}))["kernel"]
copied = load(save({"kernel": np.ascontiguousarray(kernel)}))["kernel"]
print("shape kept:", read.shape == kernel.shape, "- values kept:", float((read == kernel).mean()))
print("values kept of a contiguous copy:", float((copied == kernel).mean()))
assert read.shape == kernel.shape and not (read == kernel).all(), "the values are right now"
assert (copied == kernel).all()
PYTHON
