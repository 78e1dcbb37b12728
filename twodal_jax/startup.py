"""What a program sets before JAX starts: fast convolutions on a CPU, and compiled programs kept on disk."""

import os
import pathlib

# 1x1 convolutions as matrix products are only fast on a CPU with this; see `models.layers`.
CPU_FLAGS = "--xla_cpu_experimental_ynn_fusion_type=individual_dot"


def cache_folder() -> pathlib.Path:
    """Where programs keep what they would otherwise compile again: $XDG_CACHE_HOME/twodal_jax."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "twodal_jax"


def set_cpu_flags() -> None:
    """Adds CPU_FLAGS to $XLA_FLAGS; without effect once a JAX backend has started."""
    flags = os.environ.get("XLA_FLAGS", "")
    if CPU_FLAGS not in flags:
        os.environ["XLA_FLAGS"] = f"{CPU_FLAGS} {flags}".strip()


def keep_compiled(folder: os.PathLike | str | None = None) -> None:
    """Keeps compiled programs in `folder` (default: `cache_folder`), so that a second start need not compile.

    A folder that cannot be written is left alone: programs are compiled as ever.
    """
    import jax

    folder = pathlib.Path(folder) if folder is not None else cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
