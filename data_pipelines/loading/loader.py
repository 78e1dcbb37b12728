"""Prepared folders -> batches, a pure function of (seed, step).

Batch k holds the faces `sample_indices(seed, k * B + i, count)`, i = 0 ... B - 1, in this order (of all
faces, or of the rows an epoch is said to hold); a host gets its contiguous part of it. There is no
iterator state: to resume, start at the next step.
Both formats give the same faces; "arrays" needs NumPy alone, "array_record" is parsed and decoded by tf.data.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from data_pipelines.loading import tf_stream
from data_pipelines.loading.index_shuffle import sample_indices
from data_pipelines.storage import array_record
from data_pipelines.storage.prepared_dataset import PreparedError, PreparedSet

POSITION = "position"
IMAGE_RGB = "image_rgb"
_ORDER_BLOCK = 64  # steps whose order is computed at once, in hardly more time than one step's
AT_A_TIME = 4096
Batch = dict[str, np.ndarray]
Reader = Callable[[np.ndarray], Batch]


def batches(
    prepared: PreparedSet,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    fields: Sequence[str] | None = None,
    rows: np.ndarray | None = None,
    num_threads: int | None = None,
    prefetch: int | None = None,
    as_decoded: bool = False,
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
      as_decoded: leave a shard's images as the decoder makes them: `image_rgb` in place of `image`. Putting the
        channels in order costs a host 2 to 3 % of what it can decode, and a device nothing.

    Yields:
      {field: [B / process_count, ...]} as in manifest.py (image uint8 BGR), and `position` uint32
      [B / process_count, 2]: the global sample position k * B + i as (high, low) 32-bit words, from
      which the device derives the face's augmentation key.

    Raises:
      ValueError: B does not divide among the hosts, or a field is unknown.
    """
    if process_count < 1 or batch_size < 1 or batch_size % process_count:
        raise ValueError(f"Batch size ({batch_size}) must be divisible by the number of processes ({process_count})")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} must be below process_count {process_count}")
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, got {start_step}")
    chosen = _chosen_fields(prepared, fields)
    local = batch_size // process_count
    offsets = process_index * local + np.arange(local, dtype=np.int64)

    epoch = np.arange(prepared.count) if rows is None else rows
    threads = num_threads or reading_threads()
    ahead = prefetch or 2 * threads + 2

    def positions(step: int | np.ndarray) -> np.ndarray:
        return step * batch_size + offsets

    @functools.lru_cache(maxsize=4)
    def rows_of_block(block: int) -> np.ndarray:
        steps = block * _ORDER_BLOCK + np.arange(_ORDER_BLOCK, dtype=np.int64)
        return epoch[sample_indices(seed, positions(steps[:, None]), len(epoch))]

    def rows_of(step: int) -> np.ndarray:
        return rows_of_block(step // _ORDER_BLOCK)[step % _ORDER_BLOCK]

    if prepared.format == "arrays":
        read = _array_reader(prepared, chosen)
        stream = _ahead(lambda step: read(rows_of(step)), start_step, threads, ahead)
    else:
        stored = _as_decoded if as_decoded else _as_stored
        stream = _mapped(stored, _shard_stream(prepared, chosen, rows_of, local, start_step, threads, ahead))
    return _with_positions(stream, positions, start_step)


def reading_threads() -> int:
    """How many threads read by default: one more than there are cores, at most 16."""
    return min(16, (os.cpu_count() or 1) + 1)


def read_rows(prepared: PreparedSet, indices: np.ndarray, fields: Sequence[str] | None = None) -> Batch:
    """The faces of given indices in this order, {field: [len(indices), ...]}; all fields, also
    `name`, unless some are named. For evaluation, which goes through a set once.
    """
    return _reader(prepared, tuple(fields or prepared.fields))(np.asarray(indices, np.int64))


def read_column(prepared: PreparedSet, field: str) -> np.ndarray:
    """One field of all faces, [count, ...]. Reads shards whole, in parts of AT_A_TIME faces."""
    read = _reader(prepared, (field,))
    starts = range(0, prepared.count, AT_A_TIME)
    return np.concatenate([read(np.arange(k, min(k + AT_A_TIME, prepared.count)))[field] for k in starts])


def _reader(prepared: PreparedSet, fields: Sequence[str]) -> Reader:
    chosen = _chosen_fields(prepared, fields)
    return (_array_reader if prepared.format == "arrays" else _shard_reader)(prepared, chosen)


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
        raise ValueError(f"{prepared.folder} has no fields {unknown}; it has {sorted(prepared.fields)}")
    return {name: prepared.fields[name] for name in fields}


def _array_reader(prepared: PreparedSet, chosen: dict[str, Any]) -> Reader:
    return lambda rows: {name: prepared.arrays[name][rows] for name in chosen}


def _shard_reader(prepared: PreparedSet, chosen: dict[str, Any]) -> Reader:
    """One batch at a time, here and now."""
    tf = array_record.tensorflow_on_cpu()
    serialized = _record_reader(prepared)
    parse = tf.function(
        lambda batch: array_record.parse_batch(tf, batch, chosen, at_a_time=reading_threads()),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    return lambda rows: _as_stored(parse(tf.constant(serialized(rows))))


def _shard_stream(
    prepared: PreparedSet,
    chosen: dict[str, Any],
    rows_of: Callable[[int], np.ndarray],
    size: int,
    start_step: int,
    threads: int,
    ahead: int,
) -> Generator[Any, None, None]:
    """Parsed batches of rows_of(start_step), rows_of(start_step + 1), ..., `size` each, made ahead by tf.data."""
    tf = array_record.tensorflow_on_cpu()
    read = _record_reader(prepared)
    return tf_stream.parsed(
        tf,
        _ahead(lambda step: read(rows_of(step)), start_step, threads, threads),
        lambda batch: array_record.parse_batch(tf, batch, chosen, at_a_time=1),
        batch_size=size,
        num_threads=threads,
        ahead=ahead,
    )


def _mapped(function: Callable[[Any], Batch], stream: Generator[Any, None, None]) -> Iterator[Batch]:
    with contextlib.closing(stream):
        yield from map(function, stream)


def _record_reader(prepared: PreparedSet) -> Callable[[np.ndarray], list[bytes]]:
    """Rows -> their serialized examples."""

    def broken(error: Exception) -> PreparedError:
        return PreparedError(
            f"{prepared.folder}: its shards could not be read ({error}); to see which file changed:"
            f" python -m scripts.prepare_data verify --output={prepared.folder}"
        )

    damage = (RuntimeError, ValueError, OSError)  # what ArrayRecord raises
    try:
        source = array_record.open_shards(prepared.shards)
    except damage as error:
        raise broken(error) from None
    # Not `prepared_dataset.count`, which is smaller in a set cut by `PreparedSet.first`.
    listed = prepared.manifest["count"]
    if len(source) != listed:
        raise ValueError(
            f"{prepared.folder}: its shards hold {len(source)} faces, the manifest says {listed}; prepare it again"
        )

    def read(rows: np.ndarray) -> list[bytes]:
        try:
            # One by one: `__getitems__` starts a thread for each shard at every call, 7 times slower.
            return [source[row] for row in rows.tolist()]
        except damage as error:
            raise broken(error) from None

    return read


def _with_positions(
    stream: Iterator[Batch], positions: Callable[[int], np.ndarray], start_step: int
) -> Iterator[Batch]:
    with contextlib.closing(stream):
        for step, batch in enumerate(stream, start_step):
            yield batch | {POSITION: split_position(positions(step))}


def _ahead(make: Callable[[int], Batch], start_step: int, num_threads: int, prefetch: int) -> Iterator[Batch]:
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


def _as_stored(parsed: dict[str, Any]) -> Batch:
    """TensorFlow's tensors -> what the folder holds: strings as str, images BGR."""
    batch = _as_decoded(parsed)
    if IMAGE_RGB in batch:
        rgb = batch.pop(IMAGE_RGB)
        batch["image"] = cv2.cvtColor(rgb.reshape(-1, rgb.shape[2], 3), cv2.COLOR_RGB2BGR).reshape(rgb.shape)
    return batch


def _as_decoded(parsed: dict[str, Any]) -> Batch:
    """TensorFlow's tensors -> arrays: strings as str; images RGB, as `image_rgb`, in TensorFlow's own memory."""
    return dict(_decoded_field(name, tensor) for name, tensor in parsed.items())


def _decoded_field(name: str, tensor: Any) -> tuple[str, np.ndarray]:
    if name == "image":
        return IMAGE_RGB, np.asarray(memoryview(tensor))  # `tensor.numpy()` copies
    array = tensor.numpy()
    if array.dtype == object:
        array = np.array([value.decode("utf-8") for value in array])
    return name, array
