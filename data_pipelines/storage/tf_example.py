"""Serialization of tf.train.Example without TensorFlow, whose import takes each worker seconds and half a gigabyte.

The message is Example{1: Features{1: map<string, Feature>}}, Feature{1: BytesList | 2: FloatList}, each list
{1: values}, in protobuf's wire format (https://protobuf.dev/programming-guides/encoding/). The map is sorted by key,
so that equal faces give equal bytes.
"""

from collections.abc import Mapping

import numpy as np

_LENGTH_DELIMITED = 2


def example_bytes(features: Mapping[str, bytes | np.ndarray]) -> bytes:
    """Serialized tf.train.Example of {name: bytes, or float32 array of any shape}."""
    entries = b"".join(
        _field(1, _field(1, name.encode("utf-8")) + _field(2, _feature(features[name])))
        for name in sorted(features, key=str.encode)
    )
    return _field(1, entries)


def _feature(value: bytes | np.ndarray) -> bytes:
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    numbers = np.ascontiguousarray(value, "<f4").tobytes()
    return _field(2, _field(1, numbers) if numbers else b"")


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
