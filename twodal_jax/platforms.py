"""Where computations run."""

import jax


def on_cpu() -> bool:
    """Whether computations run on a CPU, where some of them take another form."""
    return jax.default_backend() == "cpu"
