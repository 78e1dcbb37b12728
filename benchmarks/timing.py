"""Timing and tables of all benchmarks: jobs in turn, medians, ratios by round, rows with bars."""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass
class Row:
    """One line of a table.

    Attributes:
      name: what was measured. value, unit: the result; None where it could not be measured.
      bar: the largest (or, with `at_least`, the smallest) value that passes; None without a bar.
      note: a remark for the reader.
    """

    name: str
    value: float | None
    unit: str = ""
    bar: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """One of "pass", "MISS", "not measured", or "" without a bar."""
        if self.bar is None:
            return ""
        if self.value is None:
            return "not measured"
        good = self.value >= self.bar if self.at_least else self.value <= self.bar
        return "pass" if good else "MISS"


def in_turn(jobs: Mapping[str, Callable[[], object]], rounds: int, warm_ups: int = 0) -> dict[str, list[float]]:
    """Seconds of each job in each round.

    Jobs run one after the other, so that a busy machine slows all of them. Every other round has the reverse order, so
    that no job always follows the same one.

    warm_ups: untimed runs of each job before it is timed in a round.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds):
        order = list(jobs.items())
        for name, job in order[:: 1 if turn % 2 == 0 else -1]:
            for _ in range(warm_ups):
                job()
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(times, reference))


def median_ms(times: Sequence[float]) -> float:
    """Median in milliseconds."""
    return 1e3 * statistics.median(times)


def gemm(dtype: str = "float32") -> tuple[Callable[[], object], float]:
    """(job, its FLOPs): a large square matrix product on one device, the reference of shares of the peak."""
    import jax
    import jax.numpy as jnp

    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    return lambda: product(matrix, matrix).block_until_ready(), 2.0 * size**3


def measured_peak(dtype: str = "float32", seconds: float = 1.0) -> float:
    """FLOP/s of `gemm`, the best within a number of seconds."""
    job, flops = gemm(dtype)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        job()
        best = min(best, time.perf_counter() - start)
    return flops / best


def peak_memory_gb() -> float:
    """Peak memory of this process, GB.

    Read from /proc where there is one: `ru_maxrss` starts at the memory of the parent process.
    """
    try:
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def machine() -> str:
    """A description of this machine."""
    import jax

    name = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        vectors = "AVX-512" if "avx512f" in found.get("flags", "") else "AVX2"
        name = f"{found.get('model name', name)} with {vectors}"
    except OSError:
        pass
    device = jax.devices()[0]
    accelerator = "" if device.platform == "cpu" else f", {jax.device_count()} x {device.device_kind}"
    return f"{os.cpu_count()} cores of an {name}{accelerator}, JAX {jax.__version__}"


def _number(row: Row) -> str:
    value = row.value
    if value is None:
        return "-" if row.unit else ""  # without a unit it is a heading
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def table(title: str, rows: Sequence[Row]) -> str:
    """Rows as aligned text."""
    wide = max((len(row.name) for row in rows), default=0)
    lines = [title, "=" * len(title)] if title else []
    for row in rows:
        sign = ">=" if row.at_least else "<="
        bar = f"bar {sign} {row.bar:g}" if row.bar is not None else ""
        lines.append(
            f"{row.name:{wide}s} {_number(row):>10s} {row.unit:12s} {bar:12s} {row.verdict:12s} {row.note}".rstrip()
        )
    return "\n".join(lines)


def run(
    title: str,
    description: str,
    measure: Callable[[argparse.Namespace], list[Row]],
    more_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """The command of one table: measures, prints, and writes JSON with `--json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument("--json", type=pathlib.Path, help="file to write the rows to")
    more_options(parser)
    options = parser.parse_args()
    start = time.perf_counter()
    rows = measure(options)
    took = time.perf_counter() - start
    print(table(title, rows))
    print(f"({machine()}; {took:.0f} s)")
    if options.json:
        content = {"title": title, "machine": machine(), "seconds": took}
        content["rows"] = [dataclasses.asdict(row) | {"verdict": row.verdict} for row in rows]
        options.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
