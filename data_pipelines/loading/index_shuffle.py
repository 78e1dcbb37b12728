"""Stateless shuffle: a function from global sample position to face index.

Position p (= step * batch_size + i, counted from the start of training) belongs to epoch p // count. Inside an epoch
the order is a keyed Feistel network over the smallest power of two that holds `count`, restricted to [0, count) by
cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). There is no stored state: position
8,000,000 costs as much as position 0, and a resumed run needs only its step.
"""

import numpy as np

ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def sample_indices(seed: int, positions: np.ndarray, count: int) -> np.ndarray:
    """Face index at each global sample position.

    Args:
      seed: any integer; each seed gives another order.
      positions: int [...], global sample positions in [0, 2**62).
      count: number of faces, 1 to 2**62.

    Returns:
      int64 [...] in [0, count). Over the positions e * count ... (e + 1) * count - 1 of an epoch, every index occurs
      exactly once.

    Raises:
      ValueError: `count` or a position is out of range.
    """
    positions = np.asarray(positions)
    if positions.dtype.kind not in "iu":
        raise ValueError(f"`positions` must be integers, got {positions.dtype}")
    if not 1 <= count <= 2**62:
        raise ValueError(f"`count` must be in [1, 2**62], got {count}")
    if positions.size and (positions.min() < 0 or positions.max() >= 2**62):
        raise ValueError("`positions` must be in [0, 2**62)")
    flat = positions.astype(np.uint64).ravel()
    epoch, index = flat // np.uint64(count), flat % np.uint64(count)
    # Python integers are reduced first: NumPy warns when a uint64 scalar wraps, but not when an array does.
    seed_key = _mix(np.array([(seed + _GOLDEN) & _MASK], np.uint64))
    keys = _mix(seed_key ^ (epoch + np.uint64(1)) * np.uint64(_GOLDEN))
    return _permute(index, keys, count).astype(np.int64).reshape(positions.shape)


def _permute(index: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
    bits = max(1, (count - 1).bit_length())
    result = _feistel(index, keys, bits)
    outside = np.flatnonzero(result >= count)
    while outside.size:  # ends: the cycle contains `index` itself, which is below `count`
        walked = _feistel(result[outside], keys[outside], bits)
        result[outside] = walked
        outside = outside[walked >= count]
    return result


def _feistel(value: np.ndarray, keys: np.ndarray, bits: int) -> np.ndarray:
    """Keyed bijection of [0, 2**bits). The halves may differ by one bit, so rounds update them in turn without swap."""
    low_bits = np.uint64(bits // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits - bits // 2)) - np.uint64(1)
    low, high = value & low_mask, value >> low_bits
    for round_number in range(ROUNDS):
        key = keys + np.uint64(round_number * _GOLDEN & _MASK)
        if round_number % 2:
            low = low ^ (_mix(high ^ key) & low_mask)
        else:
            high = high ^ (_mix(low ^ key) & high_mask)
    return (high << low_bits) | low


def _mix(value: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014), modulo 2**64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
