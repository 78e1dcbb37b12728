#!/usr/bin/env bash
# Guess: an exponential moving average of weights kept in bfloat16 is a little coarse, but follows the weights.
# Behaviour: with a decay of 0.999 it never moves. A step changes the average by a thousandth of the difference, less than
#   half of bfloat16's last bit, and rounds back. After 5,000 steps, five times the average's memory, it is where it began.
# Versions: optax 0.2.8 (VERSION=... tries another), JAX 0.10.2.
# Why it matters: averaged weights are what a long training run reports. With all parameters in bfloat16 on a TPU the run
#   reports its first state. The average belongs in float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "optax==${VERSION:-0.2.8}" jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import optax


def average_after(steps, dtype):
    weights, start = {"kernel": jnp.full(8, 1.5, dtype)}, {"kernel": jnp.ones(8, dtype)}
    body = lambda _, average: optax.incremental_update(weights, average, 1e-3)
    return float(jax.jit(lambda average: jax.lax.fori_loop(0, steps, body, average))(start)["kernel"][0])


found = {dtype.__name__: average_after(5000, dtype) for dtype in (jnp.float32, jnp.bfloat16)}
print("average of weights of 1.5 that began at 1:", found)
assert found["float32"] > 1.49 and found["bfloat16"] == 1.0
PYTHON
