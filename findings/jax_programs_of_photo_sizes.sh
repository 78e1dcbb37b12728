#!/usr/bin/env bash
# Guess: a jitted function that gets photos of many sizes costs a compilation each, and `jax.clear_caches()` gives the
#   memory of the compiled programs back.
# Behaviour: each size of a small resize keeps about 2.5 MB, without a limit: 150 sizes take hundreds of MB. After
#   `jax.clear_caches()` the process is hardly smaller, though later programs take the freed room.
# Versions: JAX 0.10.2 (VERSION=... tries another), on CPUs with Linux.
# Why it matters: photos of users have thousands of sizes. A server that resizes them in JAX grows until it is killed.
#   Cropping to one size with OpenCV first keeps one program.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "jax==${VERSION:-0.10.2}" "jaxlib==${VERSION:-0.10.2}" numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import gc
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

SIZES = 150


def resident_mb():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@jax.jit
def crop(photo):
    return jax.image.resize(photo.astype(jnp.float32), (120, 120, 3), "linear")


crop(np.zeros((150, 100, 3), np.uint8)).block_until_ready()
start = resident_mb()
for height in range(200, 200 + SIZES):
    crop(np.zeros((height, 100, 3), np.uint8)).block_until_ready()
grown = resident_mb() - start
jax.clear_caches()
gc.collect()
kept = resident_mb() - start
print(f"{SIZES} sizes: {grown:.0f} MB, {grown / SIZES:.1f} MB each; after jax.clear_caches(): {kept:.0f} MB")
assert grown > 150 and kept > 0.7 * grown
PYTHON
