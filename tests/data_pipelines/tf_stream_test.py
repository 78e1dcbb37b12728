"""Records through tf.data: in order, ahead by no more than asked, and ended by either side without a wait."""

import itertools
import threading

import pytest

from data_pipelines.loading import tf_stream
from data_pipelines.storage import array_record

SIZE = 3


class Source:
    """Endless batches "0", "1", "2", ...; `fails_at` batches in, reading fails."""

    def __init__(self, fails_at=None):
        self.made, self.closed, self.fails_at = 0, False, fails_at

    def stream(self):
        try:
            for start in itertools.count(step=SIZE):
                if self.made == self.fails_at:
                    raise OSError("the disk is gone")
                self.made += 1
                yield [str(start + i).encode() for i in range(SIZE)]
        finally:
            self.closed = True


def numbers(source, num_threads=2, ahead=3):
    tf = array_record.tensorflow_on_cpu()
    return tf_stream.parsed(
        tf,
        source.stream(),
        lambda text: {"number": tf.strings.to_number(text, tf.int32)},
        batch_size=SIZE,
        num_threads=num_threads,
        ahead=ahead,
    )


def feeders():
    return [thread for thread in threading.enumerate() if thread.name == "records"]


@pytest.mark.parametrize("num_threads, ahead", [(1, 1), (2, 3), (4, 10)])
def test_batches_come_in_order_and_are_read_no_further_ahead_than_asked(num_threads, ahead):
    source = Source()
    stream = numbers(source, num_threads, ahead)
    for step in range(30):
        assert next(stream)["number"].numpy().tolist() == list(range(step * SIZE, (step + 1) * SIZE))
        assert source.made <= step + 1 + ahead + 1  # and one that waits for a place
    stream.close()


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("end", ["close", "drop"])
def test_a_stream_that_is_left_closes_its_source_and_leaves_no_thread(taken, end):
    source = Source()
    stream = numbers(source)
    for _ in range(taken):
        next(stream)
    if end == "close":
        stream.close()
    del stream
    assert source.closed or not taken
    assert not feeders()


def test_an_error_of_the_source_comes_after_the_batches_before_it():
    source, found = Source(fails_at=4), []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in numbers(source, ahead=2):
            found.append(int(batch["number"][0]))
    assert found == [0, 3, 6, 9]
    assert not feeders()


def test_records_that_cannot_be_parsed_are_an_error_that_quotes_them():
    source = Source()
    source.stream = lambda: iter_closing([[b"1", b"2", b"3"], [b"4", b"five", b"6"]])
    stream = numbers(source)
    assert next(stream)["number"].numpy().tolist() == [1, 2, 3]
    with pytest.raises(array_record.tensorflow_on_cpu().errors.InvalidArgumentError, match="five"):
        next(stream)
    assert not feeders()


def test_a_source_that_ends_ends_the_stream():
    source = Source()
    source.stream = lambda: iter_closing([[b"1", b"2", b"3"]])
    assert [batch["number"].numpy().tolist() for batch in numbers(source)] == [[1, 2, 3]]


def iter_closing(batches):
    yield from batches
