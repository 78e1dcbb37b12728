"""The choice between forms of one computation by the platform that a program is lowered for."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

_default_only = contextvars.ContextVar("default_only", default=False)


def by_platform(cpu: Callable, default: Callable, *args: Any) -> Any:
    """`cpu(*args)` in a program for CPUs, `default(*args)` in one for anything else; both of one shape and dtype.

    A program for one platform holds its own form only; the choice costs tracing time, a quarter of it for a step.
    """
    if _default_only.get():
        return default(*args)
    return jax.lax.platform_dependent(*args, cpu=cpu, default=default)


@contextlib.contextmanager
def default_forms() -> Iterator[None]:
    """Inside, `by_platform` takes the default: for converters that do not know `jax.lax.platform_dependent`."""
    token = _default_only.set(True)
    try:
        yield
    finally:
        _default_only.reset(token)
