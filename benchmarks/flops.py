"""Floating-point operations by formula, layer by layer, and as the compiler counts them.

One multiply-add is two operations. The two counts have independent sources, a formula and a traced program, and check
each other. The compiler's count also contains the element-wise operations.
"""

import dataclasses
from collections.abc import Callable

import jax

from twodal_jax.models.critic import CRITIC_FEATURES, ENCODER_FEATURES

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution of ResNet-50: `kernel`, channels in and out, and the sides of its input and its output."""

    kernel: int
    wide: int
    features: int
    size_in: int
    size: int

    @property
    def flops(self) -> int:
        return 2 * self.size**2 * self.kernel**2 * self.wide * self.features


def resnet50_layers(variant: str = "authors") -> list[Layer]:
    """Every convolution of the network for a 120 x 120 x 4 input; batch normalisation follows each of them."""
    sizes = (30, 15, 8, 8 if variant == "authors" else 4)
    layers, wide, before = [Layer(7, 4, 64, 120, 60)], 64, 30
    for (features, blocks), size in zip(STAGES, sizes):
        for block in range(blocks):
            here = before if block == 0 else size  # the stride is in the 3x3 convolution
            layers += [
                Layer(1, wide, features, here, here),
                Layer(3, features, features, here, size),
                Layer(1, features, 4 * features, size, size),
            ]
            layers += [Layer(1, wide, 4 * features, here, size)] if block == 0 else []
            wide = 4 * features
        before = size
    return layers


def resnet50_forward(variant: str = "authors") -> int:
    """FLOPs of one 120 x 120 x 4 input."""
    return sum(layer.flops for layer in resnet50_layers(variant)) + 2 * 4 * STAGES[-1][0] * 62


def resnet50_training_values(variant: str = "authors") -> int:
    """Values read from or written to memory in the pass and the gradient of one image, element-wise operations fused.

    A convolution reads its input and writes its output; for the gradients it reads the input once and the
    output's gradient twice, and writes the input's gradient. Batch normalisation with its ReLU reads its
    input twice (statistics, values) and writes; its gradient reads two arrays twice and writes one.
    """
    total = 0
    for layer in resnet50_layers(variant):
        values_in, values = layer.size_in**2 * layer.wide, layer.size**2 * layer.features
        total += 3 * values_in + 3 * values + 8 * values
    return total


def encoder_forward() -> int:
    """FLOPs of one 120 x 120 x 3 image."""
    total, wide, size = 0, 3, 120
    for features in ENCODER_FEATURES:
        total += Layer(3, wide, features, size, size).flops
        wide, size = features, size // 2
    return total


def critic_forward() -> int:
    """FLOPs of one latent code with its coefficients."""
    sizes = (ENCODER_FEATURES[-1] + 62, *CRITIC_FEATURES, 1)
    return sum(2 * a * b for a, b in zip(sizes, sizes[1:]))


def paper_step(annotated: int, wild: int, *, stage: int = 1) -> float:
    """FLOPs of one step of `configs/paper.py`: stage 1 with all losses, stage 2 with VDC alone.

    A backward pass costs as much as two forward passes. Stage 1: the regressor processes the wild images twice; the
    encoder and the critic train on both sets; the new encoder processes the wild images once more, and the gradient of
    the regressor's loss passes through the critic's dense layers.
    """
    if stage == 2:
        return 3.0 * resnet50_forward() * annotated
    regressor = 3.0 * resnet50_forward() * (annotated + 2 * wild)
    encoder = encoder_forward() * (3.0 * (annotated + wild) + wild)
    critic = critic_forward() * (3.0 * (annotated + wild) + 2.0 * wild)
    return regressor + encoder + critic


def counted(function: Callable, *arguments, **keywords) -> dict[str, float]:
    """{"flops", "bytes"} of the traced program as XLA counts them, before any fusion."""
    analysis = jax.jit(function).lower(*arguments, **keywords).cost_analysis()
    return {"flops": float(analysis["flops"]), "bytes": float(analysis["bytes accessed"])}
