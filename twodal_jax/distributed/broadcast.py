"""What the first process of a group knows, on all of them. Each function must be called by every process."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def broadcast_from_primary(tree: Any) -> Any:
    """Arrays as the first process of a group has them, on every process, as NumPy arrays."""
    return multihost_utils.broadcast_one_to_all(tree)


def broadcast_text(text: str, most: int = 2000) -> str:
    """A message (its first `most` bytes, the same number on all) of the first process."""
    if jax.process_count() == 1:
        return text
    raw = np.frombuffer(text.encode()[:most].ljust(most), np.uint8)
    return np.asarray(broadcast_from_primary(raw)).tobytes().decode("utf-8", "replace").strip()


def broadcast_state(state: Any) -> Any:
    """The first process's state, of the shapes that each has here, bit for bit."""
    if jax.process_count() == 1:
        return state
    # As bytes: they are added up on their way, and -0.0 + 0.0 is 0.0.
    sent = jax.tree.map(lambda x: np.ascontiguousarray(x).reshape(-1).view(np.uint8), state)
    received = jax.tree.map(np.asarray, broadcast_from_primary(sent))
    return jax.tree.map(lambda x, raw: raw.view(x.dtype).reshape(x.shape), state, received)


def differing_from_primary(fields: Mapping[str, Any]) -> tuple[int, list[str]]:
    """How many processes have other fields than the first, and of this one's own that differ ["name: the first
    one's value there, own value here", ...].
    """
    if jax.process_count() == 1:
        return 0, []
    text = json.dumps(fields, sort_keys=True, default=str)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(digest)).reshape(-1, len(digest))
    others = int((found != found[0]).any(axis=1).sum())
    if not others:
        return 0, []
    length = int(broadcast_from_primary(np.int32(len(text.encode()))))
    there, here = json.loads(broadcast_text(text, length)), json.loads(text)
    names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    return others, [f"{name}: {there.get(name)!r} there, {here.get(name)!r} here" for name in names]
