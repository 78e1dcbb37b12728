"""Fixed parts of a run from its config: networks, optimisers, stages. Pure.

`configs/paper.py` describes the config fields.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from twodal_jax import losses
from twodal_jax.distributed.sharding import AXIS_NAME
from twodal_jax.forward import HeatmapSettings
from twodal_jax.geometry import heatmap
from twodal_jax.models.critic import EncoderCritic
from twodal_jax.models.layers import check_choice
from twodal_jax.models.resnet import HEAD, Regressor, STAGE_SIZES, VARIANTS
from twodal_jax.training import muon, schedule
from twodal_jax.training.augmentation import AugmentationSettings
from twodal_jax.training.state import LOSS_NAMES, TrainSpec

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
OPTIMIZERS = ("sgd", "adam", "muon")
SELF_SUPERVISION_LOSSES = ("loss_2d_con", "loss_3d_con", "loss_cyc")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training: its steps [start, end) and their spec."""

    name: str
    start: int
    end: int
    spec: TrainSpec


def loss_weights(config: ml_collections.ConfigDict, stage: ml_collections.ConfigDict) -> dict[str, float]:
    """{loss: lambda} of a stage, with the ablation's switches applied."""
    weights = {name: float(stage.loss_weights[name]) for name in LOSS_NAMES}
    if not config.self_supervision:
        weights |= dict.fromkeys(SELF_SUPERVISION_LOSSES, 0.0)
    if not config.self_critic:
        weights["loss_sc"] = 0.0
    return weights


def uses_jaw(config: ml_collections.ConfigDict) -> bool:
    """Whether wild faces are compared at the jaw points, which the wild set must then have."""
    return bool(config.self_supervision and config.jaw_weight)


def landmark_weights(config: ml_collections.ConfigDict) -> tuple[float, ...]:
    """The mask v of Fig. 4, [18], followed by the jaw points' weights if they are used."""
    mask = heatmap.weight_mask(*config.landmark_mask).tolist()
    jaw = [float(config.jaw_weight)] * heatmap.NUM_JAW_POINTS if uses_jaw(config) else []
    return (*mask, *jaw)


def stage_configs(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """Configs of the stages with steps, in order.

    Raises:
      ValueError: no stage has steps.
    """
    chosen = {name: config[name] for name in ("stage1", "stage2") if config[name].steps > 0}
    if not chosen:
        raise ValueError("config.stage1.steps and config.stage2.steps are both 0; at least one must be positive.")
    return chosen


def stage_schedule(config: ml_collections.ConfigDict) -> schedule.StageSchedule:
    """Schedule with a decay in each stage, from `learning_rate` to `final_learning_rate`, and a warm-up."""
    check_choice("decay (config.optimizer.decay)", config.optimizer.decay, schedule.DECAYS)
    stages = stage_configs(config).values()
    return schedule.StageSchedule(
        first=np.float32([stage.learning_rate for stage in stages]) * np.float32(config.optimizer.rate_scale),
        last=np.float32([stage.final_learning_rate for stage in stages]) * np.float32(config.optimizer.rate_scale),
        steps=np.int32([stage.steps for stage in stages]),
        warmup=np.int32(config.optimizer.warmup_steps),
    )


def learning_rate_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Learning rate as a function of the step."""
    return functools.partial(schedule.learning_rate, stage_schedule(config), config.optimizer.decay)


def regressor_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """SGD with momentum (the paper's), Adam or Muon, with the schedule of the stages."""
    settings = config.optimizer
    check_choice("optimizer (config.optimizer.name)", settings.name, OPTIMIZERS)
    parts = []
    if settings.head_features:
        parts.append(_scale_head(settings.head_features))
    if settings.clip_norm:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
    decay = optax.add_decayed_weights(settings.weight_decay) if settings.weight_decay else optax.identity()
    if settings.name == "adam":
        parts += [optax.scale_by_adam(), decay]
    elif settings.name == "muon":
        parts += [muon.scale_by_muon(_is_muon_kernel, settings.muon_precision), decay]
    else:  # weight decay is part of the gradient
        momentum = optax.trace(settings.momentum, settings.nesterov) if settings.momentum else optax.identity()
        parts += [decay, momentum]
    return optax.chain(*parts, schedule.scale_by_stage_schedule(stage_schedule(config), settings.decay))


def _scale_head(features: int) -> optax.GradientTransformation:
    """Multiply the gradient of the head's kernel by features / inputs, if it has more inputs than `features`.

    A step of gradient descent changes the head's output by its rate times the squared norm of its input, which grows
    with the network's width: with 2,048 features training is stable up to a sixteenth of the rate for 128 features.
    """

    def update(gradients, state, params=None):
        del params
        kernel = gradients[HEAD]["kernel"]
        kernel = kernel * min(1.0, features / kernel.shape[0])
        return {**gradients, HEAD: {**gradients[HEAD], "kernel": kernel}}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_muon_kernel(path: tuple) -> bool:
    """Whether Muon updates a parameter: all kernels except the head's."""
    return path[-1].key == "kernel" and path[0].key != HEAD


class ConfigError(ValueError):
    """A config has an invalid value; the message names the field."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Convert ValueError, raised for an invalid value, to ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"This config cannot be run. {error}") from error


POSITIVE_FIELDS = (
    "run.log_every",
    "run.evaluate_every",
    "run.checkpoint_every",
    "run.max_skipped_in_a_row",
    "run.keep_checkpoints",
    "run.evaluation_batch",
)


def _check_numbers(config: ml_collections.ConfigDict) -> None:
    """Raise ValueError for an invalid number."""
    fields = flatten(config.to_dict())
    for name in POSITIVE_FIELDS:
        if fields[name] < 1:
            raise ValueError(f"config.{name} must be at least 1, got {fields[name]!r}.")
    if (validation_faces := fields["validation_faces"]) < 0:
        raise ValueError(f"config.validation_faces must be 0 (no validation part) or positive, got {validation_faces}.")
    mask = fields["landmark_mask"]
    if len(mask) != 3 or not all(isinstance(weight, (int, float)) for weight in mask):
        raise ValueError(f"config.landmark_mask must be three numbers, such as (4, 2, 1), got {mask!r}.")
    for name, stage in stage_configs(config).items():
        rates = (stage.learning_rate, stage.final_learning_rate)
        if config.optimizer.decay == "exponential" and min(rates) <= 0:
            raise ValueError(
                f"config.{name}.learning_rate and .final_learning_rate must be positive, got {rates[0]} and {rates[1]}:"
                " exponential decay does not reach zero. Use config.optimizer.decay=linear for that."
            )


@config_errors()
def build_stages(config: ml_collections.ConfigDict) -> list[Stage]:
    """Stages of a run. They share networks and optimisers and differ in the losses' weights.

    Raises:
      ConfigError: a field has an invalid value; the message names it.
    """
    _check_numbers(config)
    check_choice("dtype (config.regressor.dtype)", config.regressor.dtype, tuple(DTYPES))
    check_choice("network (config.regressor.name)", config.regressor.name, tuple(STAGE_SIZES))
    check_choice("variant (config.regressor.variant)", config.regressor.variant, VARIANTS)
    check_choice("heatmap (config.heatmap.kind)", config.heatmap.kind, heatmap.KINDS)
    check_choice("unit (config.loss_unit)", config.loss_unit, losses.UNITS)
    check_choice("reduction (config.loss_reduction)", config.loss_reduction, losses.REDUCTIONS)
    dtype = DTYPES[config.regressor.dtype]
    weights = landmark_weights(config)
    shared: dict[str, Any] = dict(
        regressor=Regressor(
            arch=config.regressor.name,
            variant=config.regressor.variant,
            width=config.regressor.width,
            dtype=dtype,
            axis_name=AXIS_NAME,
            heatmap_mlp_width=config.regressor.heatmap_mlp_width,
            remat=config.regressor.remat,
            zero_head=config.regressor.zero_head,
        ),
        critic=EncoderCritic(config.critic.width, dtype, config.critic.downsample_input),
        regressor_optimizer=regressor_optimizer(config),
        critic_optimizer=optax.adam(config.critic.learning_rate),
        landmark_weights=weights,
        loss_scale=losses.unit_scale(config.loss_unit, config.loss_reduction, weights),
        weight_dims=config.loss_3d_dims,
        train_depth_offset=config.train_depth_offset,
        augmentation=AugmentationSettings(**config.augmentation),
        heatmap=HeatmapSettings(**config.heatmap),
        accumulate=config.accumulate,
        learn_landmark_offsets=config.self_supervision and config.learn_landmark_offsets,
        normalize_by_visibility=config.normalize_by_visibility,
        alternate=config.critic.alternate,
        label_smoothing=config.critic.label_smoothing,
        coefficient_noise=config.critic.coefficient_noise,
        mirror_prediction=config.get("mirror_prediction", False),
    )
    stages, start = [], 0
    for name, stage in stage_configs(config).items():
        spec = TrainSpec(loss_weights=loss_weights(config, stage), **shared)
        stages.append(Stage(name, start, start + stage.steps, spec))
        start += stage.steps
    return stages


# A continued run may change these fields: execution settings, and locations of data.
EXECUTION_FIELDS = ("run", "distributed")
LOCATION_FIELDS = ("morphable_model", "folder", "input", "make", "how_to_get", "remat")
PRETRAINED = "regressor.pretrained"


def resume_fingerprint(
    config: ml_collections.ConfigDict, model_digest: str, faces: Mapping[str, int]
) -> dict[str, Any]:
    """Values that must be unchanged to continue from a checkpoint.

    These are all fields except execution settings and data locations, the morphable model's digest, the number of faces
    of each set, and the file name of pretrained weights (without a digest, because the file may have been deleted).
    """
    fields = flatten({k: v for k, v in config.to_dict().items() if k not in EXECUTION_FIELDS})
    if PRETRAINED in fields:
        fields[PRETRAINED] = pathlib.PurePath(fields[PRETRAINED]).name
    kept = {name: value for name, value in fields.items() if name.split(".")[-1] not in LOCATION_FIELDS}
    counts = {f"data.{name}.faces": count for name, count in faces.items()}
    return kept | counts | {"morphable_model_digest": model_digest}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten {"a": {"b": 1}} to {"a.b": 1}; tuples become lists, as in JSON."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
