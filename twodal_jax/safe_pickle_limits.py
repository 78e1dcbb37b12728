"""What a pickle may ask for: some opcodes, some memory, a result that is not deep; see `safe_pickle`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from twodal_jax.outside_files import BrokenFileError, memory_budget

MAX_STEPS = 300_000  # a pickle of arrays has some hundred, a checkpoint of PyTorch ten thousand
MAX_DEPTH = 50
_NODE_BYTES = 256  # about what a value takes wherever Python or NumPy unfolds it
_PLAIN = (str, bytes, int, float, bool, type(None))


class PickleError(BrokenFileError):
    """A pickle is broken, or holds something else than arrays and plain containers."""


class Limits:
    """What may still be done for one file: opcodes, and bytes to make."""

    def __init__(self, size: int):
        self.steps, self.budget = MAX_STEPS, memory_budget(size)
        self.left = self.budget

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise PickleError(f"more than {MAX_STEPS:,} opcodes, which no pickle of arrays has")

    def make(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise PickleError("makes more data than a file of its size may")


def plain_key(key: Any) -> Any:
    """Returns a key or a member of a set if it is a plain value.

    Hashing a forged, deeply nested tuple could crash, and numbers beyond 64 bits can be made to share one hash.
    """
    if type(key) not in _PLAIN or (type(key) is int and not -(2**63) <= key < 2**64):
        raise PickleError(f"broken pickle: a key of type {type(key).__name__}")
    return key


def short(value: Any) -> str:
    """A value of a file in a message: text cut short, of anything else the type alone."""
    return value[:60] if isinstance(value, str) else type(value).__name__


def made_bytes(value: Any) -> int:
    """Memory of what a call has made of what was there already."""
    if isinstance(value, np.ndarray | np.generic):
        return value.nbytes
    return len(value) * (64 if isinstance(value, set | frozenset) else 1) if hasattr(value, "__len__") else 0


def leaf_bytes(value: Any) -> int:
    """Memory of a value that holds no others; PickleError for anything that is no result."""
    kinds = (*_PLAIN, bytearray, np.ndarray, set, frozenset)
    if type(value) in kinds or isinstance(value, np.generic):
        return _NODE_BYTES + made_bytes(value)
    raise PickleError("broken pickle: an unfinished array, a bare function or an open mark")


def check_finished(root: Any, leaf_bytes: Callable[[Any], int], budget: int) -> Any:
    """Returns `root` if it is made of values and containers alone, without circles, not deep and not large.

    Containers may share what they hold, so that a short file can unfold to any size: it counts each time.
    Nothing here recurses.
    """
    depths: dict[int, int] = {}
    sizes: dict[int, int] = {}
    path, stack = set(), [(root, False)]
    while stack:
        value, left = stack.pop()
        key = id(value)
        if left:
            path.discard(key)
            parts = [id(part) for part in _parts(value)]
            depths[key] = 1 + max((depths[part] for part in parts), default=0)
            sizes[key] = _NODE_BYTES + sum(sizes[part] for part in parts)
            if depths[key] > MAX_DEPTH:
                raise PickleError(f"nested more than {MAX_DEPTH} deep")
            if sizes[key] > budget:
                raise PickleError("unfolds to more data than a file of its size may hold")
        elif key in path:
            raise PickleError("a container that contains itself")
        elif key not in sizes:
            if isinstance(value, dict | list | tuple):
                path.add(key)
                stack.append((value, True))
                stack.extend((part, False) for part in _parts(value))
            else:
                depths[key], sizes[key] = 0, leaf_bytes(value)
    return root


def _parts(value: dict | list | tuple) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
