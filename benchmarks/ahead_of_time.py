"""Compiles the training step for a TPU or an H100 on a machine that has none, and tells what the compiler made of it.

    python -m benchmarks.ahead_of_time --target=v5e:1x1 --stage=1 [--config=paper] [--batch=32] [--dtype=bfloat16]
    python -m benchmarks.ahead_of_time --target=v5e:2x4 --stage=2
    python -m benchmarks.ahead_of_time --target=h100 --stage=1

Needs requirements-ahead-of-time.txt. Nothing is run: the targets' own compilers compile the whole step of a stage for a
described device. --batch is the number of annotated faces of all chips, and as many wild ones.

How to read it. The TPU compiler notes an estimate of cycles beside most instructions of the program's entry; their sum
is a lower bound of the time. "without an estimate" counts what the sum leaves out: gathers, scatters,
select-and-scatters, all-reduces, loops and branches. For an H100 there is no estimate; its kernels are counted. It is
compiled without autotuning, which needs the device. FLOPs are those of the compiler, padding included.
"""

import argparse
import collections
import functools
import json
import os
import pathlib
import re
import resource
from typing import NamedTuple

# Read by libtpu at its start: no metadata server, one host, and no lock on hardware that is not there.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
CLOCK_GHZ = {"v5e": 1.5, "v5p": 1.75, "v6e": 1.75}  # of the estimates
SLOW = ("gather", "scatter", "select-and-scatter", "sort", "while", "conditional", "all-reduce", "all-gather")
_WIDTH = {"pred": 1, "bf16": 2}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][a-z0-9-]*)\((.*)$")
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+)\[([\d,]*)\]")
# The H100 SXM as XLA describes it (a proto of stream_executor.GpuTargetConfigProto), from its data sheet.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
"""


class Instruction(NamedTuple):
    """One line of a compiled program: its computation, whether that is the entry, shape, opcode, everything after."""

    computation: str
    entry: bool
    shape: str
    opcode: str
    rest: str


def parse(text: str) -> list[Instruction]:
    """The instructions of HLO text."""
    found, computation, entry = [], "", False
    for line in text.splitlines():
        if not line.startswith(" ") and line.rstrip().endswith("{"):
            entry = line.startswith("ENTRY")
            computation = line.split()[1 if entry else 0].lstrip("%")
        elif match := _INSTRUCTION.match(line):
            found.append(Instruction(computation, entry, match[2], match[3], match[4]))
    return found


def size_of(shape: str) -> int:
    """Bytes of the arrays in a shape's text."""
    total = 0
    for kind, sides in _SHAPE.findall(shape):
        count = 1
        for side in filter(None, sides.split(",")):
            count *= int(side)
        total += count * (_WIDTH.get(kind) or max(int(kind.lstrip("sufc")) // 8, 1))
    return total


def cycles_of(instruction: Instruction) -> int | None:
    """The TPU compiler's estimate; None without one."""
    match = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
    return int(match[1]) if match else None


def without_estimate(program: list[Instruction]) -> collections.Counter:
    """{what: count} of the entry's instructions that the sum of cycles leaves out."""
    inside = collections.defaultdict(set)
    for instruction in program:
        if instruction.opcode in SLOW:
            inside[instruction.computation].add(instruction.opcode)
    found = collections.Counter()
    for instruction in program:
        if instruction.entry and cycles_of(instruction) is None:
            called = re.search(r"calls=%?([\w.-]+)", instruction.rest)
            slow = inside.get(called[1], set()) if called and instruction.opcode == "fusion" else set()
            name = "+".join(sorted(slow)) or (instruction.opcode.removesuffix("-start"))
            if slow or name in SLOW:
                found[name] += 1
    return found


def convolution_kinds(program: list[Instruction]) -> int:
    """Number of distinct convolutions: shapes of result and operands, and windows."""
    kinds = set()
    for instruction in program:
        is_gpu = instruction.opcode == "custom-call" and "cudnn$conv" in instruction.rest
        if instruction.opcode == "convolution" or is_gpu:
            window = re.search(r"window=\{[^}]*\}", instruction.rest)
            labels = re.search(r"dim_labels=[\w>-]+", instruction.rest)
            target = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
            kinds.add((instruction.shape, *(match and match[0] for match in (window, labels, target))))
    return len(kinds)


def report(text: str, target: str) -> dict[str, object]:
    """What a compiled program consists of."""
    program = parse(text)
    entry = [instruction for instruction in program if instruction.entry]
    opcodes = collections.Counter(instruction.opcode.removesuffix("-start") for instruction in program)
    reduced = [i for i in program if i.opcode.removesuffix("-start") in ("all-reduce", "reduce-scatter", "all-gather")]
    sizes = collections.Counter(size_of(instruction.shape) for instruction in reduced)
    found: dict[str, object] = {
        "instructions of the entry": len(entry),
        "convolutions": f"{opcodes['convolution'] or 'custom calls'}; {convolution_kinds(program)} distinct",
        "gathers, scatters, select-and-scatters": ", ".join(
            str(opcodes[name]) for name in ("gather", "scatter", "select-and-scatter")
        ),
        "copies and transposes of the entry": (
            f"{sum(i.opcode in ('copy', 'copy-start', 'transpose') for i in entry)},"
            f" {sum(size_of(i.shape) for i in entry if i.opcode in ('copy', 'transpose')) / 1e6:.0f} MB"
        ),
        "all-reduces": f"{len(reduced)}, {sum(size * n for size, n in sizes.items()) / 1e6:.1f} MB"
        + "".join(f"; {n} x {size / 1e3:.1f} kB" for size, n in sorted(sizes.items(), reverse=True)[:5]),
    }
    if target == "h100":
        kernels = ("fusion", "custom-call", "copy", "transpose", "reduce", "scatter", "sort", "memset")
        found["kernels"] = sum(instruction.opcode in kernels for instruction in entry)
    else:
        cycles = sum(filter(None, map(cycles_of, entry)))
        missing = without_estimate(program)
        found["estimated time"] = f"{cycles / CLOCK_GHZ.get(target.split(':')[0], 1.5) / 1e6:.1f} ms"
        found["without an estimate"] = ", ".join(f"{n} {name}" for name, n in missing.most_common()) or "nothing"
    return found


def devices_of(target: str):
    """The described devices of a target, as an array."""
    import numpy as np
    from jax.experimental import topologies

    if target == "h100":
        from jax._src import xla_bridge  # JAX asks for "gpu", a platform that this process does not have

        known = xla_bridge.canonicalize_platform
        xla_bridge.canonicalize_platform = lambda name: "cuda" if name in ("gpu", "cuda") else known(name)
        described = topologies.get_topology_desc(
            platform="cuda", topology_name="h100", target_config=H100, topology="1x1x1"
        )
    else:
        single = {"chips_per_host_bounds": (1, 1, 1)} if target.endswith(":1x1") else {}
        described = topologies.get_topology_desc(platform="tpu", topology_name=target, **single)
    return np.array(described.devices)


def lowered_step(options: argparse.Namespace, devices):
    """The step of a stage for the devices, lowered, of shapes only."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from benchmarks import networks
    from benchmarks.two_dal_step import load_config
    from twodal_jax.distributed.sharding import AXIS_NAME
    from twodal_jax.face_models.load import load_morphable_model
    from twodal_jax.training.state import create_train_state
    from twodal_jax.training.step import train_step

    config = load_config(options.config, options.batch, options.dtype)
    model = networks.training_model(load_morphable_model("builtin"), config)
    spec = networks.stage_spec(config, options.stage - 1, AXIS_NAME if len(devices) > 1 else None)
    state = jax.eval_shape(lambda: create_train_state(spec, 0))
    batch = networks.training_batch(model, options.batch, options.batch, options.image)
    mesh = Mesh(devices, (AXIS_NAME,))

    def placed(tree, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree)

    step = functools.partial(train_step, spec=spec)
    axes = (AXIS_NAME,) if len(devices) > 1 else ()
    if axes:
        every, split = PartitionSpec(), PartitionSpec(AXIS_NAME)
        step = jax.shard_map(step, mesh=mesh, in_specs=(every, split, every), out_specs=every, check_vma=False)
    return jax.jit(step, donate_argnums=0).lower(placed(state), placed(batch, *axes), placed(model))


def processor_seconds() -> float:
    """Of this process and all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(options: argparse.Namespace) -> dict[str, object]:
    """The table of one target."""
    devices = devices_of(options.target)
    lowered = lowered_step(options, devices)
    before = processor_seconds()
    compiled = lowered.compile()
    seconds = processor_seconds() - before
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    text = compiled.as_text()
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "program.hlo").write_text(text, encoding="utf-8")
    return {
        "target": f"{options.target}, {len(devices)} device(s), {devices.flat[0].device_kind}",
        "step": f"configs/{options.config}.py, stage {options.stage}",
        "batch of all devices": f"{options.batch} + {options.batch}, {options.dtype}",
        "compilation, processor time": f"{seconds:.0f} s",
        "FLOPs a device": f"{cost.get('flops', 0) / 1e9:,.0f} GFLOP",
        "temporary memory": f"{memory.temp_size_in_bytes / 2**20:,.0f} MB",
        **report(text, options.target),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="v5e:1x1", help="h100, or a TPU topology: v5e:1x1, v5e:2x4, v6e:2x4, ...")
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1)
    parser.add_argument("--config", default="paper")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--image", type=int, default=160, help="side of the stored crops, pixels (default 160)")
    parser.add_argument("--output", type=pathlib.Path, help="folder for report.json and the program's text")
    options = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    found = measure(options)
    width = max(map(len, found))
    print("\n".join(f"{name:{width}}  {value}" for name, value in found.items()))
    if options.output:
        (options.output / "report.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
