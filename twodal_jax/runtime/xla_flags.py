"""Settings made before JAX starts: huge pages and a cache of compiled programs."""

import os
import pathlib
import sys

# XLA allocates its buffers anew at every step, which is faster in pages of 2 MB. Needs glibc 2.35 or newer, and a
# system that lets programs choose (/sys/kernel/mm/transparent_hugepage/enabled: [madvise]).
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def cache_folder() -> pathlib.Path:
    """The user's cache folder of this project: $XDG_CACHE_HOME/twodal_jax."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "twodal_jax"


def use_huge_pages() -> None:
    """Restarts this program, in the same process, with HUGE_PAGES in its environment, which glibc reads at its start.

    To be called first in a program. Does nothing on systems other than Linux, or where the environment sets the
    variable already (empty: the system's default). `benchmarks.huge_pages` measures the effect.
    """
    if sys.platform == "linux" and not HUGE_PAGES.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **HUGE_PAGES})


def keep_compiled(folder: os.PathLike | str | None = None) -> None:
    """Caches compiled programs in `folder` (default: below `cache_folder`), so that a second start does not compile.

    $JAX_COMPILATION_CACHE_DIR, where it is set, replaces `folder`: several runs then share one cache. Where the folder
    cannot be created, programs are compiled at each start.
    """
    import jax

    shared = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = pathlib.Path(shared or folder or cache_folder() / "compiled")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
