"""Floating-point operations: by formula, layer by layer, and as the compiler counts them.

One multiply-add is two. The two counts are made from different things, a formula and a traced program, and so
check each other; what the compiler adds are the element-wise operations.
"""

from collections.abc import Callable

import jax

from twodal_jax.models.critic import CRITIC_FEATURES, ENCODER_FEATURES

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


def _convolution(size: int, kernel: int, wide: int, features: int) -> int:
    """Of a convolution with `size` x `size` results."""
    return 2 * size**2 * kernel**2 * wide * features


def resnet50_forward(variant: str = "authors") -> int:
    """Of one 120 x 120 x 4 input."""
    sizes = (30, 15, 8, 8 if variant == "authors" else 4)
    total, wide, before = _convolution(60, 7, 4, 64), 64, 30
    for (features, blocks), size in zip(STAGES, sizes):
        for block in range(blocks):
            here = before if block == 0 else size  # the stride is in the 3x3 convolution
            total += _convolution(here, 1, wide, features) + _convolution(size, 3, features, features)
            total += _convolution(size, 1, features, 4 * features)
            total += _convolution(size, 1, wide, 4 * features) if block == 0 else 0
            wide = 4 * features
        before = size
    return total + 2 * wide * 62


def encoder_forward() -> int:
    """Of one 120 x 120 x 3 image."""
    total, wide, size = 0, 3, 120
    for features in ENCODER_FEATURES:
        total += _convolution(size, 3, wide, features)
        wide, size = features, size // 2
    return total


def critic_forward() -> int:
    """Of one latent code with its coefficients."""
    sizes = (ENCODER_FEATURES[-1] + 62, *CRITIC_FEATURES, 1)
    return sum(2 * a * b for a, b in zip(sizes, sizes[1:]))


def paper_step(annotated: int, wild: int, *, stage: int = 1) -> float:
    """Of one step of `configs/paper.py`: stage 1 with all losses, stage 2 with VDC alone.

    A backward pass costs two forward passes. Stage 1: the regressor sees the wild images twice; the encoder
    and the critic are trained on both; the regressor's loss goes back through the critic's dense layers.
    """
    if stage == 2:
        return 3.0 * resnet50_forward() * annotated
    regressor = 3.0 * resnet50_forward() * (annotated + 2 * wild)
    encoder = 3.0 * encoder_forward() * (annotated + wild)
    critic = critic_forward() * (3.0 * (annotated + wild) + 2.0 * wild)
    return regressor + encoder + critic


def counted(function: Callable, *arguments, **keywords) -> dict[str, float]:
    """{"flops", "bytes"} as XLA counts them in the traced program, before anything is fused."""
    analysis = jax.jit(function).lower(*arguments, **keywords).cost_analysis()
    return {"flops": float(analysis["flops"]), "bytes": float(analysis["bytes accessed"])}
