"""Training steps on a CPU with the C library's huge pages and without, each in fresh processes, in turn.

    python -m benchmarks.huge_pages [--quick]

XLA asks for its buffers anew at every step. Where /sys/kernel/mm/transparent_hugepage/enabled says [madvise], as most
distributions have it, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (glibc 2.35 or newer) lets them lie in pages of 2 MB.
"""

import json
import pathlib
import platform

from benchmarks import timing
from benchmarks.start_up import in_new_process
from benchmarks.timing import Row, ratio
from twodal_jax import startup

SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def resnet50_step(batch: int, steps: int) -> float:
    """Median milliseconds of a supervised ResNet-50 step."""
    from benchmarks.train_step import jax_trainer

    job, _, _ = jax_trainer(batch, "float32")
    return timing.median_ms(timing.in_turn({"step": job}, steps)["step"])


def aflw_step(batch: int, steps: int) -> float:
    """The same of configs/aflw.py, stage 2."""
    import jax

    from benchmarks.devices_speed import pmap_job
    from benchmarks.two_dal_step import load_config, prepared
    from twodal_jax import experiment

    config = load_config("aflw", batch)
    _, *arrays = prepared(config, 1)
    job = pmap_job(experiment.make_stages(config)[1].method, *jax.device_get(arrays))
    job()
    return timing.median_ms(timing.in_turn({"step": job}, steps)["step"])


def apart(function: str, batch: int, steps: int, huge: bool) -> float:
    """A function's milliseconds, measured in a process of its own."""
    code = (
        "from twodal_jax import startup; startup.set_cpu_flags(); import json;"
        f" from benchmarks import huge_pages; print(json.dumps(huge_pages.{function}({batch}, {steps})))"
    )
    setting = startup.HUGE_PAGES if huge else dict.fromkeys(startup.HUGE_PAGES, "")
    return json.loads(in_new_process("-c", code, **setting)[0])


def measure(options) -> list[Row]:
    """Two kinds of step, with and without."""
    setting = SETTING.read_text().strip() if SETTING.is_file() else "none"
    rows = [Row(f"transparent huge pages: {setting}; {' '.join(platform.libc_ver())}", None)]
    rounds = 1 if options.quick else 2
    for name, function, batch, steps in (
        ("ResNet-50 step, batch 8, float32", "resnet50_step", 8, 15),
        ("configs/aflw.py, stage 2, 16 + 16", "aflw_step", 16, 40),
    ):
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            for huge, found in times.items():
                found.append(apart(function, batch, steps, huge))
        rows.append(Row(name, sum(times[True]) / rounds, "ms", note="with huge pages"))
        rows.append(Row("  time / without", ratio(times[True], times[False]), "x"))
    return rows


if __name__ == "__main__":
    timing.run("Huge pages", __doc__, measure)
