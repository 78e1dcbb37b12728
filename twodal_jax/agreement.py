"""What the first process of a group knows, on all of them. Each function must be called by every process."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_first(tree: Any) -> Any:
    """Arrays as the first process of a group has them, on every process, as NumPy arrays."""
    return multihost_utils.broadcast_one_to_all(tree)


def text_from_first(text: str) -> str:
    """A message (its first 2000 bytes) of the first process."""
    if jax.process_count() == 1:
        return text
    raw = np.frombuffer(text.encode()[:2000].ljust(2000), np.uint8)
    return np.asarray(from_first(raw)).tobytes().decode("utf-8", "replace").strip()


def state_from_first(state: Any | None, like: Any) -> Any | None:
    """The first process's state, or None, on every process, bit for bit."""
    if jax.process_count() == 1 or not from_first(np.int32(state is not None)):
        return state
    empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    # As bytes: they are added up on their way, and -0.0 + 0.0 is 0.0.
    sent = jax.tree.map(
        lambda x: np.ascontiguousarray(x).reshape(-1).view(np.uint8), empty if state is None else state
    )
    received = jax.tree.map(np.asarray, from_first(sent))
    return jax.tree.map(lambda x, raw: raw.view(x.dtype).reshape(x.shape), empty, received)
