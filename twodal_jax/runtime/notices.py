"""What the threads of a group's processes tell one another while the loops are busy.

It goes through the keys and values of the service that JAX's processes share, not through the devices,
which are busy as well. Any thread may call these; a group must have been started (`cluster.start`).
"""

import json
import time

import jax
import orbax.checkpoint as ocp

# Where JAX's preemption service keeps the time of the first SIGTERM that any process of the group got.
_SIGTERM = "RECEIVED_PREEMPTION_NOTICE"
_SAVING, _LEAVING, _HEARD = "twodal_jax/saving", "twodal_jax/leaving", "twodal_jax/heard"
# The first process is left last: the service is in it.
_LAST = 0.5  # seconds


def _value(key: str) -> str | None:
    """What is kept under a key; None if nothing is, or the service is gone."""
    try:
        return ocp.multihost.get_jax_distributed_client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError:
        return None


def _tell(key: str, value: str) -> None:
    ocp.multihost.get_jax_distributed_client().key_value_set(key, value, allow_overwrite=True)


def sigterm_received() -> bool:
    """Whether a process of the group got a SIGTERM."""
    return _value(_SIGTERM) is not None


def tell_saving() -> None:
    """The first process tells the others that it saves, alone, and that all will leave then."""
    _tell(_SAVING, "")


def saving() -> bool:
    """Whether the first process has said so, or that it leaves."""
    return _value(_SAVING) is not None


def tell_leaving(message: str, saved: bool) -> None:
    """The first process tells the others to leave, why, and whether the state is saved."""
    _tell(_LEAVING, json.dumps([message, saved]))
    tell_saving()


def leaving() -> tuple[str, bool] | None:
    """What the first process has told by `tell_leaving`; None as long as it has not."""
    value = _value(_LEAVING)
    return None if value is None else tuple(json.loads(value))


def wait_until_all_heard(seconds: float = 3.0) -> None:
    """Returns when every process is here, or after `seconds`; to be called right before leaving."""
    try:
        ocp.multihost.get_jax_distributed_client().wait_at_barrier(_HEARD, round(1000 * seconds))
    except jax.errors.JaxRuntimeError:
        pass  # one is dead or gone
    if jax.process_index() == 0:
        time.sleep(_LAST)
