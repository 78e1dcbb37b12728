"""Cost of a whole run of configs/paper.py: FLOPs and bytes are counted; from them an ESTIMATE for fast devices.

    python -m benchmarks.paper_run [--quick]

FLOPs and bytes are counted twice. The estimate uses the formula (`benchmarks.flops`). XLA's counts check it: FLOPs of
the traced step, and bytes of the step compiled here (left out by `--quick`). Peaks are those of the data sheets. The
shares of the peaks are assumed.
"""

import dataclasses
import functools

from benchmarks import flops, timing
from benchmarks.timing import Row


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device by its data sheet.

    Attributes:
      flops: bfloat16 FLOP/s, dense. bandwidth: bytes/s of memory. link: bytes/s to its neighbours, one way.
    """

    name: str
    flops: float
    bandwidth: float
    link: float


# NVIDIA H100 SXM data sheet: 989 TFLOP/s bf16 without sparsity, 3.35 TB/s, NVLink 900 GB/s both ways together.
# Google Cloud, TPU v5e: 197 TFLOP/s bf16, 819 GB/s, 1,600 Gbit/s between chips.
H100 = Chip("H100 SXM", 989e12, 3.35e12, 450e9)
V5E = Chip("TPU v5e", 197e12, 819e9, 100e9)
SETUPS = ((H100, 1), (H100, 8), (V5E, 8))
# Assumptions: matrix products reach these shares of the peak, the smallest with few images on a device; memory reaches
# BANDWIDTH_SHARE of its bandwidth; a gradient or the statistics of a layer cost one message round of ROUND_SECONDS.
SHARES = (0.12, 0.20, 0.35)
BANDWIDTH_SHARE = 0.7
ROUND_SECONDS = 15e-6
NORM_LAYERS = 53


@dataclasses.dataclass(frozen=True)
class StepCost:
    """FLOPs and bytes (bfloat16) of one step on all devices, and its number of images."""

    flops: float
    bytes: float
    passes: int


def estimate(cost: StepCost, chip: Chip, devices: int, share: float, parameters: float) -> float:
    """Seconds of a step: the slower of arithmetic and memory traffic, plus the communication between devices."""
    computing = cost.flops / devices / (share * chip.flops)
    moving = cost.bytes / devices / (BANDWIDTH_SHARE * chip.bandwidth)
    if devices == 1:
        return max(computing, moving)
    gradient = 2 * (devices - 1) / devices * 4 * parameters / chip.link
    rounds = 2 * NORM_LAYERS * cost.passes + 1  # statistics, forward and backward, in each pass
    return max(computing, moving) + gradient + rounds * ROUND_SECONDS


def formula_cost(stage: int, parameters: int) -> StepCost:
    """FLOPs and bytes of a step of 32 + 32 images in stage 0 or 1.

    Bytes: those of the regressor's images, and its float32 parameters with gradient and momentum (7 passes).
    """
    images = 32 + 2 * 32 if stage == 0 else 32
    moved = 2 * flops.resnet50_training_values() * images + 7 * 4 * parameters
    return StepCost(flops.paper_step(32, 32, stage=stage + 1), moved, 2 if stage == 0 else 1)


def stage_cost(stage: int, compile_it: bool) -> tuple[StepCost, dict[str, float], float]:
    """(cost, {printed counts}, number of parameters) of a step of configs/paper.py in stage 0 or 1."""
    import jax

    from benchmarks.two_dal_step import load_config, prepared
    from twodal_jax.training.state import num_parameters
    from twodal_jax.training.step import train_step

    def lowered(dtype: str):
        spec, state, batch, model = prepared(load_config("paper", 32, dtype), stage)
        step = jax.jit(functools.partial(train_step, spec=spec)).lower(state, batch, model)
        return step, num_parameters(state.regressor.params)

    # bfloat16: in float32 some convolutions on a CPU take fewer operations than by their definition.
    step, parameters = lowered("bfloat16")
    cost = formula_cost(stage, parameters)
    counts = {
        "by formula, TFLOP": cost.flops / 1e12,
        "by XLA, TFLOP": step.cost_analysis()["flops"] / 1e12,
        "moved by formula, float32, GB": 2 * cost.bytes / 1e9,
    }
    if compile_it:
        program = lowered("float32")[0].compile()
        counts["moved by XLA, float32, GB"] = program.cost_analysis()["bytes accessed"] / 1e9
        counts["temporary memory, float32, GB"] = program.memory_analysis().temp_size_in_bytes / 1e9
    return cost, counts, parameters


def measure(options) -> list[Row]:
    """The rows of the counts, then those of the estimates."""
    from configs import paper

    config = paper.get_config()
    steps, rows, costs = (config.stage1.steps, config.stage2.steps), [], []
    for stage, count in enumerate(steps):
        cost, counts, parameters = stage_cost(stage, not options.quick)
        costs.append(cost)
        rows.append(Row(f"stage {stage + 1}: {count:,} steps of 32 + 32", None))
        rows += [
            Row(f"  {name.rpartition(', ')[0]}", value, name.rpartition(", ")[2]) for name, value in counts.items()
        ]
    for chip, devices in SETUPS:
        for share in reversed(SHARES):
            seconds = [estimate(cost, chip, devices, share, parameters) for cost in costs]
            hours = sum(a * b for a, b in zip(seconds, steps)) / 3600
            needed = 64 / seconds[0]
            note = (
                f"estimate: {1e3 * seconds[0]:.1f} and {1e3 * seconds[1]:.1f} ms a step; input of"
                f" {needed:,.0f} images/s in stage 1"
            )
            rows.append(Row(f"{devices} x {chip.name}, {100 * share:.0f} % of the peak", hours, "hours", note=note))
    return rows


if __name__ == "__main__":
    timing.run("A run of configs/paper.py (estimates for bfloat16)", __doc__, measure)
