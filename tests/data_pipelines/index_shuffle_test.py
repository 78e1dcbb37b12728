"""The stateless shuffle: permutations, epochs, seeds, far positions."""

import time

import numpy as np
import pytest

from data_pipelines.loading.index_shuffle import sample_indices


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 999, 10_000])
def test_each_epoch_is_a_permutation(count):
    for epoch in (0, 1, 12345):
        indices = sample_indices(7, np.arange(count) + epoch * count, count)
        np.testing.assert_array_equal(np.sort(indices), np.arange(count))


def test_epochs_and_seeds_have_different_orders():
    first = sample_indices(0, np.arange(2000), 1000)
    for other in (first[1000:], sample_indices(1, np.arange(1000), 1000), np.arange(1000)):
        assert (first[:1000] == other).mean() < 0.01
    assert not np.array_equal(sample_indices(-1, np.arange(99), 99), sample_indices(2**63, np.arange(99), 99))


def test_the_result_does_not_depend_on_how_positions_are_grouped():
    positions = np.arange(10**15, 10**15 + 640)
    whole = sample_indices(3, positions, 777)
    parts = np.concatenate([sample_indices(3, part, 777) for part in np.split(positions, 20)])
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(whole.reshape(20, 32), sample_indices(3, positions.reshape(20, 32), 777))


def test_order_is_uncorrelated_and_the_first_face_of_epochs_uniform():
    indices = sample_indices(11, np.arange(8192), 8192)
    assert abs(np.corrcoef(indices[:-1], indices[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(8192), indices)[0, 1]) < 0.05
    first = sample_indices(11, np.arange(4000) * 8192, 8192)
    counts = np.histogram(first, bins=10, range=(0, 8192))[0]  # 400 expected in each
    assert counts.min() > 300 and counts.max() < 500


def test_far_positions_take_as_long_as_near_ones():
    def seconds(start):
        begin = time.perf_counter()
        for _ in range(20):
            sample_indices(0, np.arange(start, start + 64), 1_000_000)
        return time.perf_counter() - begin

    seconds(0)
    assert seconds(8_000_000) < 10 * min(seconds(0) for _ in range(3))
    assert sample_indices(0, np.array([2**62 - 1]), 1000).shape == (1,)


@pytest.mark.parametrize(
    "position, count, word", [(-1, 5, "positions"), (2**62, 5, "positions"), (0.5, 5, "integers"), (0, 0, "count")]
)
def test_invalid_arguments_are_named(position, count, word):
    with pytest.raises(ValueError, match=word):
        sample_indices(0, np.array([position]), count)
