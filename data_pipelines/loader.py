"""Prepared folders -> batches, a pure function of (seed, step).

Batch k holds the faces `sample_indices(seed, k * B + i, count)`, i = 0 ... B - 1, in this order; a
host gets its contiguous part of it. There is no iterator state: to resume, start at the next step.
Both formats give the same faces; "arrays" needs NumPy alone, "array_record" reads through tf.data.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines import records
from data_pipelines.order import sample_indices
from data_pipelines.prepared import PreparedSet

POSITION = "position"
Batch = dict[str, np.ndarray]


def batches(
    prepared: PreparedSet, *, batch_size: int, seed: int, start_step: int = 0,
    process_index: int = 0, process_count: int = 1, fields: Sequence[str] | None = None,
    num_threads: int = 2, prefetch: int = 4,
) -> Iterator[Batch]:
    """Endless batches of a prepared folder, made ahead in background threads.

    Args:
      prepared: an opened folder.
      batch_size: B, the global batch size of all hosts together.
      seed: of the order. start_step: the first batch's number.
      process_index, process_count: this host and the number of hosts.
      fields: which fields to read; by default all but the names (they are no arrays for a device).
      num_threads: threads that read and decode. prefetch: batches made ahead.

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

    def positions(step: int) -> np.ndarray:
        return step * batch_size + offsets

    make = _from_arrays if prepared.format == "arrays" else _from_shards
    return make(prepared, chosen, positions, seed, start_step, num_threads, prefetch)


def read_rows(prepared: PreparedSet, indices: np.ndarray,
              fields: Sequence[str] | None = None) -> Batch:
    """The faces of given indices in this order, {field: [len(indices), ...]}; all fields, also
    `name`, unless some are named. For evaluation, which goes through a set once."""
    indices = np.asarray(indices, np.int64)
    chosen = _chosen_fields(prepared, tuple(fields or prepared.fields))
    if prepared.format == "arrays":
        return {name: prepared.arrays[name][indices] for name in chosen}
    tf = records.tensorflow_on_cpu()
    serialized = records.open_shards(prepared.shards).__getitems__(indices.tolist())
    parsed = records.parse_batch(tf, tf.constant(serialized), chosen)
    return {name: _strings(value.numpy()) for name, value in parsed.items()}


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


def _from_arrays(prepared, chosen, positions, seed, start_step, num_threads, prefetch):
    """Fancy indexing of memory-mapped arrays in a thread pool; batches come in order."""

    def make(step: int) -> Batch:
        where = positions(step)
        rows = sample_indices(seed, where, prepared.count)
        batch = {name: prepared.arrays[name][rows] for name in chosen}
        return batch | {POSITION: split_position(where)}

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


def _from_shards(prepared, chosen, positions, seed, start_step, num_threads, prefetch):
    """tf.data over step numbers: random-access read, parallel parse and decode, prefetch."""
    tf = records.tensorflow_on_cpu()
    source = records.open_shards(prepared.shards)
    if len(source) < prepared.count:
        raise ValueError(f"{prepared.folder}: its shards hold {len(source)} faces, the manifest"
                         f" says {prepared.count}; prepare it again")

    def read(step):
        where = positions(int(step))
        rows = sample_indices(seed, where, prepared.count)
        return np.array(source.__getitems__(rows.tolist()), object), split_position(where)

    def load(step):
        serialized, words = tf.numpy_function(read, [step], [tf.string, tf.uint32])
        serialized = tf.ensure_shape(serialized, [None])
        return records.parse_batch(tf, serialized, chosen) | {POSITION: words}

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = num_threads
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.range(start_step, 2**62)
    dataset = dataset.map(load, num_parallel_calls=num_threads)
    dataset = dataset.prefetch(prefetch).with_options(options)
    yield from dataset.as_numpy_iterator()


def _strings(array: np.ndarray) -> np.ndarray:
    if array.dtype != object:
        return array
    return np.array([value.decode("utf-8") for value in array])
