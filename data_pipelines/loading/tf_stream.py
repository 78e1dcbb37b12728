"""Serialized records through tf.data: Python reads them, TensorFlow's own threads parse and decode them.

A tf.data iterator must never wait for Python: dropped while it waits, it waits for ever, since whoever drops
it holds the interpreter's lock. So it waits for a queue of TensorFlow's, which a thread of Python fills and
which is closed before the iterator goes.
"""

from __future__ import annotations

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
    """What `parse` makes of each batch of records, in order, made ahead.

    Args:
      tf: the module of `array_record.tensorflow_on_cpu`.
      serialized: batches of `batch_size` records each; is closed with this stream.
      parse: string tensor [batch_size] -> {field: tensor [batch_size, ...]}, for a graph.
      num_threads: batches parsed at a time, by as many of TensorFlow's threads.
      ahead: batches read, but not taken yet.

    Raises:
      whatever `serialized` raises, after the batches before it; tf.errors.OpError if `parse` fails.
    """
    queue = tf.queue.FIFOQueue(ahead, [tf.string], shapes=[[batch_size]])
    free, ended, failure = threading.Semaphore(ahead), threading.Event(), []
    sent = taken = 0

    def feed():
        nonlocal sent
        try:
            for batch in serialized:
                free.acquire()  # not the queue: what waits for that one can be neither stopped nor interrupted
                if ended.is_set():
                    break
                queue.enqueue(tf.constant(batch))
                sent += 1
        except BaseException as error:  # told to the other side, in its turn
            failure.append(error)
        queue.close()

    feeder = threading.Thread(target=feed, name="records", daemon=True)

    def end():
        ended.set()
        free.release()
        feeder.join()
        serialized.close()

    feeder.start()
    finish = weakref.finalize(feeder, end)  # at the latest when the program ends
    parse_failed = tf.errors.OpError  # looked up now: a program that ends empties its modules
    try:
        iterator = iter(_dataset(tf, queue, parse, num_threads, ahead))  # named, so that it outlives the queue
        for batch in iterator:
            taken += 1
            free.release()
            yield batch
    except parse_failed:  # or the queue is empty and closed
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
    waiting = tf.data.Dataset.counter().map(as_written(lambda _: queue.dequeue()))
    made = waiting.map(as_written(parse), num_parallel_calls=num_threads, deterministic=True)
    return made.prefetch(ahead).with_options(options)
