"""Tiny random morphable model, spec and batches, with which every path runs in seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twodal_jax.forward import HeatmapSettings
from twodal_jax.geometry import heatmap, morphable_model
from twodal_jax.losses import unit_scale
from twodal_jax.models.critic import EncoderCritic
from twodal_jax.models.resnet import Regressor, STAGE_SIZES
from twodal_jax.training.augmentation import AugmentationSettings
from twodal_jax.training.state import LOSS_NAMES, TrainSpec, TrainState

NUM_VERTICES = 200
ALL_LOSSES = dict(zip(LOSS_NAMES, (1.0, 0.005, 0.005, 0.01, 0.005, 0.01, 0.5, 0.01)))
# One block per stage has all parts of a deeper network and compiles in half the time.
STAGE_SIZES["resnet10"] = (1, 1, 1, 1)
STAGE1_LOSSES = ALL_LOSSES | dict.fromkeys(("loss_vdc", "loss_pdc", "loss_contour"), 0.0)
STAGE2_LOSSES = dict.fromkeys(LOSS_NAMES, 0.0) | {"loss_vdc": 0.01}


def tiny_model(seed: int = 0, num_vertices: int = NUM_VERTICES) -> morphable_model.MorphableModel:
    """Random points in a cube 2 units wide with random directions; the whitening fits `random_alpha`."""
    rng = np.random.default_rng(seed)
    alphas = random_alpha(rng, 500)
    return morphable_model.create(
        mean=rng.uniform(-1, 1, (3, num_vertices)),
        basis=0.02 * rng.standard_normal((50, 3, num_vertices)),
        triangles=rng.integers(0, num_vertices, (150, 3)),
        landmark_indices=rng.choice(num_vertices, 68, replace=False),
        alpha_mean=alphas.mean(axis=0),
        alpha_std=alphas.std(axis=0),
    )


def symmetric_model(seed: int = 0, pairs: int = 100) -> morphable_model.MorphableModel:
    """`tiny_model` with an exact mirror symmetry about x = 0.3 and randomly ordered vertices.

    Each direction is symmetric or antisymmetric.
    """
    rng = np.random.default_rng(seed)
    half, flip = rng.uniform(0.05, 1, (3, pairs)), np.array([-1.0, 1.0, 1.0])[:, None]
    half[1:] = rng.uniform(-1, 1, (2, pairs))
    directions = 0.02 * rng.standard_normal((50, 3, pairs))
    sign = np.where(np.arange(50) % 3 == 2, -1.0, 1.0)[:, None, None]
    order = rng.permutation(2 * pairs)
    mean = np.concatenate([half, half * flip], axis=1)[:, order] + [[0.3], [0.0], [0.0]]
    basis = np.concatenate([directions, sign * directions * flip], axis=-1)[:, :, order]
    alphas = random_alpha(rng, 500)
    return morphable_model.create(
        mean,
        basis,
        rng.integers(0, 2 * pairs, (150, 3)),
        rng.choice(2 * pairs, 68, replace=False),
        alphas.mean(axis=0),
        alphas.std(axis=0),
    )


def random_rotation(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 3, 3] float64 rotations, uniform (QR of Gaussian matrices)."""
    q, r = np.linalg.qr(rng.standard_normal((count, 3, 3)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return q * np.linalg.det(q)[:, None, None]


def random_alpha(rng: np.random.Generator, count: int) -> np.ndarray:
    """Raw alpha [count, 62] float32: scale 25-40 pixels per unit, any rotation, near the crop's centre."""
    rotation = random_rotation(rng, count)
    scale = rng.uniform(25, 40, (count, 1, 1))
    translation = np.array([60.0, 60.0, 0.0]) + rng.uniform(-8, 8, (count, 3))
    pose = np.concatenate([scale * rotation, translation[..., None]], axis=-1).reshape(count, 12)
    return np.concatenate([pose, rng.standard_normal((count, 50))], axis=1).astype(np.float32)


def project_float64(mean, basis, alpha, height: float = 120) -> np.ndarray:
    """The paper's V of one alpha in float64: [N, 3], y down in `height` pixels."""
    alpha = np.asarray(alpha, np.float64)
    pose = alpha[:12].reshape(3, 4)
    shape = np.asarray(mean, np.float64) + np.einsum("k,kin->in", alpha[12:], np.asarray(basis, np.float64))
    x, y, z = pose[:, :3] @ shape + pose[:, 3:]
    return np.stack([x, height + 1 - y, z], axis=-1)


def tiny_spec(
    *,
    losses: dict[str, float] = STAGE1_LOSSES,
    axis_name: str | None = None,
    augmentation: AugmentationSettings = AugmentationSettings(),
    learning_rate: float = 3e-3,
    dtype=jnp.float32,
    accumulate: int = 1,
    remat: bool = False,
    alternate: bool = True,
) -> TrainSpec:
    """Spec of a ResNet-10, an encoder and a critic of an eighth of the width; losses are sums in pixels."""
    landmark_weights = tuple(heatmap.weight_mask(4.0, 2.0, 1.0).tolist())
    return TrainSpec(
        regressor=Regressor("resnet10", "standard", 0.125, dtype, axis_name, remat=remat),
        critic=EncoderCritic(width=0.125, dtype=dtype),
        regressor_optimizer=optax.sgd(learning_rate, momentum=0.9),
        critic_optimizer=optax.adam(1e-4),
        loss_weights=losses,
        loss_scale=unit_scale("pixel", "sum", landmark_weights),
        landmark_weights=landmark_weights,
        weight_dims=3,
        augmentation=augmentation,
        heatmap=HeatmapSettings(),
        accumulate=accumulate,
        alternate=alternate,
    )


def with_random_head(state: TrainState) -> TrainState:
    """The state with a random head; a zero head passes no gradient to the layers below."""
    params = dict(state.regressor.params)
    shape = params["head"]["kernel"].shape
    kernel = np.random.default_rng(0).normal(0.0, shape[0] ** -0.5, shape).astype(np.float32)
    params["head"] = params["head"] | {"kernel": kernel}
    return state.replace(regressor=state.regressor.replace(params=params))


def smooth_images(rng: np.random.Generator, count: int, size: int = 120) -> np.ndarray:
    """Images [count, size, size, 3] uint8 of random colours, smooth over about 20 pixels."""
    coarse = rng.uniform(0, 255, (count, size // 20 + 1, size // 20 + 1, 3)).astype(np.float32)
    return np.asarray(jax.image.resize(coarse, (count, size, size, 3), "linear")).astype(np.uint8)


def true_landmarks_18(model: morphable_model.MorphableModel, alpha: np.ndarray) -> np.ndarray:
    """Landmarks [B, 18, 2] in crop pixels, computed in NumPy."""
    points = np.stack([project_float64(model.landmark_mean, model.landmark_basis, row)[:, :2] for row in alpha])
    chosen = (points[:, heatmap.LANDMARK_PAIRS_68[:, 0]] + points[:, heatmap.LANDMARK_PAIRS_68[:, 1]]) / 2
    return chosen.astype(np.float32)


def tiny_batch(
    model: morphable_model.MorphableModel, *, annotated: int = 2, wild: int = 2, seed: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """A batch for `training.step`; every eighth wild landmark is hidden."""
    rng = np.random.default_rng(seed)
    alpha, wild_alpha = random_alpha(rng, annotated), random_alpha(rng, wild)
    visible = np.ones((wild, 18), np.float32)
    visible.reshape(-1)[::8] = 0

    def positions(count):
        index = np.arange(count) + 1000 * seed
        return np.stack([index >> 32, index & 0xFFFFFFFF], axis=-1).astype(np.uint32)

    return {
        "annotated": {"image": smooth_images(rng, annotated), "alpha": alpha, "position": positions(annotated)},
        "wild": {
            "image": smooth_images(rng, wild),
            "landmarks": true_landmarks_18(model, wild_alpha),
            "visible": visible,
            "position": positions(wild),
        },
    }


def part_of_process(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This process's rows of a global batch, as `data_pipelines.loading.loader` distributes them."""
    count, index = jax.process_count(), jax.process_index()
    return {name: np.split(rows, count)[index] for name, rows in batch.items()}


def leaves(tree) -> dict[str, np.ndarray]:
    """{path: array} of a pytree, so that failed comparisons of states show names."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(_numbers(leaf)) for path, leaf in flat}


def _numbers(leaf):
    """The leaf itself, or the data of a random key."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def assert_identical(a, b) -> None:
    """Assert that two pytrees are equal bit for bit."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    different = [path for path in a if a[path].tobytes() != b[path].tobytes()]
    assert not different, different


def identical(a, b) -> bool:
    try:
        assert_identical(a, b)
    except AssertionError:
        return False
    return True
