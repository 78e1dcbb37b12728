"""Cost of a step by number of images and devices, and pmap against jit(shard_map), on virtual CPU devices.

    python -m benchmarks.devices_speed [--quick] [--devices=8]

Virtual devices share the cores of this machine: they show the overhead of dividing a batch, not a speed-up. The step
is a small ResNet-18 like that of configs/aflw.py with all losses, with the same global batch on every number of
devices.
"""

import argparse
import functools
import json
import os
import subprocess
import sys

from benchmarks import timing
from benchmarks.timing import in_turn, median_ms, ratio, Row


def small_step(images: int):
    """(spec with a mapped axis, state, host batch, model) of a step with all losses and small networks."""
    import jax

    from benchmarks.two_dal_step import load_config, prepared
    from twodal_jax.training import builder

    config = load_config("aflw", images)
    config.regressor.width = 0.125
    config.regressor.variant = "standard"
    _, state, batch, model = prepared(config, 0)
    spec = builder.build_stages(config)[0].spec
    return spec, *map(jax.device_get, (state, batch, model))


def pmap_job(spec, state, batch, model):
    """The project's mapped step (`training.step.mapped_train_step`)."""
    import jax

    from twodal_jax.distributed import sharding as devices
    from twodal_jax.training import step as train_step

    step, sharded = train_step.mapped_train_step(spec), devices.shard(batch)
    state, model = devices.replicated((state, model))
    box = [state]

    def job():
        box[0], metrics = step(box[0], sharded, model)
        jax.block_until_ready(box[0])
        return metrics

    return job


def shard_map_job(spec, state, batch, model):
    """The same step under jit(shard_map)."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from twodal_jax.distributed.sharding import AXIS_NAME
    from twodal_jax.training.step import train_step

    mesh = Mesh(np.array(jax.devices()), (AXIS_NAME,))
    whole, split = PartitionSpec(), PartitionSpec(AXIS_NAME)
    mapped = jax.shard_map(
        functools.partial(train_step, spec=spec),
        mesh=mesh,
        in_specs=(whole, split, whole),
        out_specs=whole,
        check_vma=False,
    )
    step = jax.jit(mapped, donate_argnums=0)
    box = [jax.device_put(state, NamedSharding(mesh, whole))]
    sharded = jax.device_put(batch, NamedSharding(mesh, split))
    model = jax.device_put(model, NamedSharding(mesh, whole))

    def job():
        box[0], metrics = step(box[0], sharded, model)
        jax.block_until_ready(box[0])
        return metrics

    return job


def measure_here(images: int, rounds: int, both: bool) -> dict[str, float]:
    """Milliseconds of a step on the devices of this process, by kind of mapping."""
    arguments = small_step(images)
    jobs = {"pmap": pmap_job(*arguments)} | ({"shard_map": shard_map_job(*arguments)} if both else {})
    losses = {name: float(job()["loss"]) for name, job in jobs.items()}
    times = in_turn(jobs, rounds)
    found = {name: median_ms(of) for name, of in times.items()}
    if both:
        found["ratio"] = ratio(times["pmap"], times["shard_map"])
        found["apart"] = abs(losses["pmap"] / losses["shard_map"] - 1)
    return found


def on_devices(count: int, images: int, rounds: int, both: bool) -> dict[str, float]:
    """`measure_here` in a process with `count` virtual devices."""
    code = (
        "import json;"
        " from benchmarks.devices_speed import measure_here;"
        f" print(json.dumps(measure_here({images}, {rounds}, {both})))"
    )
    flags = f"--xla_force_host_platform_device_count={count}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{count} devices: {done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(options) -> list[Row]:
    """pmap against shard_map, then by number of devices, then by number of images."""
    count = options.devices
    found = on_devices(count, 32, 5 if options.quick else 9, True)
    note = f"{count} virtual devices, 32 + 32 images; losses agree to {found['apart']:.0e}"
    rows = [
        Row(f"pmap, {count} devices", found["pmap"], "ms", note=note),
        Row("  pmap / jit(shard_map)", found["ratio"], "x", 1.15),
    ]
    if options.quick:
        return rows
    times = {devices: on_devices(devices, 32, 7, False)["pmap"] for devices in (1, 2)}
    times[count] = found["pmap"]
    for devices, milliseconds in times.items():
        note = f"{milliseconds / times[1]:.2f} x one device"
        rows.append(Row(f"32 + 32 images on {devices} devices", milliseconds, "ms", note=note))
    for images in (8, 16, 64):
        milliseconds = on_devices(1, images, 7, False)["pmap"]
        note = f"{milliseconds / images / 2:.2f} ms an image"
        rows.append(Row(f"{images} + {images} images on 1 device", milliseconds, "ms", note=note))
    return rows


def more_options(parser: argparse.ArgumentParser) -> None:
    """Adds --devices, the number of virtual devices."""
    parser.add_argument("--devices", type=int, default=8)


if __name__ == "__main__":
    timing.run("Devices and images", __doc__, measure, more_options)
