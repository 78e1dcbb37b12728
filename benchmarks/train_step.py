"""ResNet-50's training step and inference against plain PyTorch, and as a share of the machine's peak.

    python -m benchmarks.train_step [--quick]

Jobs run in turn, each in its own process as its users run it (JAX's training with `xla_flags.HUGE_PAGES`); a ratio is
the median of the rounds' ratios. PyTorch is timed with and without that setting, and the faster one counts. Without
PyTorch (requirements-benchmarks.txt) there is no comparison.
"""

import importlib.util
import os

from benchmarks import timing
from benchmarks.apart import Apart, AS_IN_TRAINING, AS_THE_SYSTEM_HAS_IT, in_turn
from benchmarks.timing import median_ms, ratio, Row

FORWARD_BACKWARD = 3  # a backward pass costs two forward passes


def have_torch() -> bool:
    """Whether PyTorch is installed; it is then set to use all cores, as XLA does."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    torch.set_num_threads(os.cpu_count())
    return True


def jax_training(batch: int, dtype: str, plain: bool = False):
    """A job that takes one step, and the loss of the first step. plain: without Winograd's convolutions."""
    import jax

    from benchmarks import networks
    from twodal_jax.models.cpu import winograd

    if plain:
        winograd.MIN_CHANNELS = float("inf")
    start, step = networks.supervised_step(networks.resnet50(dtype))
    inputs, true = map(jax.device_put, networks.network_batch(batch))
    box = [start()]

    def job():
        box[0], loss = step(box[0], inputs, true)
        return float(loss)

    return job, job()


def counted_step(batch: int) -> float:
    """FLOPs of the float32 step as it is traced on this machine."""
    import jax

    from benchmarks import flops, networks

    start, step = networks.supervised_step(networks.resnet50())
    return flops.counted(step, jax.eval_shape(start), *networks.network_batch(batch))["flops"]


def torch_training(batch: int, dtype: str, channels_last: bool = False):
    """The same in PyTorch, from the same parameters."""
    from benchmarks import networks
    from benchmarks.torch_networks import load, Regressor, supervised_step

    have_torch()
    network = Regressor()
    load(network, networks.variables_of(networks.resnet50(dtype))["params"])
    step = supervised_step(network, *networks.network_batch(batch), dtype, channels_last=channels_last)

    def job():
        return float(step())

    return job, job()


def torch_jobs(maker: str, *arguments) -> dict[str, Apart]:
    """{name: job} of a PyTorch job with each memory setting; empty without PyTorch."""
    if not have_torch():
        return {}
    return {
        "torch": Apart(maker, *arguments, environment=AS_THE_SYSTEM_HAS_IT),
        "torch, huge pages": Apart(maker, *arguments, environment=AS_IN_TRAINING),
    }


def torch_rows(times: dict[str, list[float]], job: str, bar: float | None) -> list[Row]:
    """The time of a job against PyTorch's; the bar is for the faster setting of PyTorch."""
    found = {name: ratio(times[job], times[name]) for name in ("torch", "torch, huge pages") if name in times}
    if not found:
        return [Row("  time / torch", None, "x", bar)]
    faster = max(found, key=found.get)
    others = "; ".join(f"{value:.3g} x {name}" for name, value in found.items() if name != faster)
    return [Row("  time / torch", found[faster], "x", bar, note=f"the faster of its settings, {faster!r}; {others}")]


def memory_note(jobs: dict[str, Apart]) -> str:
    """Peak memory of the processes of JAX and PyTorch, known after their end."""
    found = [f"{name} {jobs[name].peak_memory_gb:.1f} GB" for name in ("jax", "torch") if name in jobs]
    return f"peak memory {', '.join(found)}"


def train_rows(batch: int, dtype: str, rounds: int, bar: float | None, more: bool) -> list[Row]:
    """A training step at one batch size."""
    from benchmarks import flops

    name = f"ResNet-50 step, batch {batch}, {dtype}"
    product, product_flops = timing.gemm(dtype)
    own, other = "benchmarks.train_step:jax_training", "benchmarks.train_step:torch_training"
    jobs = {"jax": Apart(own, batch, dtype, environment=AS_IN_TRAINING)}
    jobs |= torch_jobs(other, batch, dtype)
    if dtype == "float32":
        jobs["plain"] = Apart(own, batch, dtype, True, environment=AS_IN_TRAINING)
    if more and have_torch():
        jobs["torch NHWC"] = Apart(other, batch, dtype, True, environment=AS_THE_SYSTEM_HAS_IT)
    times = in_turn(jobs, rounds, gemm=product)
    done = FORWARD_BACKWARD * flops.resnet50_forward() * batch
    share_of_one = 100 / product_flops / ratio(times["jax"], times["gemm"])
    milliseconds = median_ms(times["jax"])
    losses = ", ".join(f"{name} {jobs[name].told:.4f}" for name in ("jax", "torch") if name in jobs)
    note = f"{1e3 * batch / milliseconds:.3g} images/s; first loss {losses}; {memory_note(jobs)}"
    rows = [Row(name, milliseconds, "ms", note=note)]
    if dtype == "float32":
        rows += [
            Row("  share of the GEMM peak", done * share_of_one, "%", 65, True, "FLOPs of the definition, by formula"),
            Row(
                "  share, of what is computed",
                counted_step(batch) * share_of_one,
                "%",
                None,
                True,
                "as XLA counts the traced step: some convolutions take fewer products",
            ),
        ]
    if "plain" in times:
        rows.append(Row("  time / with plain convolutions", ratio(times["jax"], times["plain"]), "x"))
    rows += torch_rows(times, "jax", bar)
    if "torch NHWC" in times:
        rows.append(Row("  time / torch in channels_last", ratio(times["jax"], times["torch NHWC"]), "x"))
    return rows


def jax_inference(batch: int, folded: bool):
    """A forward pass with running statistics, folded into the convolutions or not."""
    import jax

    from benchmarks import networks
    from twodal_jax.models.fold_batch_norm import fold

    network = networks.resnet50()
    variables = networks.variables_of(network)
    if folded:
        network, variables = fold(network, variables, batch)
    variables, inputs = jax.device_put((variables, networks.network_batch(batch)[0]))
    apply = jax.jit(network.apply)

    def job():
        return apply(variables, inputs).block_until_ready()

    job()
    return job, None


def torch_inference(batch: int):
    """The same in PyTorch."""
    import torch

    from benchmarks import networks
    from benchmarks.torch_networks import load, Regressor, to_torch

    have_torch()
    network = Regressor().eval()
    load(network, networks.variables_of(networks.resnet50())["params"])
    inputs = to_torch(networks.network_batch(batch)[0])

    @torch.no_grad()
    def job():
        return network(inputs)

    job()
    return job, None


def inference_rows(batch: int, rounds: int, bar: float) -> list[Row]:
    """A forward pass at one batch size."""
    maker = "benchmarks.train_step:jax_inference"
    jobs = {
        "jax": Apart(maker, batch, False, environment=AS_THE_SYSTEM_HAS_IT),
        "folded": Apart(maker, batch, True, environment=AS_THE_SYSTEM_HAS_IT),
        **torch_jobs("benchmarks.train_step:torch_inference", batch),
    }
    times = in_turn(jobs, rounds)
    return [
        Row(
            f"ResNet-50 inference, batch {batch}",
            median_ms(times["folded"]),
            "ms",
            note="batch normalisation folded into the convolutions",
        ),
        Row("  time / without folding", ratio(times["folded"], times["jax"]), "x"),
        *torch_rows(times, "folded", bar),
    ]


def measure(options) -> list[Row]:
    """All rows; bfloat16 and batch 32 without `--quick` only."""
    rows = [Row("GEMM peak, float32", timing.measured_peak() / 1e9, "GFLOP/s")]
    rows += train_rows(8, "float32", 5 if options.quick else 9, 1.05, more=not options.quick)
    if not options.quick:
        rows += train_rows(32, "float32", 5, 1.10, more=False)
        rows.append(Row("GEMM peak, bfloat16", timing.measured_peak("bfloat16") / 1e9, "GFLOP/s"))
        rows += train_rows(8, "bfloat16", 5, None, more=False)
        rows += train_rows(32, "bfloat16", 3, None, more=False)
    rows += inference_rows(8, 9 if options.quick else 15, 0.95)
    rows += inference_rows(1, 15 if options.quick else 31, 0.75)
    if not have_torch():
        rows.append(Row("PyTorch is not installed: no comparison", None))
    return rows


if __name__ == "__main__":
    timing.run("ResNet-50 against plain PyTorch", __doc__, measure)
