"""Prepared folders -> batches, a pure function of (seed, step).

Batch k holds the faces `sample_indices(seed, k * B + i, count)`, i = 0 ... B - 1, in this order (of all
faces, or of the rows an epoch is said to hold); a host gets its contiguous part of it. There is no
iterator state: to resume, start at the next step.
Both formats give the same faces; "arrays" needs NumPy alone, "array_record" reads through tf.data.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from data_pipelines import records
from data_pipelines.order import sample_indices
from data_pipelines.prepared import PreparedSet

POSITION = "position"
Batch = dict[str, np.ndarray]
Reader = Callable[[np.ndarray], Batch]


def batches(
    prepared: PreparedSet, *, batch_size: int, seed: int, start_step: int = 0,
    process_index: int = 0, process_count: int = 1, fields: Sequence[str] | None = None,
    rows: np.ndarray | None = None, num_threads: int | None = None, prefetch: int | None = None,
) -> Iterator[Batch]:
    """Endless batches of a prepared folder, made ahead in background threads.

    Args:
      prepared: an opened folder.
      batch_size: B, the global batch size of all hosts together.
      seed: of the order. start_step: the first batch's number.
      process_index, process_count: this host and the number of hosts.
      fields: which fields to read; by default all but the names (they are no arrays for a device).
      rows: int [n], the faces of an epoch, one named twice comes twice; by default all of them once.
      num_threads: threads that read and decode; by default `reading_threads`.
      prefetch: batches made ahead; by default twice the threads and two.

    Yields:
      {field: [B / process_count, ...]} as in manifest.py (image uint8 BGR), and `position` uint32
      [B / process_count, 2]: the global sample position k * B + i as (high, low) 32-bit words, from
      which the device derives the face's augmentation key.

    Raises:
      ValueError: B does not divide among the hosts, or a field is unknown.
    """
    if process_count < 1 or batch_size < 1 or batch_size % process_count:
        raise ValueError(f"Batch size ({batch_size}) must be divisible by the number of processes"
                         f" ({process_count})")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} must be below process_count"
                         f" {process_count}")
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, got {start_step}")
    chosen = _chosen_fields(prepared, fields)
    local = batch_size // process_count
    offsets = process_index * local + np.arange(local, dtype=np.int64)

    read = _reader(prepared, chosen)
    epoch = np.arange(prepared.count) if rows is None else rows

    def make(step: int) -> Batch:
        positions = step * batch_size + offsets
        drawn = sample_indices(seed, positions, len(epoch))
        return read(epoch[drawn]) | {POSITION: split_position(positions)}

    threads = num_threads or reading_threads()
    return _ahead(make, start_step, threads, prefetch or 2 * threads + 2)


def reading_threads() -> int:
    """How many threads read by default: one more than there are cores, at most 16."""
    return min(16, (os.cpu_count() or 1) + 1)


def read_rows(prepared: PreparedSet, indices: np.ndarray,
              fields: Sequence[str] | None = None) -> Batch:
    """The faces of given indices in this order, {field: [len(indices), ...]}; all fields, also
    `name`, unless some are named. For evaluation, which goes through a set once."""
    indices = np.asarray(indices, np.int64)
    chosen = _chosen_fields(prepared, tuple(fields or prepared.fields))
    return _reader(prepared, chosen)(indices)


def split_position(positions: np.ndarray) -> np.ndarray:
    """int64 [b] -> uint32 [b, 2], (high, low) words: JAX has no 64-bit integers by default."""
    unsigned = positions.astype(np.uint64)
    words = np.stack([unsigned >> np.uint64(32), unsigned & np.uint64(0xFFFFFFFF)], axis=-1)
    return words.astype(np.uint32)


def _chosen_fields(prepared: PreparedSet, fields: Sequence[str] | None) -> dict[str, Any]:
    if fields is None:
        fields = [name for name, spec in prepared.fields.items() if spec["dtype"] != "string"]
    unknown = [name for name in fields if name not in prepared.fields]
    if unknown:
        raise ValueError(f"{prepared.folder} has no fields {unknown}; it has"
                         f" {sorted(prepared.fields)}")
    return {name: prepared.fields[name] for name in fields}


def _reader(prepared: PreparedSet, chosen: dict[str, Any]) -> Reader:
    """rows [b] -> their fields, from either format."""
    if prepared.format == "arrays":
        return _array_reader(prepared, chosen)
    return _shard_reader(prepared, chosen)


def _array_reader(prepared: PreparedSet, chosen: dict[str, Any]) -> Reader:
    return lambda rows: {name: prepared.arrays[name][rows] for name in chosen}


def _shard_reader(prepared: PreparedSet, chosen: dict[str, Any]) -> Reader:
    """Random-access read, then one traced TensorFlow function that parses and decodes.

    Threads of Python call TensorFlow, never the reverse: a tf.data iterator that waits for a Python
    function while Python drops the iterator blocks for ever (its destructor holds the interpreter's
    lock), and ArrayRecord has no reader of TensorFlow's own.
    """
    tf = records.tensorflow_on_cpu()
    source = records.open_shards(prepared.shards)
    # Not `prepared.count`, which is smaller in a set cut by `PreparedSet.first`.
    listed = prepared.manifest["count"]
    if len(source) != listed:
        raise ValueError(f"{prepared.folder}: its shards hold {len(source)} faces, the manifest"
                         f" says {listed}; prepare it again")
    parse = tf.function(lambda serialized: records.parse_batch(tf, serialized, chosen),
                        input_signature=[tf.TensorSpec([None], tf.string)])

    def read(rows: np.ndarray) -> Batch:
        # One by one: `__getitems__` starts a thread for each shard at every call, 7 times slower.
        serialized = [source[row] for row in rows.tolist()]
        parsed = parse(tf.constant(serialized))
        return {name: _as_stored(name, value) for name, value in parsed.items()}

    return read


def _ahead(make: Callable[[int], Batch], start_step: int, num_threads: int,
           prefetch: int) -> Iterator[Batch]:
    """make(start_step), make(start_step + 1), ... in order, each begun `prefetch` steps early."""
    with _Pool(num_threads) as pool:
        steps = itertools.count(start_step)
        pending = collections.deque(pool.submit(make, next(steps)) for _ in range(max(1, prefetch)))
        while True:
            batch = pending.popleft().result()
            pending.append(pool.submit(make, next(steps)))
            yield batch


class _Pool(concurrent.futures.ThreadPoolExecutor):
    """A thread pool that drops what has not begun when its user goes away."""

    def __exit__(self, *exception):
        self.shutdown(wait=True, cancel_futures=True)


def _as_stored(name: str, tensor: Any) -> np.ndarray:
    """A TensorFlow tensor -> what the folder holds: strings as str, images BGR."""
    if name == "image":
        rgb = np.asarray(memoryview(tensor))  # `tensor.numpy()` copies
        return cv2.cvtColor(rgb.reshape(-1, rgb.shape[2], 3), cv2.COLOR_RGB2BGR).reshape(rgb.shape)
    array = tensor.numpy()
    if array.dtype == object:
        return np.array([value.decode("utf-8") for value in array])
    return array
