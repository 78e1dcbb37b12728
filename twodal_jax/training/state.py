"""The variable part of training (`TrainState`) and the fixed part (`TrainSpec`)."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from twodal_jax.forward import HeatmapSettings
from twodal_jax.geometry.coefficients import NUM_COEFFICIENTS
from twodal_jax.geometry.heatmap import NUM_LANDMARKS
from twodal_jax.geometry.projection import CROP_SIZE
from twodal_jax.models.critic import EncoderCritic
from twodal_jax.models.resnet import Regressor
from twodal_jax.training import landmark_offsets
from twodal_jax.training.augmentation import AugmentationSettings

LOSS_NAMES = ("loss_3d", "loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc", "loss_vdc", "loss_pdc", "loss_contour")
WILD_LOSSES = ("loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc")
SECOND_PASS_LOSSES = ("loss_3d_con", "loss_cyc")


@flax.struct.dataclass
class NetState:
    """One network with its optimiser."""

    params: Any  # float32
    batch_stats: Any  # BatchNorm's running statistics, {} without BatchNorm
    opt_state: Any  # the Optax state

    @property
    def variables(self) -> dict[str, Any]:
        """Flax variables of the network: {"params", "batch_stats"}."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class TrainState:
    """State of training; a checkpoint contains all of it."""

    seed: jax.Array  # [] uint32, of the augmentation; an array, so that one compiled step serves all seeds
    step: jax.Array  # [] int32, steps taken, skipped ones included
    skipped: jax.Array  # [] int32, steps without an update because of non-finite values
    skipped_in_a_row: jax.Array  # [] int32, number of consecutive skipped steps up to now
    regressor: NetState
    critic: NetState  # encoder and critic


def _static(**default: Any) -> Any:
    return flax.struct.field(pytree_node=False, **default)


@flax.struct.dataclass
class TrainSpec:
    """The fixed part of training in one stage: networks, optimisers, settings. All fields are static."""

    regressor: Regressor = _static()
    critic: EncoderCritic = _static()
    regressor_optimizer: optax.GradientTransformation = _static()
    critic_optimizer: optax.GradientTransformation = _static()
    # {name of `LOSS_NAMES`: lambda}. A loss of weight 0 is not computed, nor a pass that only such losses need.
    loss_weights: Mapping[str, float] = _static()
    loss_scale: Mapping[str, float] = _static()  # {name: factor} of the losses' unit, see `losses.unit_scale`
    landmark_weights: tuple[float, ...] = _static()  # [18], the mask v of Fig. 4; [21] if jaw points are compared
    weight_dims: int = _static()  # 2 or 3, see `losses.coefficient_weights`
    augmentation: AugmentationSettings = _static()  # of annotated and of wild images
    heatmap: HeatmapSettings = _static()
    train_depth_offset: bool = _static(default=False)  # whether L_3d and VDC train t_z
    accumulate: int = _static(default=1)  # number of microbatches of a device's batch
    learn_landmark_offsets: bool = _static(default=False)  # as part of the regressor's parameters
    normalize_by_visibility: bool = _static(default=False)  # see `losses.normalize_by_visibility`
    alternate: bool = _static(default=True)  # the regressor's step uses the updated critic; False: the old one
    label_smoothing: float = _static(default=0.0)  # of the critic's labels, see `losses.loss_sc_critic`
    mirror_prediction: bool = _static(default=False)  # see `forward.predict_batch`
    coefficient_noise: float = _static(default=0.0)  # standard deviation of noise on the critic's whitened coefficients

    def __post_init__(self):
        unknown = set(self.loss_weights) - set(LOSS_NAMES)
        if unknown:
            raise ValueError(f"Unknown losses {sorted(unknown)}; expected some of {LOSS_NAMES}.")

    @property
    def uses_jaw(self) -> bool:
        """Whether wild faces are compared at the jaw points (`heatmap.JAW_NAMES`) as well."""
        return len(self.landmark_weights) > NUM_LANDMARKS

    def uses(self, *names: str) -> bool:
        """Whether any of these losses has a weight other than 0."""
        return any(self.loss_weights.get(name, 0.0) for name in names)

    @property
    def axis_name(self) -> str | None:
        """Mapped axis over which gradients and statistics are averaged; BatchNorm stores it."""
        return self.regressor.axis_name


def create_train_state(spec: TrainSpec, seed: int, backbone: Mapping[str, Any] | None = None) -> TrainState:
    """Initial state: parameters from `seed`, independent of the number of devices, and fresh optimisers.

    backbone: {"params", "batch_stats"} of some of the regressor's layers, which replace random ones.
    """
    key_regressor, key_critic = jax.random.split(jax.random.key(seed))
    image = jnp.zeros((1, CROP_SIZE, CROP_SIZE, 4))
    variables = jax.jit(spec.regressor.init)(key_regressor, image)
    for collection, layers in (backbone or {}).items():
        layers = jax.tree.map(jnp.asarray, dict(layers))
        variables = {**variables, collection: {**variables[collection], **layers}}
    if spec.learn_landmark_offsets:
        offsets = jnp.zeros((len(spec.landmark_weights), 3))
        variables = {**variables, "params": {**variables["params"], landmark_offsets.NAME: offsets}}
    critic = jax.jit(spec.critic.init)(key_critic, image[..., :3], jnp.zeros((1, NUM_COEFFICIENTS)))
    counters = [np.zeros((), np.int32) for _ in range(3)]
    return TrainState(
        np.uint32(seed),
        *counters,
        regressor=_net_state(variables, spec.regressor_optimizer),
        critic=_net_state(critic, spec.critic_optimizer),
    )


def _net_state(variables: Mapping[str, Any], optimizer: optax.GradientTransformation) -> NetState:
    params = variables["params"]
    return NetState(params, variables.get("batch_stats", {}), optimizer.init(params))


def num_parameters(params: Any) -> int:
    """Number of elements of a pytree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
