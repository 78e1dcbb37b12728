#!/usr/bin/env bash
# Guess: a CheckpointManager with `best_fn`, best_mode="min" and max_to_keep=1 keeps the checkpoint with the lowest error.
# Behaviour: an error of NaN counts as the best. The true best is deleted, and each later checkpoint replaces the NaN's
#   even if it is worse than the one that was deleted.
# Versions: orbax-checkpoint 0.12.8 (VERSION=... tries another), JAX 0.10.2.
# Why it matters: one evaluation of a face without visible landmarks makes a mean of NaN, and the best network is lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "orbax-checkpoint==${VERSION:-0.12.8}" jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/run" 2> /dev/null <<'PYTHON'
import sys

import numpy as np
import orbax.checkpoint as ocp

options = ocp.CheckpointManagerOptions(max_to_keep=1, best_fn=lambda metrics: metrics["error"], best_mode="min")
kept = {}
with ocp.CheckpointManager(sys.argv[1], options=options) as manager:
    for step, error in ((1, 0.5), (2, 0.3), (3, float("nan")), (4, 0.4)):
        manager.save(step, args=ocp.args.StandardSave({"kernel": np.ones(3)}), metrics={"error": error})
        manager.wait_until_finished()
        kept[step] = manager.all_steps()
        print(f"step {step}, error {error}: kept {kept[step]}")
assert kept == {1: [1], 2: [2], 3: [3], 4: [4]}
PYTHON
