"""What training changes (`TrainState`) and what it does not (`TrainSpec`)."""

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

LOSS_NAMES = (
    "loss_3d",
    "loss_2d_con",
    "loss_3d_con",
    "loss_cyc",
    "loss_sc",
    "loss_vdc",
    "loss_pdc",
    "loss_contour",  # of the baselines
)
WILD_LOSSES = ("loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc")
SECOND_PASS_LOSSES = ("loss_3d_con", "loss_cyc")


@flax.struct.dataclass
class NetState:
    """One network with its optimiser.

    Attributes:
      params: float32 parameters. batch_stats: BatchNorm's running statistics ({} without BatchNorm).
      opt_state: the Optax state.
    """

    params: Any
    batch_stats: Any
    opt_state: Any


@flax.struct.dataclass
class TrainState:
    """Everything a step changes; a checkpoint holds all of it.

    Attributes:
      seed: [] uint32, of the augmentation. Data, not a constant, so that one compiled step serves all seeds.
      step: [] int32, steps taken, skipped ones included.
      skipped: [] int32, steps whose update was left out because something was not finite.
      skipped_in_a_row: [] int32, how many of the latest steps were.
      regressor: R. critic: encoder and critic.
    """

    seed: jax.Array
    step: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    regressor: NetState
    critic: NetState


@flax.struct.dataclass
class TrainSpec:
    """The fixed part of training in one stage: networks, optimisers, settings. All fields are static.

    Attributes:
      regressor, critic: the Flax modules.
      regressor_optimizer, critic_optimizer: Optax transformations.
      loss_weights: {name of `LOSS_NAMES`: lambda}; a loss of weight 0 is not computed, nor a pass that
        only such losses need.
      loss_scale: {name: factor} of the losses' unit, see `losses.unit_scale`.
      landmark_weights: [18] tuple, the mask v of Fig. 4; [21] where the wild faces' jaw points count too.
      normalize_by_visibility: whether wild faces count alike, see `losses.equal_face_weights`.
      weight_dims: 2 or 3, see `losses.coefficient_weights`.
      train_depth_offset: whether L_3d and VDC train t_z.
      augmentation: of annotated and of wild images. heatmap: how the heatmap is drawn.
      accumulate: into how many parts a device's batch is split, worked on one after the other.
      alternate: whether the regressor's step sees the critic after its step, or both see each other as before.
      label_smoothing: of the critic's labels, see `losses.loss_sc_critic`.
      coefficient_noise: standard deviation of noise on the whitened coefficients that the critic sees.
      learn_landmark_offsets: whether `landmark_offsets` are learnt, beside the regressor's parameters.
    """

    regressor: Regressor = flax.struct.field(pytree_node=False)
    critic: EncoderCritic = flax.struct.field(pytree_node=False)
    regressor_optimizer: optax.GradientTransformation = flax.struct.field(pytree_node=False)
    critic_optimizer: optax.GradientTransformation = flax.struct.field(pytree_node=False)
    loss_weights: Mapping[str, float] = flax.struct.field(pytree_node=False)
    loss_scale: Mapping[str, float] = flax.struct.field(pytree_node=False)
    landmark_weights: tuple[float, ...] = flax.struct.field(pytree_node=False)
    weight_dims: int = flax.struct.field(pytree_node=False)
    augmentation: AugmentationSettings = flax.struct.field(pytree_node=False)
    heatmap: HeatmapSettings = flax.struct.field(pytree_node=False)
    train_depth_offset: bool = flax.struct.field(pytree_node=False, default=False)
    accumulate: int = flax.struct.field(pytree_node=False, default=1)
    learn_landmark_offsets: bool = flax.struct.field(pytree_node=False, default=False)
    normalize_by_visibility: bool = flax.struct.field(pytree_node=False, default=False)
    alternate: bool = flax.struct.field(pytree_node=False, default=True)
    label_smoothing: float = flax.struct.field(pytree_node=False, default=0.0)
    coefficient_noise: float = flax.struct.field(pytree_node=False, default=0.0)

    def __post_init__(self):
        unknown = set(self.loss_weights) - set(LOSS_NAMES)
        if unknown:
            raise ValueError(f"Unknown losses {sorted(unknown)}; expected some of {LOSS_NAMES}.")

    @property
    def uses_jaw(self) -> bool:
        """Whether wild faces are compared at the jaw points (`heatmap.JAW_NAMES`) too."""
        return len(self.landmark_weights) > NUM_LANDMARKS

    def uses(self, *names: str) -> bool:
        """Whether any of these losses has a weight other than 0."""
        return any(self.loss_weights.get(name, 0.0) for name in names)

    @property
    def axis_name(self) -> str | None:
        """The mapped axis gradients and statistics are averaged over; BatchNorm holds it."""
        return self.regressor.axis_name


def create_train_state(spec: TrainSpec, seed: int, backbone: Mapping[str, Any] | None = None) -> TrainState:
    """A fresh state: parameters from `seed` (independent of the number of devices), optimisers at 0.

    backbone: {"params", "batch_stats"} of some of the regressor's layers, which take the place of random ones.
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
    """How many numbers a pytree of arrays or shapes holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
