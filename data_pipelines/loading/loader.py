"""Batches of a prepared folder, a pure function of (seed, step).

Batch k holds the faces `sample_indices(seed, k * B + i, count)`, i = 0 ... B - 1, in this order; a host gets its
contiguous part. There is no iterator state: a resumed run starts at its next step. Both formats give the same faces.
Format "arrays" needs NumPy alone; format "array_record" is parsed and decoded by tf.data.
"""

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
_ORDER_BLOCK = 64  # steps whose order is computed together: hardly slower than the order of one step
COLUMN_PART = 4096  # faces that `read_column` reads at a time
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
    """Endless batches of a prepared folder, read in advance by background threads.

    Args:
      prepared: an opened folder.
      batch_size: B, the global batch size, over all hosts.
      seed: of the order.
      start_step: number of the first batch.
      process_index: this host.
      process_count: the number of hosts.
      fields: fields to read; default: all but the names, which a device cannot hold.
      rows: int [n], the faces of an epoch, possibly with repeats; default: every face once.
      num_threads: threads that read and decode; default: `reading_threads`.
      prefetch: batches read in advance; default: twice the threads plus two.
      as_decoded: whether images of shards stay RGB, as `image_rgb` instead of `image`. Reordering the channels costs
        a host 2 to 3 % of its decoding rate, and costs a device nothing.

    Yields:
      {field: [B / process_count, ...]} as in `storage.manifest` (image uint8 BGR), and `position` uint32
      [B / process_count, 2]: the global sample position k * B + i as (high, low) 32-bit words. The device derives the
      key of the face's augmentation from it.

    Raises:
      ValueError: B is not divisible by the number of hosts, or a field is unknown.
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
        stream = _in_advance(lambda step: read(rows_of(step)), start_step, threads, ahead)
    else:
        stream = _shard_stream(prepared, chosen, rows_of, local, start_step, threads, ahead, as_decoded)
    return _with_positions(stream, positions, start_step)


def reading_threads() -> int:
    """Default number of reading threads: the number of cores plus one, at most 16."""
    return min(16, (os.cpu_count() or 1) + 1)


def read_rows(prepared: PreparedSet, indices: np.ndarray, fields: Sequence[str] | None = None) -> Batch:
    """Faces of the given indices in this order, {field: [len(indices), ...]}; default: all fields, with `name`.

    For evaluation, which reads a set once.
    """
    return _reader(prepared, tuple(fields or prepared.fields))(np.asarray(indices, np.int64))


def read_column(prepared: PreparedSet, field: str) -> np.ndarray:
    """One field of all faces, [count, ...]. Reads shards whole, in parts of COLUMN_PART faces."""
    read = _reader(prepared, (field,))
    starts = range(0, prepared.count, COLUMN_PART)
    return np.concatenate([read(np.arange(k, min(k + COLUMN_PART, prepared.count)))[field] for k in starts])


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


def _reader(prepared: PreparedSet, fields: Sequence[str]) -> Reader:
    """Reads rows in the calling thread."""
    chosen = _chosen_fields(prepared, fields)
    if prepared.format == "arrays":
        return _array_reader(prepared, chosen)
    tf = array_record.tensorflow_on_cpu()
    serialized = _record_reader(prepared)
    parse = tf.function(
        lambda batch: array_record.parse_batch(tf, batch, chosen, parallel=reading_threads()),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    return lambda rows: _to_arrays(parse(tf.constant(serialized(rows))), as_decoded=False)


def _array_reader(prepared: PreparedSet, chosen: dict[str, Any]) -> Reader:
    return lambda rows: {name: prepared.arrays[name][rows] for name in chosen}


def _shard_stream(
    prepared: PreparedSet,
    chosen: dict[str, Any],
    rows_of: Callable[[int], np.ndarray],
    size: int,
    start_step: int,
    threads: int,
    ahead: int,
    as_decoded: bool,
) -> Iterator[Batch]:
    """Batches of rows_of(start_step), rows_of(start_step + 1), ..., `size` faces each, parsed by tf.data."""
    tf = array_record.tensorflow_on_cpu()
    read = _record_reader(prepared)
    stream = tf_stream.parsed(
        tf,
        _in_advance(lambda step: read(rows_of(step)), start_step, threads, threads),
        lambda batch: array_record.parse_batch(tf, batch, chosen, parallel=1),
        batch_size=size,
        num_threads=threads,
        ahead=ahead,
    )
    return _mapped(functools.partial(_to_arrays, as_decoded=as_decoded), stream)


def _mapped(function: Callable[[Any], Batch], stream: Generator[Any, None, None]) -> Iterator[Batch]:
    with contextlib.closing(stream):
        yield from map(function, stream)


def _record_reader(prepared: PreparedSet) -> Callable[[np.ndarray], list[bytes]]:
    """Function from rows to their serialized examples."""

    def broken(error: Exception) -> PreparedError:
        return PreparedError(
            f"{prepared.folder}: its shards could not be read ({error}); to see which file changed:"
            f" python -m scripts.prepare_data verify --output={prepared.folder}"
        )

    record_errors = (RuntimeError, ValueError, OSError)  # what ArrayRecord raises
    try:
        source = array_record.open_shards(prepared.shards)
    except record_errors as error:
        raise broken(error) from None
    # Not `prepared.count`, which is smaller after `PreparedSet.first`.
    listed = prepared.manifest["count"]
    if len(source) != listed:
        raise ValueError(
            f"{prepared.folder}: its shards hold {len(source)} faces, the manifest lists {listed}; prepare it again"
        )

    def read(rows: np.ndarray) -> list[bytes]:
        try:
            # One by one: `__getitems__` starts a thread for each shard at every call and is 7 times slower.
            return [source[row] for row in rows.tolist()]
        except record_errors as error:
            raise broken(error) from None

    return read


def _with_positions(
    stream: Iterator[Batch], positions: Callable[[int], np.ndarray], start_step: int
) -> Iterator[Batch]:
    with contextlib.closing(stream):
        for step, batch in enumerate(stream, start_step):
            yield batch | {POSITION: split_position(positions(step))}


def _in_advance(make: Callable[[int], Any], start_step: int, num_threads: int, prefetch: int) -> Iterator[Any]:
    """Yields make(start_step), make(start_step + 1), ... in order, each submitted `prefetch` steps early."""
    with _Pool(num_threads) as pool:
        steps = itertools.count(start_step)
        pending = collections.deque(pool.submit(make, next(steps)) for _ in range(max(1, prefetch)))
        while True:
            batch = pending.popleft().result()
            pending.append(pool.submit(make, next(steps)))
            yield batch


class _Pool(concurrent.futures.ThreadPoolExecutor):
    """Thread pool that cancels pending work on exit."""

    def __exit__(self, *exception):
        self.shutdown(wait=True, cancel_futures=True)


def _to_arrays(parsed: dict[str, Any], *, as_decoded: bool) -> Batch:
    """TensorFlow tensors -> arrays, strings as str.

    Images become BGR `image`, or with `as_decoded` stay RGB `image_rgb` in TensorFlow's own memory.
    """
    batch = {}
    for name, tensor in parsed.items():
        if name == "image":
            rgb = np.asarray(memoryview(tensor))  # `tensor.numpy()` copies
            if as_decoded:
                batch[IMAGE_RGB] = rgb
            else:
                batch[name] = cv2.cvtColor(rgb.reshape(-1, rgb.shape[2], 3), cv2.COLOR_RGB2BGR).reshape(rgb.shape)
            continue
        array = tensor.numpy()
        batch[name] = np.array([value.decode("utf-8") for value in array]) if array.dtype == object else array
    return batch
