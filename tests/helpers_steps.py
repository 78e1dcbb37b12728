"""Ten training steps of a tiny network on as many devices as there are; the state goes into a file.

`python helpers_steps.py OUT.npz '{"distributed": "alone", "steps": 10, ...}'`; a group's processes work on
their parts of the same global batches, and the first one writes.
"""

import json
import sys

import numpy as np


def main() -> None:
    out, settings = sys.argv[1], json.loads(sys.argv[2])
    import helpers_model
    import jax

    from twodal_jax import devices, hosts
    from twodal_jax.train_state import create_train_state

    hosts.start(settings.get("distributed", hosts.ALONE))
    assert jax.device_count() == settings["devices"]
    model = helpers_model.tiny_model()
    method = helpers_model.tiny_method(
        losses=helpers_model.ALL_LOSSES, axis_name=devices.AXIS_NAME, learning_rate=settings["learning_rate"]
    )
    step = devices.mapped_train_step(method)
    state = create_train_state(method, 0)
    saved = {f"before{path}": leaf for path, leaf in helpers_model.leaves(state).items()}
    for seed in range(settings["steps"]):
        batch = helpers_model.tiny_batch(model, annotated=8, wild=8, seed=seed)
        batch = devices.shard({part: helpers_model.part_of_process(batch[part]) for part in batch})
        state, metrics = step(state, batch, model)
        jax.block_until_ready(state)
        print({name: float(value) for name, value in metrics.items()})
    saved |= {f"after{path}": leaf for path, leaf in helpers_model.leaves(devices.host_copy(state)).items()}
    if jax.process_index() == 0:
        np.savez(out, **saved)
    hosts.wait_for_all("finished")


if __name__ == "__main__":
    main()
