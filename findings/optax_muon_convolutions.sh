#!/usr/bin/env bash
# Guess: `optax.contrib.muon` orthogonalises the updates of all kernels of a ResNet.
# Behaviour: by default it treats arrays of two axes only. The kernels of convolutions [height, width, in, out] get Adam,
#   without a message, so that of a ResNet's kernels one, the last layer's, is trained by Muon.
# Versions: optax 0.2.8 (VERSION=... tries another), JAX 0.10.2.
# Why it matters: a comparison of optimisers for a face regressor compares Adam with Adam. `muon_weight_dimension_numbers`
#   gives the axes of convolutions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "optax==${VERSION:-0.2.8}" jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import optax

rng = np.random.default_rng(0)
shapes = {"convolution": (3, 3, 4, 36), "dense": (36, 36)}
params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
gradients = {
    name: np.float32(rng.normal(size=(np.prod(shape[:-1]), 2)) @ [[1, 0], [0, 1e-2]] @ rng.normal(size=(2, shape[-1])))
    for name, shape in shapes.items()
}
gradients = {name: gradient.reshape(shapes[name]) for name, gradient in gradients.items()}
update = {}
for kind, optimizer in (("Muon", optax.contrib.muon(1.0)), ("NAdam", optax.nadamw(1.0, weight_decay=0.0))):
    update[kind] = optimizer.update(gradients, optimizer.init(params), params)[0]
same = {name: bool(np.allclose(update["Muon"][name], update["NAdam"][name], atol=1e-4)) for name in shapes}
print("the update is that of NAdam:", same)
assert same == {"convolution": True, "dense": False}
PYTHON
