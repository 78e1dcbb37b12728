"""What a whole run of configs/paper.py costs: counted FLOPs and bytes, and from them an ESTIMATE for fast devices.

    python -m benchmarks.paper_run [--quick]

FLOPs are counted twice: by formula (`benchmarks.flops`) and by XLA in the traced step. Bytes are XLA's count for the
step compiled here, where element-wise operations are fused as elsewhere. `--quick` does not compile: the bytes of the
unfused program are then an upper bound. Peaks are those of the makers' data sheets; the shares of them are assumed.
"""

import dataclasses
import functools

from benchmarks import flops, timing
from benchmarks.timing import Row
from twodal_jax import startup


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
# Assumed: the share of the peak the matrix products reach, the least with few images on a device, and the share of
# the bandwidth. A gradient or a layer's statistics cost a round of messages of so many seconds.
SHARES = (0.20, 0.35)
BANDWIDTH_SHARE = 0.7
ROUND_SECONDS = 15e-6
NORM_LAYERS = 53


@dataclasses.dataclass(frozen=True)
class StepCost:
    """FLOPs and bytes (bfloat16) of one step on all devices, and its images."""

    flops: float
    bytes: float
    passes: int


def estimate(cost: StepCost, chip: Chip, devices: int, share: float, parameters: float) -> float:
    """Seconds of a step: the slower of computing and moving memory, and what devices tell each other."""
    computing = cost.flops / devices / (share * chip.flops)
    moving = cost.bytes / devices / (BANDWIDTH_SHARE * chip.bandwidth)
    if devices == 1:
        return max(computing, moving)
    gradient = 2 * (devices - 1) / devices * 4 * parameters / chip.link
    rounds = 2 * NORM_LAYERS * cost.passes + 1  # statistics, forward and backward, in each pass
    return max(computing, moving) + gradient + rounds * ROUND_SECONDS


def stage_cost(stage: int, compile_it: bool) -> tuple[StepCost, dict[str, float], float]:
    """(cost, {counts to print}, parameters) of a step of configs/paper.py in stage 0 or 1."""
    import jax

    from benchmarks.two_dal_step import load_config, prepared
    from twodal_jax.train_state import num_parameters
    from twodal_jax.train_step import train_step

    config = load_config("paper", 32)
    method, state, batch, model = prepared(config, stage)
    lowered = jax.jit(functools.partial(train_step, method=method)).lower(state, batch, model)
    unfused = lowered.cost_analysis()
    counts = {
        "by formula, TFLOP": flops.paper_step(32, 32, stage=stage + 1) / 1e12,
        "by XLA, TFLOP": unfused["flops"] / 1e12,
        "bytes unfused, float32, GB": unfused["bytes accessed"] / 1e9,
    }
    moved = unfused["bytes accessed"]
    if compile_it:
        program = lowered.compile()
        moved = program.cost_analysis()["bytes accessed"]
        counts["bytes compiled, float32, GB"] = moved / 1e9
        counts["temporary memory, float32, GB"] = program.memory_analysis().temp_size_in_bytes / 1e9
    cost = StepCost(counts["by XLA, TFLOP"] * 1e12, moved / 2, 2 if stage == 0 else 1)
    return cost, counts, num_parameters(state.regressor.params)


def measure(options) -> list[Row]:
    """Counts, then the estimates."""
    startup.set_cpu_flags()
    from configs import paper

    config = paper.get_config()
    steps, rows, costs = (config.stage1.steps, config.stage2.steps), [], []
    for stage, count in enumerate(steps):
        cost, counts, parameters = stage_cost(stage, not options.quick)
        costs.append(cost)
        rows.append(Row(f"stage {stage + 1}: {count:,} steps of 32 + 32", None))
        rows += [Row(f"  {name.rpartition(', ')[0]}", value, name.rpartition(", ")[2]) for name, value in counts.items()]
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
