"""Training steps of ResNet-50 and of 2DAL on one GPU or TPU: images/s, shares of the measured peaks, and the limit.

    python -m benchmarks.accelerator [--quick]

Needs neither TensorFlow nor data. Where PyTorch can use the GPU, its plain step is timed in turn with JAX's. The same
run measures the peaks: a large matrix product, and a large copy (bytes read plus bytes written). A step is timed in a
queue of steps, as in the training loop. The times at two batch sizes give the cost before the first image (kernels too
small to fill the device, and the waits between them) and the cost of each further image.

Programs are compiled one after the other, smallest first. Each row is printed to standard error as soon as it is
measured: on a GPU, XLA tries out the kernels of every convolution, which takes minutes, and longer on a busy device.
"""

import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks import flops, timing
from benchmarks.timing import Row
from benchmarks.train_step import have_torch

BARS = {("bfloat16", 32): 20.0, ("bfloat16", 256): 35.0}  # least share of the measured bfloat16 peak, per cent
SIZES = (("bfloat16", 32), ("float32", 32), ("bfloat16", 256))
QUEUED = 20  # steps
ROUNDS = 5
COPIED = 2**30  # float32 values


@dataclasses.dataclass
class Step:
    """A compiled training step. `queued` runs steps and waits for the last; `bytes_moved` and `held` are XLA's."""

    queued: Callable[[int], None]
    bytes_moved: float
    held: float


def copy_bandwidth(seconds: float = 0.5) -> float:
    """Bytes read plus bytes written per second: the best copy within a number of seconds."""
    import jax
    import jax.numpy as jnp

    values = jnp.ones(COPIED // (64 if jax.default_backend() == "cpu" else 1), jnp.float32)
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    values = add(values).block_until_ready()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        values = add(values).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * values.nbytes / best


def resnet50_step(dtype: str, batch: int) -> Step:
    """The compiled supervised step of `networks.supervised_step`."""
    import jax

    from benchmarks import networks

    start, step = networks.supervised_step(networks.resnet50(dtype))
    inputs, true = map(jax.device_put, networks.network_batch(batch))
    box = [start()]
    program = step.lower(box[0], inputs, true).compile()

    def queued(steps: int) -> None:
        for _ in range(steps):
            box[0], loss = program(box[0], inputs, true)
        loss.block_until_ready()

    queued(2)
    analysis, memory = program.cost_analysis() or {}, program.memory_analysis()
    return Step(queued, float(analysis.get("bytes accessed", 0.0)), float(memory.temp_size_in_bytes if memory else 0))


def torch_step(dtype: str, batch: int, channels_last: bool) -> Callable[[int], None]:
    """The plain PyTorch step (eager, autocast for bfloat16) on its GPU: runs steps and waits for the last."""
    import torch

    from benchmarks import networks
    from benchmarks.torch_networks import Regressor, supervised_step

    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA does
    faces = networks.network_batch(batch)
    step = supervised_step(Regressor(), *faces, dtype, device="cuda", channels_last=channels_last)

    def queued(steps: int) -> None:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()

    queued(3)
    return queued


def torch_sees_a_gpu() -> bool:
    """Whether PyTorch is installed and can use a GPU."""
    if not have_torch():
        return False
    import torch

    return torch.cuda.is_available()


def resnet50_rows(dtype: str, batch: int, peak: float, bandwidth: float) -> list[Row]:
    """Images/s and shares of the peaks (FLOP/s, bytes/s) of one step. The value of the first row is its time in ms."""
    began = time.perf_counter()
    step = resnet50_step(dtype, batch)
    compiling = time.perf_counter() - began
    jobs = {"jax": functools.partial(step.queued, QUEUED), "waited": functools.partial(step.queued, 1)}
    if torch_sees_a_gpu():
        for name, channels_last in (("torch", False), ("torch, channels_last", True)):
            jobs[name] = functools.partial(torch_step(dtype, batch, channels_last), QUEUED)
    times = timing.in_turn(jobs, ROUNDS)
    seconds = statistics.median(times["jax"]) / QUEUED
    share = 100 * 3 * flops.resnet50_forward() * batch / seconds / peak
    moved = 100 * step.bytes_moved / seconds / bandwidth
    note = f"{batch / seconds:,.0f} images/s; holds {step.held / 2**20:,.0f} MB; compiled in {compiling:.0f} s"
    return [
        Row(f"ResNet-50 step, batch {batch}, {dtype}", 1e3 * seconds, "ms", note=note),
        Row("  share of the GEMM peak", share, "%", BARS.get((dtype, batch)), True, "hand-counted FLOPs"),
        Row("  share of the copy's bandwidth", moved, "%", note=f"{step.bytes_moved / 1e9:.2f} GB, by XLA"),
        Row("  waited for after each step", timing.median_ms(times["waited"]), "ms"),
        *(
            Row(f"  time / {name}", timing.ratio(times["jax"], times[name]), "x")
            for name in jobs
            if name.startswith("torch")
        ),
    ]


def limit_rows(few: tuple[int, float], many: tuple[int, float]) -> list[Row]:
    """The cost of a step before its first image and the cost of each image, from two (batch, milliseconds)."""
    each = (many[1] - few[1]) / (many[0] - few[0])
    fixed = few[1] - few[0] * each
    note = f"{100 * fixed / few[1]:.0f} % of a step of {few[0]}"
    return [Row("before the first image", fixed, "ms", note=note), Row("each image", 1e3 * each, "us")]


def measure(options) -> list[Row]:
    """All rows; each is printed as soon as it is measured."""
    from benchmarks import two_dal_step

    rows = []

    def show(new: list[Row]) -> None:
        rows.extend(new)
        print(timing.table("", new), file=sys.stderr, flush=True)

    peaks = {dtype: timing.measured_peak(dtype) for dtype in ("bfloat16", "float32")}
    bandwidth = copy_bandwidth()
    show([Row(f"GEMM peak, {dtype}", peak / 1e12, "TFLOP/s") for dtype, peak in peaks.items()])
    show([Row("copy", bandwidth / 1e12, "TB/s")])
    found = {}  # milliseconds
    for dtype, batch in SIZES[:1] if options.quick else SIZES:
        new = resnet50_rows(dtype, batch, peaks[dtype], bandwidth)
        show(new)
        found[dtype, batch] = new[0].value
    if not options.quick:
        title = Row("ResNet-50 step, bfloat16", None)
        show([title, *limit_rows((32, found["bfloat16", 32]), (256, found["bfloat16", 256]))])
    config = two_dal_step.load_config("paper", 32, "bfloat16")
    for stage in (0,) if options.quick else (0, 1):
        show(two_dal_step.stage_rows(config, stage, ROUNDS, peaks["bfloat16"]))
    return rows


if __name__ == "__main__":
    timing.run("Training steps on an accelerator", __doc__, measure)
