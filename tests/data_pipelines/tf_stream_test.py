"""Records through tf.data: in order, read ahead by at most `ahead`, and closed by either side without blocking."""

import itertools
import threading

import pytest

from data_pipelines.loading import tf_stream
from data_pipelines.storage import array_record

SIZE = 3


class Source:
    """Endless batches of the records "0", "1", "2", ...; reading batch `fails_at` fails."""

    def __init__(self, fails_at=None):
        self.made, self.closed, self.fails_at = 0, False, fails_at

    def batches(self):
        try:
            for start in itertools.count(step=SIZE):
                if self.made == self.fails_at:
                    raise OSError("the disk is gone")
                self.made += 1
                yield [str(start + i).encode() for i in range(SIZE)]
        finally:
            self.closed = True


def numbers(batches, num_threads=2, ahead=3):
    """The stream of the records' numbers."""
    tf = array_record.tensorflow_on_cpu()
    return tf_stream.parsed(
        tf,
        batches,
        lambda text: {"number": tf.strings.to_number(text, tf.int32)},
        batch_size=SIZE,
        num_threads=num_threads,
        ahead=ahead,
    )


def feeders():
    return [thread for thread in threading.enumerate() if thread.name == "records"]


@pytest.mark.parametrize("num_threads, ahead", [(1, 1), (2, 3), (4, 10)])
def test_batches_come_in_order_and_are_read_at_most_ahead(num_threads, ahead):
    source = Source()
    stream = numbers(source.batches(), num_threads, ahead)
    for step in range(30):
        assert next(stream)["number"].numpy().tolist() == list(range(step * SIZE, (step + 1) * SIZE))
        assert source.made <= step + 1 + ahead + 1  # and one that waits for room
    stream.close()


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("end", ["close", "drop"])
def test_an_abandoned_stream_closes_its_source_and_leaves_no_thread(taken, end):
    source = Source()
    stream = numbers(source.batches())
    for _ in range(taken):
        next(stream)
    if end == "close":
        stream.close()
    del stream
    assert source.closed or not taken
    assert not feeders()


def test_an_error_of_the_source_is_raised_after_the_batches_before_it():
    received = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in numbers(Source(fails_at=4).batches(), ahead=2):
            received.append(int(batch["number"][0]))
    assert received == [0, 3, 6, 9]
    assert not feeders()


def test_records_that_cannot_be_parsed_are_an_error_that_quotes_them():
    stream = numbers(batch for batch in [[b"1", b"2", b"3"], [b"4", b"five", b"6"]])
    assert next(stream)["number"].numpy().tolist() == [1, 2, 3]
    with pytest.raises(array_record.tensorflow_on_cpu().errors.InvalidArgumentError, match="five"):
        next(stream)
    assert not feeders()


def test_a_source_that_ends_ends_the_stream():
    stream = numbers(batch for batch in [[b"1", b"2", b"3"]])
    assert [batch["number"].numpy().tolist() for batch in stream] == [[1, 2, 3]]
