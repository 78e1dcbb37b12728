"""Wild streams are opened at the first step of a stage that needs them and closed after it."""

import dataclasses

import pytest

from twodal_jax.training import stage_batches


@dataclasses.dataclass
class Stage:
    start: int
    end: int
    wild: bool

    @property
    def spec(self):
        return self

    def uses(self, *names):
        assert set(names) == {"loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc"}
        return self.wild


def recorded(log):
    def wild(start):
        log.append(f"open {start}")
        try:
            step = start
            while True:
                yield step
                step += 1
        finally:
            log.append("closed")

    return wild


@pytest.mark.parametrize(
    "stages, start, expected, opened",
    [
        ([(0, 3, True), (3, 5, False)], 0, [0, 1, 2, None, None], ["open 0", "closed"]),
        ([(0, 3, True), (3, 5, False)], 2, [2, None, None], ["open 2", "closed"]),
        ([(0, 3, True), (3, 5, False)], 3, [None, None], []),
        ([(0, 3, False), (3, 5, True)], 0, [None, None, None, 3, 4], ["open 3", "closed"]),
        ([(0, 3, True), (3, 5, True)], 1, [1, 2, 3, 4], ["open 1", "closed"]),  # one stream through both
        ([(0, 3, True), (3, 5, True)], 5, [], []),
    ],
)
def test_each_step_of_a_stage_with_wild_losses_gets_its_batch(stages, start, expected, opened):
    log = []
    stages = [Stage(*fields) for fields in stages]
    assert list(stage_batches.wild_batches(stages, recorded(log), start)) == expected
    assert log == opened


def test_the_stream_is_closed_before_the_first_step_without_it():
    log = []
    batches = stage_batches.wild_batches([Stage(0, 1, True), Stage(1, 2, False)], recorded(log), 0)
    assert next(batches) == 0 and log == ["open 0"]
    assert next(batches) is None and log == ["open 0", "closed"]


def test_streams_may_be_plain_iterators_or_missing():
    assert list(stage_batches.wild_batches([Stage(0, 2, True)], lambda start: iter([7, 8, 9]), 0)) == [7, 8]
    assert list(stage_batches.wild_batches([Stage(0, 2, True)], None, 0)) == [None, None]


def test_a_stream_that_ends_too_early_raises_an_error():
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(stage_batches.wild_batches([Stage(0, 3, True)], lambda start: iter([7]), 0))
