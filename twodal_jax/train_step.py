"""One training step: critic and regressor, updated alternately (Section III-F). Pure; mapped over devices once.

The critic's step comes first: encoder and critic ascend L_sc with R(I) held fixed; then the regressor descends all
losses against the new critic. R(I) does not depend on the critic, so both steps share one forward pass of the
regressor. `Method.alternate` = False lets each see the other as it was before the step.

`twodal_jax.batch_faces` describes a batch.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from twodal_jax import averaging, coefficients, forward, landmark_offsets, losses, projection
from twodal_jax.batch_faces import Faces, network_inputs, prepare_annotated, prepare_wild
from twodal_jax.morphable_model import MorphableModel
from twodal_jax.train_state import SECOND_PASS_LOSSES, WILD_LOSSES, Method, NetState, TrainState

Batch = dict[str, dict[str, jax.Array]]
METRIC_CRITIC = "loss_sc_critic"


def _annotated_losses(
    whitened: jax.Array, whitened_true: jax.Array, model: MorphableModel, method: Method
) -> dict[str, jax.Array]:
    """{name: [A]} of L_3d, VDC and the baselines' losses, those that have a weight.

    t_z is taken as right: no picture shows it, what annotations hold there is left over from their
    fitting, and as the largest error of all it would outweigh what can be learnt (3DDFA does the same).
    """
    if not method.train_depth_offset:
        at = coefficients.DEPTH_OFFSET
        whitened = whitened.at[:, at].set(whitened_true[:, at])
    terms = {}
    if method.uses("loss_3d"):
        terms["loss_3d"] = losses.loss_3d(whitened, whitened_true, model, dims=method.weight_dims)
    if method.uses("loss_parameters"):
        terms["loss_parameters"] = losses.loss_parameters(whitened, whitened_true)
    predicted, true = (
        coefficients.unwhiten(value, model.alpha_mean, model.alpha_std)
        for value in (whitened, whitened_true)
    )
    if method.uses("loss_vdc"):
        terms["loss_vdc"] = losses.loss_vdc(predicted, true, model)
    if method.uses("loss_contour"):
        points = (projection.landmarks_crop(model, alpha)[..., :2] for alpha in (predicted, true))
        terms["loss_contour"] = losses.loss_contour(*points)
    return terms


def _wild_losses(
    result: forward.Reconstruction, wild: Faces, second_pass, marked, critic: Any, noise: jax.Array, method: Method
) -> dict[str, jax.Array]:
    """{name: [W]} of the four self-supervision losses that have a weight.

    second_pass: landmarks [W, 18, 2] -> Reconstruction. marked: Reconstruction -> the landmarks [W, P, 2] as
    the wild faces are marked. critic: the parameters of encoder and critic. noise: [W, 62], see `_critic_noise`.
    """
    count = len(method.landmark_weights)  # 18, or 21 with the jaw points, which are left if nothing weighs them
    given = wild.landmarks[:, :count]
    weights = jnp.asarray(method.landmark_weights) * wild.visible[:, :count]
    if method.equal_faces:
        weights = losses.equal_face_weights(weights, sum(method.landmark_weights))
    terms = {}
    if method.uses("loss_2d_con"):
        terms["loss_2d_con"] = losses.loss_2d_con(marked(result), given, weights)
    if method.uses(*SECOND_PASS_LOSSES):
        second = second_pass(method.heatmap.landmarks_18(result.landmarks))
        if method.uses("loss_3d_con"):
            terms["loss_3d_con"] = losses.loss_3d_con(result.landmarks, second.landmarks)
        if method.uses("loss_cyc"):
            terms["loss_cyc"] = losses.loss_cyc(marked(second), given, weights)
    if method.uses("loss_sc"):
        latent = jax.lax.stop_gradient(encode(critic, wild.image, method))
        terms["loss_sc"] = losses.loss_sc(_criticize(critic, latent, result.whitened + noise, method))
    return terms


def _marked(
    result: forward.Reconstruction, params: Any, model: MorphableModel, method: Method
) -> jax.Array:
    """[W, P, 2]: where those who marked the wild faces would set the landmarks."""
    offsets = params.get(landmark_offsets.NAME)
    return landmark_offsets.landmarks_as_marked(result, offsets, model, jaw=method.uses_jaw)


def _criticize(
    params: Any, latent: jax.Array, whitened: jax.Array, method: Method
) -> jax.Array:
    """Logits [B]. The critic does not see a t_z nobody trains: it would tell truth from prediction by it."""
    if not method.train_depth_offset:
        whitened = whitened.at[:, coefficients.DEPTH_OFFSET].set(0.0)
    return method.critic.apply({"params": params}, latent, whitened, method="criticize")


def encode(params: Any, images: jax.Array, method: Method) -> jax.Array:
    """Latent code z [B, Z] of images [B, 120, 120, 3] BGR 0..255."""
    return method.critic.apply(
        {"params": params}, forward.normalize_image(images), method="encode"
    )


def _critic_noise(faces: Faces, method: Method) -> jax.Array:
    """[B, 62] noise on the whitened coefficients that the critic sees, drawn from each face's position."""
    if not method.coefficient_noise:
        return jnp.zeros((len(faces.image), coefficients.NUM_COEFFICIENTS))
    draw = jax.vmap(lambda key: jax.random.normal(key, (coefficients.NUM_COEFFICIENTS,)))
    return method.coefficient_noise * draw(faces.critic_key)


class _Updated(NamedTuple):
    """The critic after its step: its state, its loss and the norm of its gradients."""

    critic: NetState
    loss: jax.Array
    gradient_norm: jax.Array


def regressor_loss(
    params: Any,
    state: TrainState,
    annotated: Faces,
    wild: Faces | None,
    model: MorphableModel,
    method: Method,
    *,
    update_critic: bool = False,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any, jax.Array | None, _Updated | None]]:
    """Total loss of the regressor (Section III-F) and (mean losses, new statistics, wild whitened, critic).

    Annotated and wild images go through the network as one batch, so that BatchNorm's statistics are
    those of real inputs; the second pass normalises by its own and leaves no trace in them.
    update_critic: whether the critic takes its step between the forward pass and L_sc.
    """
    stats = state.regressor.batch_stats
    inputs = network_inputs(annotated, method)
    if wild is not None:
        inputs = jnp.concatenate([inputs, network_inputs(wild, method)])
    whitened, updates = method.regressor.apply(
        {"params": params, "batch_stats": stats}, inputs, train=True, mutable=["batch_stats"]
    )
    count = len(annotated.image)
    terms = _annotated_losses(whitened[:count], annotated.whitened, model, method)
    wild_whitened, updated = None, None
    if wild is not None:
        wild_whitened = whitened[count:]
        if update_critic:
            updated = _update_critic(state, _critic_gradients(state, annotated, wild, wild_whitened, method), method)

        def regress(inputs):
            variables = {"params": params, "batch_stats": stats}
            return method.regressor.apply(variables, inputs, train=True, mutable=["batch_stats"])[0]

        def second_pass(points):
            seen = jnp.ones(points.shape[:-1])
            return forward.forward(regress, wild.image, points, seen, model, method.heatmap)

        result = forward.reconstruct(wild_whitened, model)
        marked = functools.partial(_marked, params=params, model=model, method=method)
        critic = (updated.critic if update_critic else state.critic).params
        terms |= _wild_losses(result, wild, second_pass, marked, critic, _critic_noise(wild, method), method)
    means = {name: method.loss_scale.get(name, 1.0) * jnp.mean(term) for name, term in terms.items()}
    total = sum(method.loss_weights.get(name, 0.0) * mean for name, mean in means.items())
    return total, (means | {"loss": total}, updates["batch_stats"], wild_whitened, updated)


def _apply_gradients(
    net: NetState, gradients: Any, stats: Any, optimizer: optax.GradientTransformation
) -> NetState:
    updates, opt_state = optimizer.update(gradients, net.opt_state, net.params)
    return NetState(optax.apply_updates(net.params, updates), stats, opt_state)


def _select(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _regressor_gradients(
    state: TrainState,
    annotated: Faces,
    wild: Faces | None,
    model: MorphableModel,
    method: Method,
    update_critic: bool = False,
) -> tuple[tuple[Any, dict[str, jax.Array], Any], jax.Array | None, _Updated | None]:
    """This device's (gradients of the total loss, metrics, new statistics), R(I) [W, 62], and the critic."""
    gradients, (metrics, stats, wild_whitened, updated) = jax.grad(regressor_loss, has_aux=True)(
        state.regressor.params, state, annotated, wild, model, method, update_critic=update_critic
    )
    return (gradients, metrics, stats), wild_whitened, updated


def _update_regressor(
    state: TrainState, found: tuple, method: Method
) -> tuple[NetState, dict[str, jax.Array]]:
    """Descends the total loss, encoder and critic held fixed -> (new regressor, metrics)."""
    gradients, metrics, stats = found
    gradients, metrics = averaging.over_devices((gradients, metrics), method.axis_name)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    return _apply_gradients(state.regressor, gradients, stats, method.regressor_optimizer), metrics


def critic_loss(
    params: Any, annotated: Faces, wild: Faces, wild_whitened: jax.Array, method: Method
) -> tuple[jax.Array, jax.Array]:
    """What the critic minimises, and -L_sc (Section III-E): alpha* against R(I), each with the code of its own image.

    Both are the same but for `method.label_smoothing`.
    """
    # Encoded apart, so that the compiler finds the wild code the regressor's loss needs as well.
    latent = [encode(params, faces.image, method) for faces in (annotated, wild)]
    noise = [_critic_noise(faces, method) for faces in (annotated, wild)]
    whitened = [annotated.whitened + noise[0], jax.lax.stop_gradient(wild_whitened) + noise[1]]
    logits = _criticize(params, jnp.concatenate(latent), jnp.concatenate(whitened), method)
    count = len(annotated.image)
    logits = logits[:count], logits[count:]
    return losses.loss_sc_critic(*logits, smoothing=method.label_smoothing), losses.loss_sc_critic(*logits)


def _critic_gradients(
    state: TrainState, annotated: Faces, wild: Faces, wild_whitened: jax.Array, method: Method
) -> tuple[Any, jax.Array]:
    """This device's gradients of encoder and critic, and -L_sc."""
    gradients, loss = jax.grad(critic_loss, has_aux=True)(
        state.critic.params, annotated, wild, wild_whitened, method
    )
    return gradients, loss


def _update_critic(state: TrainState, found: tuple, method: Method) -> _Updated:
    """Ascends L_sc in encoder and critic, the regressor's output held fixed."""
    gradients, loss = averaging.over_devices(found, method.axis_name)
    critic = _apply_gradients(state.critic, gradients, {}, method.critic_optimizer)
    return _Updated(critic, loss, optax.tree.norm(gradients))


def _prepare(batch: Batch, model: MorphableModel, method: Method) -> tuple[Faces, Faces | None]:
    annotated = prepare_annotated(batch["annotated"], model, method)
    needs_wild = method.uses(*WILD_LOSSES)
    return annotated, prepare_wild(batch["wild"], method) if needs_wild else None


def regressor_step(
    state: TrainState, batch: Batch, model: MorphableModel, *, method: Method
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The regressor's half of `train_step` alone; the critic is left bit-identical."""

    def gradients(part):
        return _regressor_gradients(state, *_prepare(part, model, method), model, method)[0]

    found = averaging.over_parts(gradients, batch, method.accumulate)
    new, metrics = _update_regressor(state, found, method)
    return state.replace(regressor=new), metrics


def critic_step(
    state: TrainState, batch: Batch, model: MorphableModel, *, method: Method
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The critic's half of `train_step` alone; the regressor is left bit-identical.

    Without a weight on `loss_sc` there is nothing to learn and the state comes back as it was.
    """
    if not method.uses("loss_sc"):
        return state, {}

    def gradients(part):
        annotated, wild = _prepare(part, model, method)
        _, (_, _, wild_whitened, _) = regressor_loss(
            state.regressor.params, state, annotated, wild, model, method
        )
        return _critic_gradients(state, annotated, wild, wild_whitened, method)

    found = averaging.over_parts(gradients, batch, method.accumulate)
    updated = _update_critic(state, found, method)
    return state.replace(critic=updated.critic), _critic_metrics(updated)


def _critic_metrics(updated: _Updated) -> dict[str, jax.Array]:
    return {METRIC_CRITIC: updated.loss, "gradient_norm_critic": updated.gradient_norm}


def _alternate(
    state: TrainState, batch: Batch, model: MorphableModel, method: Method
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The critic's step, then the regressor's against the new critic."""
    if method.accumulate > 1:  # the critic needs the gradients of all parts before the regressor's first
        half, metrics = critic_step(state, batch, model, method=method)
        new, of_regressor = regressor_step(half, batch, model, method=method)
        return new, metrics | of_regressor
    annotated, wild = _prepare(batch, model, method)
    found, _, updated = _regressor_gradients(
        state, annotated, wild, model, method, update_critic=method.uses("loss_sc")
    )
    regressor, metrics = _update_regressor(state, found, method)
    if updated is None:
        return state.replace(regressor=regressor), metrics
    return state.replace(regressor=regressor, critic=updated.critic), metrics | _critic_metrics(updated)


def _together(
    state: TrainState, batch: Batch, model: MorphableModel, method: Method
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Both steps, each seeing the other network as it was before."""

    def gradients(part):
        annotated, wild = _prepare(part, model, method)
        found, wild_whitened, _ = _regressor_gradients(state, annotated, wild, model, method)
        if not method.uses("loss_sc"):
            return found, None
        return found, _critic_gradients(state, annotated, wild, wild_whitened, method)

    of_regressor, of_critic = averaging.over_parts(gradients, batch, method.accumulate)
    regressor, metrics = _update_regressor(state, of_regressor, method)
    if of_critic is None:
        return state.replace(regressor=regressor), metrics
    updated = _update_critic(state, of_critic, method)
    return state.replace(regressor=regressor, critic=updated.critic), metrics | _critic_metrics(updated)


def train_step(
    state: TrainState, batch: Batch, model: MorphableModel, *, method: Method
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of critic and regressor, in the order of the module's docstring.

    With `method.accumulate` each part of a device's batch is normalised by its own statistics; the running
    ones move as by the parts' mean.

    Where a loss or the norm of a network's gradients is not finite, on any device, both networks with their
    statistics and optimisers stay as they were and the step counts as skipped.

    Returns:
      The new state, and {name: []} of the mean losses over all devices, the gradients' norms and whether
      the step was skipped.
    """
    new, metrics = (_alternate if method.alternate else _together)(state, batch, model, method)
    finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
    skipped = 1 - finite.astype(jnp.int32)
    new_state = TrainState(
        step=state.step + 1,
        skipped=state.skipped + skipped,
        skipped_in_a_row=(state.skipped_in_a_row + skipped) * skipped,
        regressor=_select(finite, new.regressor, state.regressor),
        critic=_select(finite, new.critic, state.critic),
    )
    return new_state, metrics | {"skipped": skipped.astype(jnp.float32)}
