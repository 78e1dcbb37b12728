"""Settings of the test run: one cache of compiled programs, and tests that share a fixture on one worker."""

import os
import tempfile

import pytest

_CACHE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Sets the cache before any worker starts and before JAX is imported; workers and test commands inherit it."""
    if _CACHE not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="twodal_jax_compiled_")
        config.add_cleanup(folder.cleanup)
        os.environ[_CACHE] = folder.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups the tests that use a module's fixtures: with `--dist=loadgroup` one worker makes each fixture once."""
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        if any(definitions[-1].scope == "module" for definitions in fixtures):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
