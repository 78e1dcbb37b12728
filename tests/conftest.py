"""One cache of compiled programs for all tests, their workers and the commands they start."""

import os
import tempfile

import pytest

_CACHE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Sets the cache before any worker starts and before JAX is imported; workers inherit it."""
    if _CACHE not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="twodal_jax_compiled_")
        config.add_cleanup(folder.cleanup)
        os.environ[_CACHE] = folder.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
