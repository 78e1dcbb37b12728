"""Serialized records through tf.data: Python reads them, TensorFlow's threads parse and decode them.

A tf.data iterator must never wait for Python. If it is deleted while it waits, it waits forever, because the deleting
thread holds the interpreter lock. So the iterator waits for a TensorFlow queue. A Python thread fills that queue, and
the queue is closed before the iterator is deleted.
"""

import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any


def parsed(
    tf: Any,
    serialized: Generator[list[bytes], None, None],
    parse: Callable[[Any], dict[str, Any]],
    *,
    batch_size: int,
    num_threads: int,
    ahead: int,
) -> Generator[dict[str, Any], None, None]:
    """Yields `parse(batch)` for each batch of records, in order, computed in advance.

    Args:
      tf: the module that `array_record.tensorflow_on_cpu` returns.
      serialized: batches of records; closed together with this stream.
      parse: graph function, string tensor [batch_size] -> {field: tensor [batch_size, ...]}.
      batch_size: records in a batch.
      num_threads: batches parsed in parallel, each by one TensorFlow thread.
      ahead: batches read but not yet yielded.

    Raises:
      Exception: any error of `serialized`, after the batches before it; tf.errors.OpError if `parse` fails.
    """
    queue = tf.queue.FIFOQueue(ahead, [tf.string], shapes=[[batch_size]])
    free, ended, failure = threading.Semaphore(ahead), threading.Event(), []
    sent = taken = 0

    def feed():
        nonlocal sent
        try:
            for batch in serialized:
                free.acquire()  # bounds the queue: a thread inside `enqueue` can be neither stopped nor interrupted
                if ended.is_set():
                    break
                queue.enqueue(tf.constant(batch))
                sent += 1
        except BaseException as error:  # raised again by the consumer, after the batches before it
            failure.append(error)
        queue.close()

    feeder = threading.Thread(target=feed, name="records", daemon=True)

    def end():
        ended.set()
        free.release()
        feeder.join()
        serialized.close()

    feeder.start()
    finish = weakref.finalize(feeder, end)  # also runs at interpreter exit
    parse_failed = tf.errors.OpError  # resolved now: at interpreter exit modules are emptied
    try:
        iterator = iter(_dataset(tf, queue, parse, num_threads, ahead))  # named, so that it outlives the queue
        for batch in iterator:
            taken += 1
            free.release()
            yield batch
    except parse_failed:  # raised as well when the queue is empty and closed
        if taken < sent or not queue.is_closed():
            raise
    finally:
        finish()
    if failure:
        raise failure[0]


def _dataset(tf: Any, queue: Any, parse: Callable[[Any], dict[str, Any]], num_threads: int, ahead: int) -> Any:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = num_threads
    as_written = tf.autograph.experimental.do_not_convert
    records = tf.data.Dataset.counter().map(as_written(lambda _: queue.dequeue()))
    batches = records.map(as_written(parse), num_parallel_calls=num_threads, deterministic=True)
    return batches.prefetch(ahead).with_options(options)
