"""One training step: critic and regressor, updated alternately (Section III-F). Pure; mapped over devices once.

The critic's step comes first: encoder and critic ascend L_sc with R(I) held fixed. Then the regressor descends all
losses against the new critic. R(I) does not depend on the critic, so both steps share one forward pass of the
regressor. With `TrainSpec.alternate` = False each uses the other's state before the step.

`training.batch` describes a batch.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from twodal_jax import forward, losses
from twodal_jax.distributed.sharding import AXIS_NAME
from twodal_jax.geometry import coefficients, projection
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.training import averaging, landmark_offsets
from twodal_jax.training.batch import AugmentedBatch, network_inputs, prepare_annotated, prepare_wild
from twodal_jax.training.state import NetState, SECOND_PASS_LOSSES, TrainSpec, TrainState, WILD_LOSSES

Batch = dict[str, dict[str, jax.Array]]
METRIC_CRITIC = "loss_sc_critic"


def _annotated_losses(
    whitened: jax.Array, whitened_true: jax.Array, model: MorphableModel, spec: TrainSpec
) -> dict[str, jax.Array]:
    """{name: [A]} of the losses of annotated faces that have a weight: L_3d, VDC and the baselines'.

    Without `train_depth_offset` t_z counts as correct: it is invisible in images, annotations hold an arbitrary value
    left by their fitting, and as the largest error it would outweigh all learnable ones (3DDFA does the same).
    """
    if not spec.train_depth_offset:
        whitened = whitened.at[:, coefficients.T_Z_INDEX].set(whitened_true[:, coefficients.T_Z_INDEX])
    terms = {}
    if spec.uses("loss_3d"):
        terms["loss_3d"] = losses.loss_3d(whitened, whitened_true, model, dims=spec.weight_dims)
    if spec.uses("loss_pdc"):
        terms["loss_pdc"] = losses.loss_pdc(whitened, whitened_true)
    predicted, true = (
        coefficients.unwhiten(value, model.alpha_mean, model.alpha_std) for value in (whitened, whitened_true)
    )
    if spec.uses("loss_vdc"):
        terms["loss_vdc"] = losses.loss_vdc(predicted, true, model)
    if spec.uses("loss_contour"):
        points = (projection.landmarks_crop(model, alpha)[..., :2] for alpha in (predicted, true))
        terms["loss_contour"] = losses.loss_contour(*points)
    return terms


def _wild_losses(
    result: forward.Reconstruction,
    wild: AugmentedBatch,
    second_pass: Callable[[jax.Array], forward.Reconstruction],
    to_convention: Callable[[forward.Reconstruction], jax.Array],
    critic: Any,
    noise: jax.Array,
    spec: TrainSpec,
) -> dict[str, jax.Array]:
    """{name: [W]} of the losses of wild faces that have a weight.

    second_pass: landmarks [W, 18, 2] -> Reconstruction. to_convention: Reconstruction -> landmarks [W, P, 2] in the
    wild dataset's convention. critic: parameters of encoder and critic. noise: [W, 62], see `_critic_noise`.
    """
    count = len(
        spec.landmark_weights
    )  # 18, or 21 with the jaw points; without weights for them the jaw points are ignored
    given = wild.landmarks[:, :count]
    weights = jnp.asarray(spec.landmark_weights) * wild.visible[:, :count]
    if spec.normalize_by_visibility:
        weights = losses.normalize_by_visibility(weights, sum(spec.landmark_weights))
    terms = {}
    if spec.uses("loss_2d_con"):
        terms["loss_2d_con"] = losses.loss_2d_con(to_convention(result), given, weights)
    if spec.uses(*SECOND_PASS_LOSSES):
        second = second_pass(spec.heatmap.landmarks_18(result.landmarks))
        if spec.uses("loss_3d_con"):
            terms["loss_3d_con"] = losses.loss_3d_con(result.landmarks, second.landmarks)
        if spec.uses("loss_cyc"):
            terms["loss_cyc"] = losses.loss_cyc(to_convention(second), given, weights)
    if spec.uses("loss_sc"):
        latent = jax.lax.stop_gradient(encode(critic, wild.image, spec))
        terms["loss_sc"] = losses.loss_sc(_criticize(critic, latent, result.whitened + noise, spec))
    return terms


def _criticize(params: Any, latent: jax.Array, whitened: jax.Array, spec: TrainSpec) -> jax.Array:
    """Logits [B]. An untrained t_z is hidden from the critic, which could separate truth from prediction by it."""
    if not spec.train_depth_offset:
        whitened = whitened.at[:, coefficients.T_Z_INDEX].set(0.0)
    return spec.critic.apply({"params": params}, latent, whitened, method="criticize")


def encode(params: Any, images: jax.Array, spec: TrainSpec) -> jax.Array:
    """Latent code z [B, Z] of images [B, 120, 120, 3] BGR 0..255."""
    return spec.critic.apply({"params": params}, forward.normalize_image(images), method="encode")


def _critic_noise(faces: AugmentedBatch, spec: TrainSpec) -> jax.Array:
    """Noise [B, 62] on the critic's whitened coefficients, drawn from each face's position."""
    if not spec.coefficient_noise:
        return jnp.zeros((len(faces.image), coefficients.NUM_COEFFICIENTS))
    draw = jax.vmap(lambda key: jax.random.normal(key, (coefficients.NUM_COEFFICIENTS,)))
    return spec.coefficient_noise * draw(faces.critic_key)


class _CriticUpdate(NamedTuple):
    """The critic's state after its step, its loss and the norm of its gradients."""

    critic: NetState
    loss: jax.Array
    gradient_norm: jax.Array


def regressor_loss(
    params: Any,
    state: TrainState,
    annotated: AugmentedBatch,
    wild: AugmentedBatch | None,
    model: MorphableModel,
    spec: TrainSpec,
    *,
    update_critic: bool = False,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any, jax.Array | None, _CriticUpdate | None]]:
    """Total loss of the regressor (Section III-F) and (mean losses, new statistics, wild whitened, critic).

    Annotated and wild images go through the network as one batch, so BatchNorm's statistics are those of real inputs.
    The second pass normalises by its own statistics and does not change the running ones.
    update_critic: whether the critic takes its step between the forward pass and L_sc.
    """
    stats = state.regressor.batch_stats
    inputs = network_inputs(annotated, spec)
    if wild is not None:
        inputs = jnp.concatenate([inputs, network_inputs(wild, spec)])
    whitened, updates = spec.regressor.apply(
        {"params": params, "batch_stats": stats}, inputs, train=True, mutable=["batch_stats"]
    )
    count = len(annotated.image)
    terms = _annotated_losses(whitened[:count], annotated.whitened, model, spec)
    wild_whitened, updated = None, None
    if wild is not None:
        wild_whitened = whitened[count:]
        if update_critic:
            updated = _update_critic(state, _critic_gradients(state, annotated, wild, wild_whitened, spec), spec)

        def regress_again(inputs):
            variables = {"params": params, "batch_stats": stats}
            return spec.regressor.apply(variables, inputs, train=True, mutable=["batch_stats"])[0]

        def second_pass(points):
            visible = jnp.ones(points.shape[:-1])
            return forward.forward(regress_again, wild.image, points, visible, model, spec.heatmap)

        result = forward.reconstruct(wild_whitened, model)
        offsets = params.get(landmark_offsets.NAME)
        to_convention = functools.partial(
            landmark_offsets.to_dataset_convention, offsets=offsets, model=model, jaw=spec.uses_jaw
        )
        critic = (updated.critic if update_critic else state.critic).params
        terms |= _wild_losses(result, wild, second_pass, to_convention, critic, _critic_noise(wild, spec), spec)
    means = {name: spec.loss_scale.get(name, 1.0) * jnp.mean(term) for name, term in terms.items()}
    total = sum(spec.loss_weights.get(name, 0.0) * mean for name, mean in means.items())
    return total, (means | {"loss": total}, updates["batch_stats"], wild_whitened, updated)


def _apply_gradients(net: NetState, gradients: Any, stats: Any, optimizer: optax.GradientTransformation) -> NetState:
    updates, opt_state = optimizer.update(gradients, net.opt_state, net.params)
    return NetState(optax.apply_updates(net.params, updates), stats, opt_state)


def _select(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _regressor_gradients(
    state: TrainState,
    annotated: AugmentedBatch,
    wild: AugmentedBatch | None,
    model: MorphableModel,
    spec: TrainSpec,
    update_critic: bool = False,
) -> tuple[tuple[Any, dict[str, jax.Array], Any], jax.Array | None, _CriticUpdate | None]:
    """Local (gradients of the total loss, metrics, new statistics), R(I) [W, 62] and the critic's update."""
    gradients, (metrics, stats, wild_whitened, updated) = jax.grad(regressor_loss, has_aux=True)(
        state.regressor.params, state, annotated, wild, model, spec, update_critic=update_critic
    )
    return (gradients, metrics, stats), wild_whitened, updated


def _update_regressor(state: TrainState, local: tuple, spec: TrainSpec) -> tuple[NetState, dict[str, jax.Array]]:
    """Descend the total loss, encoder and critic held fixed -> (new regressor, metrics)."""
    gradients, metrics, stats = local
    gradients, metrics = averaging.pmean_tree((gradients, metrics), spec.axis_name)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    return _apply_gradients(state.regressor, gradients, stats, spec.regressor_optimizer), metrics


def critic_loss(
    params: Any, annotated: AugmentedBatch, wild: AugmentedBatch, wild_whitened: jax.Array, spec: TrainSpec
) -> tuple[jax.Array, jax.Array]:
    """The critic's loss, and -L_sc (Section III-E): alpha* against R(I), each with the latent code of its own image.

    Both are equal without `spec.label_smoothing`.
    """
    # Two encoder calls, so that the compiler shares the wild faces' code with the regressor's loss.
    latent = [encode(params, faces.image, spec) for faces in (annotated, wild)]
    noise = [_critic_noise(faces, spec) for faces in (annotated, wild)]
    whitened = [annotated.whitened + noise[0], jax.lax.stop_gradient(wild_whitened) + noise[1]]
    logits = _criticize(params, jnp.concatenate(latent), jnp.concatenate(whitened), spec)
    count = len(annotated.image)
    logits = logits[:count], logits[count:]
    return losses.loss_sc_critic(*logits, smoothing=spec.label_smoothing), losses.loss_sc_critic(*logits)


def _critic_gradients(
    state: TrainState, annotated: AugmentedBatch, wild: AugmentedBatch, wild_whitened: jax.Array, spec: TrainSpec
) -> tuple[Any, jax.Array]:
    """Local gradients of encoder and critic, and -L_sc."""
    return jax.grad(critic_loss, has_aux=True)(state.critic.params, annotated, wild, wild_whitened, spec)


def _update_critic(state: TrainState, local: tuple, spec: TrainSpec) -> _CriticUpdate:
    """Ascend L_sc in encoder and critic, the regressor's output held fixed."""
    gradients, loss = averaging.pmean_tree(local, spec.axis_name)
    critic = _apply_gradients(state.critic, gradients, {}, spec.critic_optimizer)
    return _CriticUpdate(critic, loss, optax.tree.norm(gradients))


def _augment(
    batch: Batch, model: MorphableModel, spec: TrainSpec, seed: jax.Array
) -> tuple[AugmentedBatch, AugmentedBatch | None]:
    annotated = prepare_annotated(batch["annotated"], model, spec, seed)
    return annotated, prepare_wild(batch["wild"], spec, seed) if spec.uses(*WILD_LOSSES) else None


def regressor_step(
    state: TrainState, batch: Batch, model: MorphableModel, *, spec: TrainSpec
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The regressor's half of `train_step`; the critic stays bit-identical."""

    def gradients(microbatch):
        return _regressor_gradients(state, *_augment(microbatch, model, spec, state.seed), model, spec)[0]

    local = averaging.accumulate_microbatches(gradients, batch, spec.accumulate)
    new, metrics = _update_regressor(state, local, spec)
    return state.replace(regressor=new), metrics


def critic_step(
    state: TrainState, batch: Batch, model: MorphableModel, *, spec: TrainSpec
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The critic's half of `train_step`; the regressor stays bit-identical.

    Without a weight of `loss_sc` the state is returned unchanged.
    """
    if not spec.uses("loss_sc"):
        return state, {}

    def gradients(microbatch):
        annotated, wild = _augment(microbatch, model, spec, state.seed)
        _, (_, _, wild_whitened, _) = regressor_loss(state.regressor.params, state, annotated, wild, model, spec)
        return _critic_gradients(state, annotated, wild, wild_whitened, spec)

    local = averaging.accumulate_microbatches(gradients, batch, spec.accumulate)
    updated = _update_critic(state, local, spec)
    return state.replace(critic=updated.critic), _critic_metrics(updated)


def _critic_metrics(updated: _CriticUpdate) -> dict[str, jax.Array]:
    return {METRIC_CRITIC: updated.loss, "gradient_norm_critic": updated.gradient_norm}


def _alternating_step(
    state: TrainState, batch: Batch, model: MorphableModel, spec: TrainSpec
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The critic's step, then the regressor's against the new critic."""
    if spec.accumulate > 1:  # the critic needs the gradients of all microbatches before the regressor's first one
        half, metrics = critic_step(state, batch, model, spec=spec)
        new, regressor_metrics = regressor_step(half, batch, model, spec=spec)
        return new, metrics | regressor_metrics
    annotated, wild = _augment(batch, model, spec, state.seed)
    local, _, updated = _regressor_gradients(state, annotated, wild, model, spec, update_critic=spec.uses("loss_sc"))
    return _new_state(state, local, updated, spec)


def _simultaneous_step(
    state: TrainState, batch: Batch, model: MorphableModel, spec: TrainSpec
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Both steps, each with the other network's old state."""

    def gradients(microbatch):
        annotated, wild = _augment(microbatch, model, spec, state.seed)
        local, wild_whitened, _ = _regressor_gradients(state, annotated, wild, model, spec)
        if not spec.uses("loss_sc"):
            return local, None
        return local, _critic_gradients(state, annotated, wild, wild_whitened, spec)

    local, critic_local = averaging.accumulate_microbatches(gradients, batch, spec.accumulate)
    updated = None if critic_local is None else _update_critic(state, critic_local, spec)
    return _new_state(state, local, updated, spec)


def _new_state(
    state: TrainState, local: tuple, updated: _CriticUpdate | None, spec: TrainSpec
) -> tuple[TrainState, dict[str, jax.Array]]:
    """State and metrics after the regressor's step and, unless it is None, the critic's update."""
    regressor, metrics = _update_regressor(state, local, spec)
    if updated is None:
        return state.replace(regressor=regressor), metrics
    return state.replace(regressor=regressor, critic=updated.critic), metrics | _critic_metrics(updated)


def train_step(
    state: TrainState, batch: Batch, model: MorphableModel, *, spec: TrainSpec
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of critic and regressor, in the order of the module's docstring.

    With `spec.accumulate` each microbatch is normalised by its own statistics; the running ones follow their mean.

    If a loss or the norm of a network's gradients is not finite on any device, both networks with their statistics and
    optimisers stay unchanged and the step counts as skipped.

    Returns:
      The new state, and {name: []} of the mean losses over all devices, the gradients' norms and whether the step was
      skipped.
    """
    new, metrics = (_alternating_step if spec.alternate else _simultaneous_step)(state, batch, model, spec)
    finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
    skipped = 1 - finite.astype(jnp.int32)
    new_state = TrainState(
        seed=state.seed,
        step=state.step + 1,
        skipped=state.skipped + skipped,
        skipped_in_a_row=(state.skipped_in_a_row + skipped) * skipped,
        regressor=_select(finite, new.regressor, state.regressor),
        critic=_select(finite, new.critic, state.critic),
    )
    return new_state, metrics | {"skipped": skipped.astype(jnp.float32)}


def mapped_train_step(spec: TrainSpec, devices: Sequence[jax.Device] | None = None) -> Callable:
    """`train_step` over all devices, or over `devices`: (state, sharded batch, model) -> (state, metrics).

    State and model are passed and returned once, not once per device; the state's buffers are donated.
    """
    return jax.pmap(
        functools.partial(train_step, spec=spec),
        axis_name=AXIS_NAME,
        in_axes=(None, 0, None),
        out_axes=None,
        donate_argnums=0,
        devices=devices,
    )
