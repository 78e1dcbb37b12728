"""Values of a group's primary process on all processes. Every process must call each of these functions."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def broadcast_from_primary(tree: Any) -> Any:
    """The primary process's arrays, as NumPy arrays on every process."""
    return multihost_utils.broadcast_one_to_all(tree)


def broadcast_text(text: str, max_bytes: int = 2000) -> str:
    """The primary process's text, cut to `max_bytes` UTF-8 bytes; the limit must be the same on all processes."""
    if jax.process_count() == 1:
        return text
    raw = np.frombuffer(text.encode()[:max_bytes].ljust(max_bytes), np.uint8)
    return np.asarray(broadcast_from_primary(raw)).tobytes().decode("utf-8", "replace").strip()


def broadcast_state(state: Any) -> Any:
    """The primary process's state, bit for bit; `state` gives the shapes and dtypes."""
    if jax.process_count() == 1:
        return state
    # As bytes, because the broadcast is a sum over processes, and -0.0 + 0.0 is 0.0.
    sent = jax.tree.map(lambda x: np.ascontiguousarray(x).reshape(-1).view(np.uint8), state)
    received = jax.tree.map(np.asarray, broadcast_from_primary(sent))
    return jax.tree.map(lambda x, raw: raw.view(x.dtype).reshape(x.shape), state, received)


def differing_from_primary(fields: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Compare fields with the primary process's.

    Returns:
      The number of processes whose fields differ from the primary's, and this process's own differences:
      ["name: PRIMARY there, OWN here", ...].
    """
    if jax.process_count() == 1:
        return 0, []
    text = json.dumps(fields, sort_keys=True, default=str)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = np.asarray(multihost_utils.process_allgather(digest)).reshape(-1, len(digest))
    differing = int((digests != digests[0]).any(axis=1).sum())
    if not differing:
        return 0, []
    length = int(broadcast_from_primary(np.int32(len(text.encode()))))
    primary, own = json.loads(broadcast_text(text, length)), json.loads(text)
    names = sorted(name for name in {*primary, *own} if primary.get(name) != own.get(name))
    return differing, [f"{name}: {primary.get(name)!r} there, {own.get(name)!r} here" for name in names]
