"""Layout of batches and states over the devices of a process."""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Axis of a step mapped over devices: the gradients' and BatchNorm's means are taken along it.
AXIS_NAME = "devices"


def check_divisible(name: str, batch_size: int, accumulate: int = 1) -> None:
    """Check that a global batch divides among all devices of all hosts, and each device's part into `accumulate` parts.

    Raises:
      ValueError: it does not; the message names both numbers.
    """
    count = jax.device_count()
    if batch_size < 1 or batch_size % count:
        raise ValueError(f"{name} ({batch_size}) must be positive and divisible by the number of devices ({count}).")
    if accumulate < 1 or batch_size % (count * accumulate):
        raise ValueError(
            f"{name} ({batch_size}) must be divisible by the number of devices times config.accumulate"
            f" ({count} x {accumulate})."
        )


def shard(batch: Any) -> Any:
    """Reshape every array [b, ...] of a host's batch to [local devices, b / local devices, ...]."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: np.reshape(x, (count, -1, *np.shape(x)[1:])), batch)


def _on_local_devices(*axes: str) -> NamedSharding:
    """Sharding of these axes over this host's devices; without axes, a full copy on each."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS_NAME,)), PartitionSpec(*axes))


def replicated(tree: Any) -> Any:
    """Arrays with the layout of the mapped step's output, so that one compiled program serves all steps.

    In a group of processes the tree is returned as it is, because the mapped step takes host arrays there.
    """
    if jax.process_count() > 1:
        return tree
    return jax.device_put(tree, _on_local_devices())


def prefetched(batches: Iterator[Any], ahead: int = 2) -> Iterator[Any]:
    """Sharded batches on this host's devices, copied there while earlier batches are processed."""
    sharding = _on_local_devices(AXIS_NAME)
    several_hosts = jax.process_count() > 1  # pmap then takes this host's part as host arrays
    queue = collections.deque()
    for batch in batches:
        batch = shard(batch)
        queue.append(batch if several_hosts else jax.device_put(batch, sharding))
        if len(queue) >= ahead:
            yield queue.popleft()
    yield from queue


def host_copy(tree: Any) -> Any:
    """NumPy copies of arrays that are the same on every device."""
    return jax.tree.map(_host_array, tree)


def _host_array(value: Any) -> np.ndarray:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        value = value.addressable_shards[0].data
    return np.array(value)


def runs_ahead() -> bool:
    """Whether steps may be queued without waiting.

    Queued steps on several virtual CPU devices can deadlock; on one CPU queueing brings nothing.
    """
    return jax.default_backend() != "cpu"


def paired(annotated: Iterator[dict], wild: Iterator[dict | None] | None) -> Iterator[dict[str, dict]]:
    """Merge two streams of batches into one of {"annotated": ..., "wild": ...}, which ends with the shorter one.

    "wild" is missing where `wild` is None, and at each step where it yields None.
    """
    for other, batch in zip(itertools.repeat(None) if wild is None else wild, annotated):
        yield {"annotated": batch} | ({} if other is None else {"wild": other})
