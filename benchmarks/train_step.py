"""ResNet-50's training step and inference against plain PyTorch, and as a share of the machine's peak.

    python -m benchmarks.train_step [--quick]

One process, jobs in turn, the median of the rounds' ratios. Without PyTorch (requirements-benchmarks.txt) the
comparison is left out.
"""

import importlib.util
import os

from benchmarks import timing
from benchmarks.timing import Row, in_turn, median_ms, ratio
from twodal_jax import startup

FORWARD_BACKWARD = 3  # a backward pass costs two forward passes


def have_torch() -> bool:
    """Whether PyTorch is installed; it then uses all cores, as XLA does."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    torch.set_num_threads(os.cpu_count())
    return True


def jax_trainer(batch: int, dtype: str):
    """A job that takes one step, and the first step's loss."""
    import jax

    from benchmarks import networks

    start, step = networks.supervised_step(networks.resnet50(dtype))
    inputs, true = map(jax.device_put, networks.network_batch(batch))
    box = [start()]
    first = jax.tree.map(jax.numpy.copy, box[0])

    def job():
        box[0], loss = step(box[0], inputs, true)
        return float(loss)

    return job, job(), first


def torch_trainer(batch: int, dtype: str, variables, channels_last: bool = False):
    """The same in PyTorch, from the same parameters."""
    from benchmarks import networks
    from benchmarks.torch_networks import Regressor, load, supervised_step

    network = Regressor()
    load(network, variables["params"])
    step = supervised_step(network, *networks.network_batch(batch), dtype, channels_last=channels_last)

    def job():
        return float(step())

    return job, job()


def train_rows(batch: int, dtype: str, rounds: int, bar: float | None, more: bool) -> list[Row]:
    """A training step at one batch size."""
    from benchmarks import flops

    name = f"ResNet-50 step, batch {batch}, {dtype}"
    job, loss, first = jax_trainer(batch, dtype)
    product, product_flops = timing.gemm(dtype)
    jobs, notes = {"jax": job, "gemm": product}, []
    if have_torch():
        jobs["torch"], torch_loss = torch_trainer(batch, dtype, first[0])
        notes.append(f"first loss {loss:.4f}, torch {torch_loss:.4f}")
        if more:
            jobs["torch NHWC"], _ = torch_trainer(batch, dtype, first[0], channels_last=True)
    times = in_turn(jobs, rounds)
    done = FORWARD_BACKWARD * flops.resnet50_forward() * batch
    share = 100 * done / product_flops / ratio(times["jax"], times["gemm"])
    milliseconds = median_ms(times["jax"])
    rows = [Row(name, milliseconds, "ms", note=f"{1e3 * batch / milliseconds:.3g} images/s; {'; '.join(notes)}")]
    if dtype == "float32":
        rows.append(Row("  share of the GEMM peak", share, "%", 65, True, "hand-counted FLOPs; the product runs in turn with the step"))
    rows.append(Row("  time / torch", ratio(times["jax"], times["torch"]) if "torch" in times else None, "x", bar))
    if "torch NHWC" in times:
        rows.append(Row("  time / torch in channels_last", ratio(times["jax"], times["torch NHWC"]), "x"))
    return rows


def inference_jobs(batch: int):
    """{name: job} of a forward pass with running statistics, JAX with and without folding, and PyTorch."""
    import jax

    from benchmarks import networks
    from twodal_jax.models.folding import fold

    network = networks.resnet50()
    variables = networks.variables_of(network)
    inputs = networks.network_batch(batch)[0]
    apply = jax.jit(network.apply)
    folded_network, folded = fold(network, variables)
    apply_folded = jax.jit(folded_network.apply)
    jobs = {
        "jax": lambda: apply(variables, inputs).block_until_ready(),
        "folded": lambda: apply_folded(folded, inputs).block_until_ready(),
    }
    variables, folded, inputs = map(jax.device_put, (variables, folded, inputs))
    if have_torch():
        import torch

        from benchmarks.torch_networks import Regressor, load, to_torch

        other = Regressor().eval()
        load(other, variables["params"])
        tensor = to_torch(inputs)

        @torch.no_grad()
        def job():
            return other(tensor)

        jobs["torch"] = job
    for job in jobs.values():
        job()
    return jobs


def inference_rows(batch: int, rounds: int, bar: float) -> list[Row]:
    """A forward pass at one batch size."""
    times = in_turn(inference_jobs(batch), rounds)
    rows = [
        Row(f"ResNet-50 inference, batch {batch}", median_ms(times["folded"]), "ms",
            note="batch normalisation folded into the convolutions"),
        Row("  time / without folding", ratio(times["folded"], times["jax"]), "x"),
    ]  # fmt: skip
    found = ratio(times["folded"], times["torch"]) if "torch" in times else None
    return [*rows, Row("  time / torch", found, "x", bar)]


def measure(options) -> list[Row]:
    """All rows; bfloat16 and batch 32 in the long run only."""
    startup.set_cpu_flags()
    rows = [Row("GEMM peak, float32", timing.measured_peak() / 1e9, "GFLOP/s")]
    rows += train_rows(8, "float32", 5 if options.quick else 9, 1.05, more=not options.quick)
    if not options.quick:
        rows += train_rows(32, "float32", 5, 1.10, more=False)
        rows.append(Row("GEMM peak, bfloat16", timing.measured_peak("bfloat16") / 1e9, "GFLOP/s"))
        rows += train_rows(8, "bfloat16", 5, None, more=False)
    rows += inference_rows(8, 9 if options.quick else 15, 0.95)
    rows += inference_rows(1, 15 if options.quick else 31, 0.75)
    if not have_torch():
        rows.append(Row("PyTorch is not installed: no comparison", None))
    return rows


if __name__ == "__main__":
    timing.run("ResNet-50 against plain PyTorch", __doc__, measure)
