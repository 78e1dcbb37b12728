"""One training step: regressor and critic, updated alternately. Pure; mapped over devices once.

What a batch holds is told in `twodal_jax.batch_faces`.
"""

import functools
from typing import Any

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
    result: forward.Reconstruction, wild: Faces, second_pass, marked, critic: NetState, method: Method
) -> dict[str, jax.Array]:
    """{name: [W]} of the four self-supervision losses that have a weight.

    second_pass: landmarks [W, 18, 2] -> Reconstruction. marked: Reconstruction -> the landmarks [W, P, 2] as
    the wild faces are marked.
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
        latent = jax.lax.stop_gradient(encode(critic.params, wild.image, method))
        terms["loss_sc"] = losses.loss_sc(_criticize(critic.params, latent, result.whitened, method))
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


def regressor_loss(
    params: Any,
    state: TrainState,
    annotated: Faces,
    wild: Faces | None,
    model: MorphableModel,
    method: Method,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any, jax.Array | None]]:
    """Total loss of the regressor (Section III-F) and (mean losses, new statistics, wild whitened).

    Annotated and wild images go through the network as one batch, so that BatchNorm's statistics are
    those of real inputs; the second pass normalises by its own and leaves no trace in them.
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
    wild_whitened = None
    if wild is not None:
        wild_whitened = whitened[count:]

        def regress(inputs):
            variables = {"params": params, "batch_stats": stats}
            return method.regressor.apply(variables, inputs, train=True, mutable=["batch_stats"])[0]

        def second_pass(points):
            seen = jnp.ones(points.shape[:-1])
            return forward.forward(regress, wild.image, points, seen, model, method.heatmap)

        result = forward.reconstruct(wild_whitened, model)
        marked = functools.partial(_marked, params=params, model=model, method=method)
        terms |= _wild_losses(result, wild, second_pass, marked, state.critic, method)
    means = {name: jnp.mean(term) for name, term in terms.items()}
    total = sum(method.loss_weights.get(name, 0.0) * mean for name, mean in means.items())
    return total, (means | {"loss": total}, updates["batch_stats"], wild_whitened)


def _apply_gradients(
    net: NetState, gradients: Any, stats: Any, optimizer: optax.GradientTransformation
) -> NetState:
    updates, opt_state = optimizer.update(gradients, net.opt_state, net.params)
    return NetState(optax.apply_updates(net.params, updates), stats, opt_state)


def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _select(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _regressor_gradients(
    state: TrainState, annotated: Faces, wild: Faces | None, model: MorphableModel, method: Method
) -> tuple[tuple[Any, dict[str, jax.Array], Any], jax.Array | None]:
    """This device's (gradients of the total loss, metrics, new statistics), and R(I) [W, 62]."""
    gradients, (metrics, stats, wild_whitened) = jax.grad(regressor_loss, has_aux=True)(
        state.regressor.params, state, annotated, wild, model, method
    )
    return (gradients, metrics, stats), wild_whitened


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
) -> jax.Array:
    """-L_sc (Section III-E): alpha* against R(I), each with the code of its own image."""
    # Encoded apart, so that the compiler finds the wild code the regressor's loss needs as well.
    latent = [encode(params, faces.image, method) for faces in (annotated, wild)]
    whitened = [annotated.whitened, jax.lax.stop_gradient(wild_whitened)]
    logits = _criticize(params, jnp.concatenate(latent), jnp.concatenate(whitened), method)
    count = len(annotated.image)
    return losses.loss_sc_critic(logits[:count], logits[count:])


def _critic_gradients(
    state: TrainState, annotated: Faces, wild: Faces, wild_whitened: jax.Array, method: Method
) -> tuple[Any, jax.Array]:
    """This device's (gradients, loss) of encoder and critic."""
    loss, gradients = jax.value_and_grad(critic_loss)(
        state.critic.params, annotated, wild, wild_whitened, method
    )
    return gradients, loss


def _update_critic(state: TrainState, found: tuple, method: Method) -> tuple[NetState, dict[str, jax.Array]]:
    """Ascends L_sc in encoder and critic, the regressor's output held fixed -> (new critic, metrics)."""
    gradients, loss = averaging.over_devices(found, method.axis_name)
    return _apply_gradients(state.critic, gradients, {}, method.critic_optimizer), {METRIC_CRITIC: loss}


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
        _, (_, _, wild_whitened) = regressor_loss(
            state.regressor.params, state, annotated, wild, model, method
        )
        return _critic_gradients(state, annotated, wild, wild_whitened, method)

    found = averaging.over_parts(gradients, batch, method.accumulate)
    new, metrics = _update_critic(state, found, method)
    return state.replace(critic=new), metrics


def train_step(
    state: TrainState, batch: Batch, model: MorphableModel, *, method: Method
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Both updates from one forward pass: each sees the other network as it was before the step.

    With `method.accumulate` each part of a device's batch is normalised by its own statistics; the running
    ones move as by the parts' mean.

    Where a loss or a gradient is not finite, on any device, both networks with their statistics and
    optimisers stay as they were and the step counts as skipped.

    Returns:
      The new state, and {name: []} of the mean losses over all devices, the gradient's norm and whether
      the step was skipped.
    """

    def gradients(part):
        annotated, wild = _prepare(part, model, method)
        found, wild_whitened = _regressor_gradients(state, annotated, wild, model, method)
        if not method.uses("loss_sc"):
            return found, None
        return found, _critic_gradients(state, annotated, wild, wild_whitened, method)

    of_regressor, of_critic = averaging.over_parts(gradients, batch, method.accumulate)
    regressor, metrics = _update_regressor(state, of_regressor, method)
    critic = state.critic
    if of_critic is not None:
        critic, critic_metrics = _update_critic(state, of_critic, method)
        metrics |= critic_metrics
    # The update of a non-finite gradient is itself not finite: looking at both covers everything.
    finite = _all_finite((metrics, regressor, critic))
    skipped = 1 - finite.astype(jnp.int32)
    new_state = TrainState(
        step=state.step + 1,
        skipped=state.skipped + skipped,
        skipped_in_a_row=(state.skipped_in_a_row + skipped) * skipped,
        regressor=_select(finite, regressor, state.regressor),
        critic=_select(finite, critic, state.critic),
    )
    return new_state, metrics | {"skipped": skipped.astype(jnp.float32)}
