"""Start-up: imports, the help text of reconstruction, and compilation with and without the persistent cache.

    python -m benchmarks.start_up [--quick]

Each line is a fresh process. "Compile" is the time of the first training step minus that of the second.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from benchmarks import timing
from benchmarks.timing import Row

IMPORT = "import time; s = time.perf_counter(); import {0}; print(time.perf_counter() - s)"


def in_new_process(*arguments: str, **environment: str) -> tuple[str, float]:
    """(last line of output, seconds from start to end) of a Python process."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return (done.stdout.strip().splitlines() or [""])[-1], seconds


def first_step(config_name: str, batch: int, cache: str) -> None:
    """Prints the seconds of the first and of the second training step (in its own process)."""
    from twodal_jax.runtime import xla_flags
    from twodal_jax.training import step as train_step

    if cache:
        xla_flags.keep_compiled(cache)
    import jax

    from benchmarks.two_dal_step import load_config, prepared
    from twodal_jax.distributed import sharding
    from twodal_jax.training import builder

    config = load_config(config_name, batch)
    _, state, data, model = prepared(config, 0)
    state, model = sharding.replicated((state, model))
    step = train_step.mapped_train_step(builder.build_stages(config)[0].spec)
    data, seconds = sharding.shard(jax.device_get(data)), []
    for _ in range(2):
        start = time.perf_counter()
        state, _ = step(state, data, model)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds))


def measure(options) -> list[Row]:
    """The rows of imports, of a command line, and of compilation."""
    rows = []
    for name in ("jax", "twodal_jax.train", "twodal_jax", "scripts.reconstruct"):
        found = sorted(float(in_new_process("-c", IMPORT.format(name))[0]) for _ in range(3))
        rows.append(Row(f"import {name}", found[1], "s", note="median of 3"))
    _, seconds = in_new_process("-m", "scripts.reconstruct", "--help")
    rows.append(Row("python -m scripts.reconstruct --help", seconds, "s"))
    for name, batch in (("aflw", 16),) if options.quick else (("aflw", 16), ("paper", 8)):
        with tempfile.TemporaryDirectory() as folder:
            code = f"from benchmarks.start_up import first_step; first_step({name!r}, {batch}, {{!r}})"
            title = f"compile, configs/{name}.py, stage 1"
            for what, cache in (("without the cache", ""), ("filling it", folder), ("with the cache", folder)):
                if what == "without the cache" and options.quick:
                    continue
                first, second = json.loads(in_new_process("-c", code.format(cache))[0])
                rows.append(Row(f"{title}, {what}", first - second, "s", note=f"a step then takes {second:.2f} s"))
    return rows


if __name__ == "__main__":
    timing.run("Start-up", __doc__, measure)
