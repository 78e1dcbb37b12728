"""Training steps on a CPU with default memory pages, with huge pages, and with huge pages on a heap that never shrinks.

    python -m benchmarks.huge_pages [--quick]

Training sets huge pages (`xla_flags.HUGE_PAGES`). Each setting has its own process, and the steps run in turn. XLA
allocates its buffers anew at every step. Where /sys/kernel/mm/transparent_hugepage/enabled has [madvise], the default
of most distributions, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (glibc 2.35 or newer) places them in pages of 2 MB.
"""

import pathlib
import platform

from benchmarks import timing
from benchmarks.apart import Apart, AS_IN_TRAINING, AS_THE_SYSTEM_HAS_IT, in_turn
from benchmarks.timing import median_ms, ratio, Row
from twodal_jax.runtime import xla_flags

SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def aflw_step(batch: int):
    """A job that takes a step of configs/aflw.py, stage 2."""
    import jax

    from benchmarks.devices_speed import pmap_job
    from benchmarks.two_dal_step import load_config, prepared
    from twodal_jax.training import builder

    config = load_config("aflw", batch)
    _, *arrays = prepared(config, 1)
    job = pmap_job(builder.build_stages(config)[1].spec, *jax.device_get(arrays))
    job()
    return job, None


# One heap for buffers of any size that never returns memory: no page is allocated twice.
KEPT = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold={0}:glibc.malloc.trim_threshold={0}"
SETTINGS = {
    "as the system has it": AS_THE_SYSTEM_HAS_IT,
    "huge pages": AS_IN_TRAINING,
    "huge pages, kept": dict.fromkeys(xla_flags.HUGE_PAGES, KEPT.format(1 << 40)),
}


def step_rows(title: str, rounds: int, maker: str, *arguments) -> list[Row]:
    """The time of a step with each setting."""
    jobs = {name: Apart(maker, *arguments, environment=setting) for name, setting in SETTINGS.items()}
    times = in_turn(jobs, rounds)
    first, *others = SETTINGS
    return [
        Row(f"{title}, {first}", median_ms(times[first]), "ms"),
        *(Row(f"  {other}: time / that", ratio(times[other], times[first]), "x") for other in others),
    ]


def measure(options) -> list[Row]:
    """The rows of two kinds of step."""
    system = SETTING.read_text().strip() if SETTING.is_file() else "none"
    rounds = 15 if options.quick else 40
    return [
        Row(f"transparent huge pages: {system}; {' '.join(platform.libc_ver())}", None),
        *step_rows("ResNet-50 step, batch 8, float32", rounds // 2, "benchmarks.train_step:jax_training", 8, "float32"),
        *step_rows("configs/aflw.py, stage 2, 16 + 16", rounds, "benchmarks.huge_pages:aflw_step", 16),
    ]


if __name__ == "__main__":
    timing.run("Memory pages", __doc__, measure)
