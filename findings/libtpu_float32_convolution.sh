#!/usr/bin/env bash
# Guess: a float32 convolution is computed in float32 on a TPU, and costs several times a bfloat16 one.
# Behaviour: with JAX's default precision it costs the same cycles as the bfloat16 one: its operands are rounded to
#   bfloat16. Only precision "highest" keeps float32's digits, for six times the cycles. `dtype` says nothing of this.
# Versions: libtpu 0.0.42.1 (VERSION=... tries another), JAX 0.10.2, Python 3.11; compiled for a v5e, without a TPU.
# Why it matters: an evaluation "in float32" on a TPU has errors of bfloat16 in each layer, and its figures differ from
#   those of a CPU. About 0.7 GB are installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "libtpu==${VERSION:-0.0.42.1}" jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 requests
export TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost TPU_ACCELERATOR_TYPE=v5litepod-8 JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

topology = topologies.get_topology_desc("v5e:1x1", "tpu", chips_per_host_bounds=(1, 1, 1))
sharding = NamedSharding(Mesh(np.array(topology.devices), ("chip",)), PartitionSpec())


def cycles(dtype, precision):
    images, kernel = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape in ((64, 30, 30, 256), (3, 3, 256, 256))
    )
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    text = jax.jit(convolve).lower(images, kernel).compile().as_text()
    return max(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))


half, default, highest = cycles(jnp.bfloat16, None), cycles(jnp.float32, None), cycles(jnp.float32, "highest")
print(f"cycles of the convolution: bfloat16 {half}, float32 {default}, float32 at precision highest {highest}")
assert default < 1.5 * half and highest > 4 * default
PYTHON
