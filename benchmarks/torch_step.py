"""One step of 2DAL in plain PyTorch, for comparison of times only: critic and regressor, stage 1.

The formulas are those of `twodal_jax.losses`, without augmentation and without noise on the critic's input. The losses
of the first step are compared with JAX's, which shows that both do the same work.
"""

import numpy as np
import torch
from torch.nn import functional

from benchmarks.torch_networks import EncoderCritic, load, Regressor, to_torch
from twodal_jax.geometry import heatmap
from twodal_jax.geometry.coefficients import T_Z_INDEX

SIZE = 120


class Face:
    """The small arrays of a morphable model, as tensors."""

    def __init__(self, model):
        names = ("landmark_mean", "landmark_basis", "alpha_mean", "alpha_std")
        self.mean, self.basis, self.alpha_mean, self.alpha_std = (
            to_torch(np.asarray(getattr(model, name))) for name in names
        )

    def unwhiten(self, whitened):
        return whitened * self.alpha_std + self.alpha_mean

    def shape(self, alpha):
        """[B, 62] -> [B, 3, 68], model frame."""
        return torch.einsum("bk,kcp->bcp", alpha[:, 12:], self.basis) + self.mean

    def landmarks(self, alpha):
        """[B, 62] -> [B, 68, 3], crop pixels, y down."""
        pose = alpha[:, :12].reshape(-1, 3, 4)
        points = (pose[:, :, :3] @ self.shape(alpha) + pose[:, :, 3:]).transpose(1, 2)
        return torch.stack([points[..., 0], SIZE + 1 - points[..., 1], points[..., 2]], -1)


def landmarks_18(points):
    """[B, 68, 3] -> [B, 18, 2]."""
    return (points[:, heatmap.LANDMARK_PAIRS_68[:, 0], :2] + points[:, heatmap.LANDMARK_PAIRS_68[:, 1], :2]) / 2


def draw(points, visible, sigma):
    """Heatmap [B, 1, 120, 120] of points [B, 18, 2]."""
    grid = torch.arange(SIZE, dtype=torch.float32)
    across, down = (grid - points[..., 0, None]) ** 2, (grid - points[..., 1, None]) ** 2
    down = torch.where(visible[..., None] > 0, down, torch.inf)
    nearest = (down[..., :, None] + across[..., None, :]).amin(1, keepdim=True)
    return 2 * torch.exp(-nearest / (2 * sigma**2)) - 1


def distance(a, b):
    """Euclidean distance with a gradient of 0 at 0."""
    squared = ((a - b) ** 2).sum(-1)
    return torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).sqrt(), 0.0)


def weighted_coefficients(face, whitened, true):
    """L_3d in three dimensions, [B]."""
    with torch.no_grad():
        alpha, wrong = face.unwhiten(true), face.unwhiten(whitened)
        points = face.shape(alpha)
        columns = points.square().sum(-1).sqrt()
        row = torch.cat([columns, torch.full_like(columns[:, :1], 68**0.5)], 1)
        linear = alpha[:, :12].reshape(-1, 3, 4)[:, :, :3]
        moved = torch.einsum("bdi,kip->bkdp", linear, face.basis).flatten(2).norm(dim=-1)
        weights = (wrong - alpha).abs() * torch.cat([row, row, row, moved], 1)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-30)
    return (weights * (whitened - true) ** 2).sum(1)


class Step:
    """Networks, optimisers and one step.

    Args:
      params, critic_params: of `TrainState`'s networks. model: the morphable model. spec: the stage's.
      learning_rate, weight_decay: of SGD. autocast: whether the networks compute in bfloat16.
    """

    def __init__(self, params, critic_params, model, spec, learning_rate, weight_decay, autocast=False):
        self.regressor, self.critic = Regressor(), EncoderCritic()
        load(self.regressor, params)
        load(self.critic, critic_params)
        self.face, self.autocast, self.loss_weights = Face(model), autocast, spec.loss_weights
        self.loss_scale, self.smoothing = spec.loss_scale, spec.label_smoothing
        self.landmark_weights = torch.tensor(spec.landmark_weights)
        self.sigma = spec.heatmap.sigma
        self.sgd = torch.optim.SGD(self.regressor.parameters(), learning_rate, momentum=0.9, weight_decay=weight_decay)
        self.adam = torch.optim.Adam(self.critic.parameters(), 1e-4)

    def inputs(self, image, points, visible):
        return torch.cat([image, draw(points, visible, self.sigma)], 1)

    def regress(self, inputs):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.regressor(inputs).float()

    def encode(self, image):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.critic.encoder(image).float()

    def criticize(self, latent, whitened):
        return self.critic.critic(latent, whitened.index_fill(1, torch.tensor([T_Z_INDEX]), 0.0))

    def __call__(self, batch) -> dict[str, float]:
        """batch: in the format of `training.step`, images of 120 pixels -> losses."""
        annotated, wild = (
            {k: to_torch(v) for k, v in batch[name].items() if k != "position"} for name in ("annotated", "wild")
        )
        images = [(part["image"].float() - 127.5) / 128 for part in (annotated, wild)]
        face, count = self.face, len(images[0])
        true = (annotated["alpha"] - face.alpha_mean) / face.alpha_std
        seen = torch.ones(count, 18)
        given, visible = wild["landmarks"], wild["visible"]
        inputs = torch.cat(
            [
                self.inputs(images[0], landmarks_18(face.landmarks(annotated["alpha"])), seen),
                self.inputs(images[1], given, visible),
            ]
        )
        whitened = self.regress(inputs)
        points = face.landmarks(face.unwhiten(whitened[count:]))
        second = self._second_pass(images[1], landmarks_18(points))
        critic_loss = self._critic_update(images, true, whitened[count:].detach())
        terms = self._terms(whitened, true, points, second, given, visible)
        with torch.no_grad():
            latent = self.encode(images[1])
        terms["loss_sc"] = functional.logsigmoid(-self.criticize(latent, whitened[count:])).mean()
        terms = {name: self.loss_scale.get(name, 1.0) * term for name, term in terms.items()}
        total = sum(self.loss_weights[name] * term for name, term in terms.items())
        self.sgd.zero_grad(set_to_none=True)
        total.backward()
        self.sgd.step()
        terms["loss_sc_critic"] = critic_loss
        return {name: float(term.detach()) for name, term in terms.items()}

    def _second_pass(self, image, points):
        """Landmarks of the wild images with the first prediction as heatmap; the running statistics do not change."""
        norms = [m for m in self.regressor.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.track_running_stats, norm.saved = False, (norm.running_mean, norm.running_var)
            norm.running_mean = norm.running_var = None
        whitened = self.regress(self.inputs(image, points, torch.ones(points.shape[:2])))
        for norm in norms:
            norm.track_running_stats = True
            norm.running_mean, norm.running_var = norm.saved
        return self.face.landmarks(self.face.unwhiten(whitened))

    def _terms(self, whitened, true, points, second, given, visible):
        count = len(true)
        weights = self.landmark_weights * visible
        predicted = whitened[:count].clone()
        predicted[:, T_Z_INDEX] = true[:, T_Z_INDEX]
        return {
            "loss_3d": weighted_coefficients(self.face, predicted, true).mean(),
            "loss_2d_con": (weights * distance(landmarks_18(points), given)).sum(1).mean(),
            "loss_3d_con": distance(points, second).sum(1).mean(),
            "loss_cyc": (weights * distance(landmarks_18(second), given)).sum(1).mean(),
        }

    def _critic_update(self, images, true, predicted):
        """Updates encoder and critic on soft labels; returns -L_sc of the labels 1 and 0."""
        self.adam.zero_grad(set_to_none=True)
        latents = [self.encode(image) for image in images]
        real, made = self.criticize(latents[0], true), self.criticize(latents[1], predicted)

        def cross_entropy(smoothing):
            soft = (torch.full_like(logits, label) for logits, label in ((real, 1 - smoothing), (made, smoothing)))
            return sum(map(functional.binary_cross_entropy_with_logits, (real, made), soft))

        cross_entropy(self.smoothing).backward()
        self.adam.step()
        return cross_entropy(0.0)
