"""Training steps of a tiny network on all devices; the states are written to a file.

`python helpers_steps.py OUT.npz '{"devices": 8, "steps": 10, "learning_rate": 1e-3, "distributed": "alone"}'`
The processes of a group take their parts of the same global batches. The primary one writes OUT.npz ({"before" or
"after" + path: array}) and OUT.hlo, the compiled program (of a single process only). All print the results of two
broken batches.
"""

import json
import pathlib
import sys

import numpy as np

COUNT = 8
FIRST_SEED = 40


def broken_step(step, state, batch, model, rows) -> dict:
    """A step with NaN in `rows` of the annotated batch: (new state, {"unchanged_on": devices, "counted": counters})."""
    import helpers_model
    import jax

    from twodal_jax.distributed import sharding

    batch["annotated"]["alpha"][rows] = np.nan
    before = [np.asarray(leaf) for leaf in jax.tree.leaves((state.regressor, state.critic))]
    counters = [int(state.skipped), int(state.skipped_in_a_row)]
    batch = sharding.shard({part: helpers_model.part_of_process(batch[part]) for part in batch})
    new, metrics = step(state, batch, model)
    after = jax.tree.leaves((new.regressor, new.critic))
    same = [
        all(np.array_equal(leaf.addressable_shards[device].data, old) for leaf, old in zip(after, before))
        for device in range(jax.local_device_count())
    ]
    counted = [int(new.skipped) - counters[0], int(new.skipped_in_a_row) - counters[1]]
    return new, {"unchanged_on": sum(same), "counted": [*counted, float(metrics["skipped"])]}


def main() -> None:
    out, settings = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    import helpers_model
    import jax

    from twodal_jax.distributed import cluster, sharding
    from twodal_jax.training import step as train_step
    from twodal_jax.training.state import create_train_state

    cluster.start(settings.get("distributed", cluster.ALONE))
    assert jax.device_count() == settings["devices"]
    model = helpers_model.tiny_model()
    spec = helpers_model.tiny_spec(
        losses=helpers_model.ALL_LOSSES, axis_name=sharding.AXIS_NAME, learning_rate=settings["learning_rate"]
    )

    def global_batch(seed):
        return helpers_model.tiny_batch(model, annotated=COUNT, wild=COUNT, seed=seed)

    def shard(batch):
        return sharding.shard({part: helpers_model.part_of_process(batch[part]) for part in batch})

    state = create_train_state(spec, 0)
    step, program = train_step.mapped_train_step(spec), ""
    if not cluster.is_group():  # a group's parts of the batch need pmap itself
        step = step.lower(state, shard(global_batch(0)), model).compile()
        program = step.as_text()
    saved = {f"before{path}": leaf for path, leaf in helpers_model.leaves(state).items()}
    for seed in range(settings["steps"]):
        # With this FIRST_SEED no unit is so near to 0 that rounding decides on the gradient of its ReLU. With three
        # others that were tried, single layers differ by up to 7e-5.
        state, _ = step(state, shard(global_batch(FIRST_SEED + seed)), model)
        jax.block_until_ready(state)
    saved |= {f"after{path}": leaf for path, leaf in helpers_model.leaves(sharding.host_copy(state)).items()}
    results = []
    for rows in ([COUNT // 2], slice(None)):
        state, found = broken_step(step, state, global_batch(99), model, rows)
        results.append(found)
    print(json.dumps(results))
    if jax.process_index() == 0:
        np.savez(out, **saved)
        out.with_suffix(".hlo").write_text(program)
    cluster.wait_for_all("finished")


if __name__ == "__main__":
    main()
