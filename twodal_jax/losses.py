"""The losses of 2DAL, one function a term, unweighted: arrays with leading dimensions [...] -> one loss per face [...].

Notation: alpha* is the truth, alpha^ the prediction; H(alpha) are the 68 projected landmarks; x are the landmarks of
the input heatmap, y those of the prediction. The weights lambda are in the config (`config.stage1.loss_weights`);
`training.step` takes the mean over the batch. All losses are finite and have finite gradients everywhere, also at zero
distance and with no visible landmark.

Losses of landmarks and vertices are sums over landmarks in crop pixels, as in the paper. The paper's lambdas are
balanced only in another unit: see `unit_scale`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from twodal_jax.geometry import coefficients
from twodal_jax.geometry.morphable_model import landmarks_model, MorphableModel, NUM_DIRECTIONS
from twodal_jax.geometry.projection import CROP_SIZE

UNITS = ("pixel", "side")
REDUCTIONS = ("sum", "mean")
MAX_VISIBILITY_FACTOR = 4.0  # a face with still fewer visible landmarks carries too little information


def unit_scale(unit: str, reduction: str, landmark_weights: Sequence[float]) -> dict[str, float]:
    """{name: factor} that converts the losses of landmarks and vertices to a unit; other losses have none.

    Args:
      unit: "pixel", or "side" of the 120-pixel crop.
      reduction: "sum" over landmarks, or "mean": the sum divided by the total of the weights v, hidden landmarks
        included (by 68 for L_3d-con). VDC and the contour loss are means over vertices and points in both cases.
      landmark_weights: the mask v of L_2d-con and L_cyc, [18], or [21] with the jaw points.
    """
    length = 1.0 / CROP_SIZE if unit == "side" else 1.0
    count_2d, count_3d = (sum(landmark_weights), 68.0) if reduction == "mean" else (1.0, 1.0)
    return {
        "loss_2d_con": length / count_2d,
        "loss_3d_con": length / count_3d,
        "loss_cyc": length / count_2d,
        "loss_vdc": length**2,
        "loss_contour": length,
    }


def safe_norm(vectors: jax.Array) -> jax.Array:
    """Euclidean norm over the last axis; its gradient at 0 is 0."""
    squared = jnp.sum(vectors**2, axis=-1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def _check_same_shape(name_a: str, a: jax.Array, name_b: str, b: jax.Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"Expected `{name_a}` and `{name_b}` of one shape, got {a.shape} and {b.shape}.")


def coefficient_weights(
    alpha_true: jax.Array, alpha_predicted: jax.Array, model: MorphableModel, *, dims: int = 2
) -> jax.Array:
    """w_i of L_3d: how far an error in coefficient i alone moves the landmarks; their sum is 1.

    w_i is proportional to ||H(alpha^(i)) - H(alpha*)||, where alpha^(i) is alpha* with its i-th entry predicted. H is
    linear in each single coefficient, so this norm is |alpha^_i - alpha*_i| times the norm of dH/dalpha_i at alpha*:
    exact, without 62 projections.

    Args:
      alpha_true: [..., 62], raw.
      alpha_predicted: [..., 62], raw.
      model: the morphable model; its landmarks suffice.
      dims: 2 is the paper's text (2D landmarks: the third row of the pose then has weight 0); 3 keeps z, as the
        implementation of the paper's reference [69] does.

    Returns:
      [..., 62], non-negative, sum 1 (all 0 where the prediction is exact). No gradient flows through.
    """
    if dims not in (2, 3):
        raise ValueError(f"`dims` must be 2 or 3, got {dims}.")
    _check_same_shape("alpha_true", alpha_true, "alpha_predicted", alpha_predicted)
    alpha_true, alpha_predicted = map(jax.lax.stop_gradient, (alpha_true, alpha_predicted))
    pose, _, _ = coefficients.split(alpha_true)
    points = landmarks_model(model, alpha_true)
    columns = jnp.sqrt(jnp.sum(points**2, axis=-2))
    shift = jnp.full((*columns.shape[:-1], 1), jnp.sqrt(points.shape[-2]))
    row = jnp.concatenate([columns, shift], axis=-1)
    rows = [row if i < dims else jnp.zeros_like(row) for i in range(3)]
    # ||M B_k||^2 = sum_ij (M^T M)_ij (B_k B_k^T)_ij
    linear = pose[..., :dims, :3]
    metric = jnp.einsum("...di,...dj->...ij", linear, linear, precision=jax.lax.Precision.HIGHEST)
    basis_gram = jnp.einsum(
        "kip,kjp->kij", model.landmark_basis, model.landmark_basis, precision=jax.lax.Precision.HIGHEST
    )
    squared = jnp.einsum("...ij,kij->...k", metric, basis_gram, precision=jax.lax.Precision.HIGHEST)
    sensitivity = jnp.concatenate([*rows, jnp.sqrt(jnp.maximum(squared, 0.0))], axis=-1)
    moved = jnp.abs(alpha_predicted - alpha_true) * sensitivity
    total = moved.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, moved / jnp.where(total > 0, total, 1.0), 0.0)


def loss_3d(
    whitened_predicted: jax.Array, whitened_true: jax.Array, model: MorphableModel, *, dims: int = 2
) -> jax.Array:
    """L_3d = (alpha* - alpha^)^T W (alpha* - alpha^), Section III-C, on whitened coefficients [..., 62] -> [...].

    dims: see `coefficient_weights`.
    """
    _check_same_shape("whitened_predicted", whitened_predicted, "whitened_true", whitened_true)
    alpha_predicted, alpha_true = (
        coefficients.unwhiten(whitened, model.alpha_mean, model.alpha_std)
        for whitened in (whitened_predicted, whitened_true)
    )
    weights = coefficient_weights(alpha_true, alpha_predicted, model, dims=dims)
    return jnp.sum(weights * (whitened_predicted - whitened_true) ** 2, axis=-1)


def loss_2d_con(landmarks_predicted: jax.Array, landmarks: jax.Array, weights: jax.Array) -> jax.Array:
    """L_2d-con = sum_i v_i ||x_i - y_i||, Section III-D.

    Args:
      landmarks_predicted: [..., 18, 2], crop pixels.
      landmarks: [..., 18, 2], crop pixels; invisible ones may have any coordinates, NaN included.
      weights: [..., 18], the mask v of Fig. 4, 0 for an invisible landmark.

    Returns:
      [...], pixels.
    """
    _check_same_shape("landmarks_predicted", landmarks_predicted, "landmarks", landmarks)
    counted = jnp.broadcast_to(weights, landmarks.shape[:-1]) > 0
    difference = jnp.where(counted[..., None], landmarks_predicted - landmarks, 0.0)
    return jnp.sum(weights * safe_norm(difference), axis=-1)


def normalize_by_visibility(weights: jax.Array, total: float) -> jax.Array:
    """Landmark weights of each face scaled to the sum `total`, however few landmarks are visible. Ours.

    Without it a profile, with half of its landmarks visible, counts half of a frontal face in the sum of L_2d-con.
    [..., P], 0 for an invisible landmark -> [..., P]; the factor is at most `MAX_VISIBILITY_FACTOR`.
    """
    share = jnp.sum(weights, axis=-1, keepdims=True) / total
    return weights / jnp.maximum(share, 1 / MAX_VISIBILITY_FACTOR)


def loss_3d_con(landmarks_forward: jax.Array, landmarks_backward: jax.Array) -> jax.Array:
    """L_3d-con = sum_i ||x3d_i - x^3d_i|| between the first and the second pass, Section III-D.

    Landmarks [..., 68, 3], crop pixels with z -> [...], pixels.
    """
    _check_same_shape("landmarks_forward", landmarks_forward, "landmarks_backward", landmarks_backward)
    return jnp.sum(safe_norm(landmarks_forward - landmarks_backward), axis=-1)


def loss_cyc(landmarks_second_pass: jax.Array, landmarks: jax.Array, weights: jax.Array) -> jax.Array:
    """L_cyc = L_2d-con(x, x^) between the input landmarks and those of the second pass, Section III-D.

    Arguments as in `loss_2d_con`.
    """
    return loss_2d_con(landmarks_second_pass, landmarks, weights)


def loss_sc_critic(logits_true: jax.Array, logits_predicted: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """-L_sc, Section III-E, the loss of critic and encoder: -(log C(z*, alpha*) + log(1 - C(z, R(I)))).

    logits_true: [A], annotated pairs. logits_predicted: [B], wild pairs -> []: the mean over each.
    smoothing: e, label smoothing of both labels (Salimans et al. 2016): the critic learns 1 - e and e in place of 1 and
    0. A critic that separates both sets then ends at C = e for predictions, where the gradient of log(1 - C) with
    respect to its logit is -e, and not 0. The paper's is 0.
    """

    def cross_entropy(logits, label):
        return -jnp.mean(label * jax.nn.log_sigmoid(logits) + (1.0 - label) * jax.nn.log_sigmoid(-logits))

    return cross_entropy(logits_true, 1.0 - smoothing) + cross_entropy(logits_predicted, smoothing)


def loss_sc(logits_predicted: jax.Array) -> jax.Array:
    """Part of L_sc that trains the regressor: log(1 - C(z, R(I))), Section III-E; logits [...] -> [...]."""
    return jax.nn.log_sigmoid(-logits_predicted)


def loss_vdc_dense(vertices_predicted: jax.Array, vertices_true: jax.Array) -> jax.Array:
    """VDC by its definition, the mean squared distance of vertices. Source: 3DDFA (reference [69]).

    Vertices [..., N, 3], crop pixels -> [...], square pixels.
    """
    _check_same_shape("vertices_predicted", vertices_predicted, "vertices_true", vertices_true)
    return jnp.mean(jnp.sum((vertices_predicted - vertices_true) ** 2, axis=-1), axis=-1)


def _vertex_rows(alpha: jax.Array) -> jax.Array:
    """[..., 3, 154]: matrix whose product with [1, mean_n, basis_n] is the projected vertex n."""
    pose, shape, expression = coefficients.split(alpha)
    linear, shift = pose[..., :3], pose[..., 3:]
    scaled = jnp.concatenate([shape, expression], axis=-1)[..., None, :, None] * linear[..., :, None, :]
    flat = scaled.reshape(*linear.shape[:-1], 3 * NUM_DIRECTIONS)
    return jnp.concatenate([shift, linear, flat], axis=-1)


def loss_vdc(alpha_predicted: jax.Array, alpha_true: jax.Array, model: MorphableModel) -> jax.Array:
    """VDC in closed form: equals `loss_vdc_dense` without computing a mesh.

    A projected vertex is P(alpha) phi_n with P 3x154 and phi_n = [1, mean_n, basis_n]. So the mean over n of
    ||(P^ - P*) phi_n||^2 is the squared norm of (P^ - P*) R^T, where R is the factor of phi's Gram matrix. The factor
    keeps float32's digits, the Gram matrix would not.

    alpha_predicted, alpha_true: [..., 62], raw -> [...], square pixels of the crop.
    """
    _check_same_shape("alpha_predicted", alpha_predicted, "alpha_true", alpha_true)
    difference = _vertex_rows(alpha_predicted) - _vertex_rows(alpha_true)
    spread = jnp.matmul(difference, model.vertex_factor.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(spread**2, axis=(-2, -1))


def loss_pdc(whitened_predicted: jax.Array, whitened_true: jax.Array) -> jax.Array:
    """Mean squared distance of whitened coefficients [..., 62] -> [...]: the DeFA-style baseline's parameter loss."""
    _check_same_shape("whitened_predicted", whitened_predicted, "whitened_true", whitened_true)
    return jnp.mean((whitened_predicted - whitened_true) ** 2, axis=-1)


def loss_contour(landmarks_predicted: jax.Array, landmarks: jax.Array, *, points_between: int = 4) -> jax.Array:
    """Contour fitting constraint similar to DeFA's (reference [50]): the jaw's outline may slide along the true one.

    Mean over the points of the true outline of the distance to the nearest point of the predicted outline. An outline
    is the jaw's 17 landmarks with `points_between` - 1 more between neighbours.

    landmarks_predicted, landmarks: [..., 68, 2], crop pixels -> [...], pixels.
    """
    _check_same_shape("landmarks_predicted", landmarks_predicted, "landmarks", landmarks)
    predicted, true = (_outline(points, points_between) for points in (landmarks_predicted, landmarks))
    apart = true[..., :, None, :] - predicted[..., None, :, :]
    nearest = jnp.argmin(jnp.sum(apart**2, axis=-1), axis=-1)
    chosen = jnp.take_along_axis(predicted, nearest[..., None], axis=-2)
    return jnp.mean(safe_norm(true - chosen), axis=-1)


def _outline(landmarks: jax.Array, points_between: int) -> jax.Array:
    """[..., 68, 2] -> [..., 16 points_between + 1, 2]: the jaw, landmarks 0 to 16, resampled."""
    jaw = landmarks[..., :17, :]
    share = jnp.arange(points_between)[:, None] / points_between
    stretches = jaw[..., :-1, None, :] * (1 - share) + jaw[..., 1:, None, :] * share
    flat = stretches.reshape(*jaw.shape[:-2], 16 * points_between, 2)
    return jnp.concatenate([flat, jaw[..., -1:, :]], axis=-2)
