#!/usr/bin/env bash
# Guess: the same arrays and the same metadata give the same file.
# Behaviour: the order of the metadata's entries changes from process to process, so the bytes and every hash of the
#   file do, too. With one entry they are equal.
# Versions: safetensors 0.8.0 (VERSION=... tries another), NumPy 2.4.6.
# Why it matters: published weights are compared by their hash. A training run that repeats exactly seems not to.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "safetensors==${VERSION:-0.8.0}" numpy==2.4.6
cat > "$folder/hash.py" <<'PYTHON'
import hashlib
import sys

import numpy as np
from safetensors.numpy import save

entries = {f"key{i}": "value" for i in range(int(sys.argv[1]))}
print(hashlib.sha256(save({"kernel": np.zeros(4, np.float32)}, entries)).hexdigest())
PYTHON
count() { for _ in 1 2 3 4 5 6 7 8; do "$folder/venv/bin/python" "$folder/hash.py" "$1"; done | sort -u | wc -l; }
one=$(count 1)
six=$(count 6)
echo "different files of 8 processes: $one with one entry, $six with six entries"
test "$one" -eq 1
test "$six" -gt 1
