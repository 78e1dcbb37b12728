"""What a program sets before JAX starts: huge pages, fast convolutions on a CPU, compiled programs kept on disk."""

import os
import pathlib
import sys

# 1x1 convolutions as matrix products are only fast on a CPU with this; see `models.layers`.
CPU_FLAGS = "--xla_cpu_experimental_ynn_fusion_type=individual_dot"
# XLA asks for its buffers anew at every step; in pages of 2 MB they are there sooner. glibc 2.35 or newer looks at it,
# and only where the system leaves it to programs (/sys/kernel/mm/transparent_hugepage/enabled: [madvise]).
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def cache_folder() -> pathlib.Path:
    """Where programs keep what they would otherwise compile again: $XDG_CACHE_HOME/twodal_jax."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "twodal_jax"


def set_cpu_flags() -> None:
    """Adds CPU_FLAGS to $XLA_FLAGS; without effect once a JAX backend has started."""
    flags = os.environ.get("XLA_FLAGS", "")
    if CPU_FLAGS not in flags:
        os.environ["XLA_FLAGS"] = f"{CPU_FLAGS} {flags}".strip()


def use_huge_pages() -> None:
    """Starts this program anew, in the same process, with HUGE_PAGES in its environment: the C library looks there once.

    Does nothing off Linux, or where the environment sets the variable already (empty: as the system has it). To be
    called before anything else is done. `benchmarks.huge_pages` measures what it saves.
    """
    if sys.platform == "linux" and not HUGE_PAGES.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **HUGE_PAGES})


def keep_compiled(folder: os.PathLike | str | None = None) -> None:
    """Keeps compiled programs in `folder` (default: `cache_folder`), so that a second start does not compile.

    $JAX_COMPILATION_CACHE_DIR, where it is set, wins over `folder`: several runs then share one cache. Where the folder
    cannot be written, programs are compiled at each start.
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
