"""The step, batches and networks that several benchmarks time."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twodal_jax.geometry import morphable_model, symmetry
from twodal_jax.models.resnet import Regressor
from twodal_jax.training import builder
from twodal_jax.training.state import TrainSpec

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def resnet50(dtype: str = "float32", **fields) -> Regressor:
    """The paper's network."""
    return Regressor("resnet50", "authors", 1.0, DTYPES[dtype], **fields)


def network_batch(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [count, 120, 120, 4] in [-1, 1] and whitened coefficients [count, 62]."""
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-1, 1, (count, 120, 120, 4)).astype(np.float32)
    return inputs, rng.standard_normal((count, 62)).astype(np.float32)


def filled(shapes, seed: int = 0):
    """Values for the shapes of variables or of a whole training state, without compiling an initialiser.

    He et al.'s kernels, scales and variances of one, a small head, zeros for the rest. Fresh scales of zero would pass
    gradients of zero through most layers, which is not what training computes.
    """
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        if "opt_state" in names or not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        if names[-1] in ("scale", "var"):
            return np.ones(leaf.shape, leaf.dtype)
        if names[-1] != "kernel":
            return np.zeros(leaf.shape, leaf.dtype)
        deviation = 0.01 if "head" in names else np.sqrt(2 / (leaf.size // leaf.shape[-1]))
        return (deviation * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def variables_of(network: Regressor, seed: int = 0) -> dict:
    """{"params", "batch_stats"} of a regressor, as NumPy arrays."""
    image = jax.ShapeDtypeStruct((1, 120, 120, 4), jnp.float32)
    return filled(jax.eval_shape(network.init, jax.random.key(0), image), seed)


def supervised_step(network: Regressor) -> tuple[Callable, Callable]:
    """(start, step): a plain supervised step of the network alone, mean squared error and SGD."""
    optimizer = optax.sgd(1e-4, momentum=0.9)

    def start():
        variables = jax.device_put(variables_of(network))
        return variables, optimizer.init(variables["params"])

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, inputs, true):
        variables, opt_state = state

        def loss(params):
            out, updates = network.apply({**variables, "params": params}, inputs, train=True, mutable=["batch_stats"])
            return jnp.mean((out - true) ** 2), updates

        (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = optimizer.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return ({"params": params, **updates}, opt_state), value

    return start, step


def training_batch(model: morphable_model.MorphableModel, count: int, wild: int, size: int = 120) -> dict:
    """A batch in the format of `training.step`: noise as images [count, size, size, 3], and plausible faces."""
    rng = np.random.default_rng(0)
    alpha = np.asarray(model.alpha_mean) + 0.5 * np.asarray(model.alpha_std) * rng.standard_normal((count, 62))
    image = rng.integers(0, 256, (count + wild, size, size, 3), np.uint8)
    visible = (rng.random((wild, 18)) < 0.9).astype(np.float32)
    index = np.stack([np.zeros(count + wild), np.arange(count + wild)], axis=-1).astype(np.uint32)
    return {
        "annotated": {"image": image[:count], "alpha": alpha.astype(np.float32), "position": index[:count]},
        "wild": {
            "image": image[count:],
            "landmarks": rng.uniform(20, 100, (wild, 18, 2)).astype(np.float32),
            "visible": visible,
            "jaw": rng.uniform(20, 100, (wild, 3, 2)).astype(np.float32),
            "jaw_visible": np.ones((wild, 3), np.float32),
            "position": index[count:],
        },
    }


def stage_spec(config, stage: int, axis_name: str | None = None) -> TrainSpec:
    """The spec of stage 0 or 1 of a config, for one device or a mapped axis."""
    spec = builder.build_stages(config)[stage].spec
    return spec.replace(regressor=spec.regressor.clone(axis_name=axis_name))


def training_model(model: morphable_model.MorphableModel, config) -> morphable_model.MorphableModel:
    """The model in the form in which the training loop passes it to a step."""
    if config.augmentation.mirror_annotated:
        model = symmetry.with_mirror(model)
    return morphable_model.without_mesh(model)


def without_augmentation(config):
    """The config with all augmentation off."""
    config.augmentation.update(dict.fromkeys(config.augmentation, 0.0))
    return config
