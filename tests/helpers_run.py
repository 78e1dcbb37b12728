"""Subprocess helpers: fresh interpreters, and a tiny training run that needs no TensorFlow.

As a program, `python helpers_run.py WORKDIR '{"events": {"3": "SIGTERM"}, "config": {...}}'` trains a
tiny model and prints {"hash": ..., "tensorflow": ..., "wild_starts": [steps]}; `events` sends the process a
signal, spoils the annotated batch ("nan"), or lets happen what `helpers_disk.happen` knows, at the batch of a
step; "slow", {"3": SECONDS}, makes steps take longer, "slow_report", SECONDS, the report; "detected", false: no
face to measure on has detected landmarks.
"""

import ctypes
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run_python(*arguments, timeout=800, **settings) -> subprocess.CompletedProcess:
    """A fresh interpreter in the project's root, on the CPU; text output captured."""
    with start_python(*arguments, **settings) as process:
        try:
            output = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, *output)


def start_python(*arguments, env=None, cwd=ROOT) -> subprocess.Popen:
    """`run_python` that does not wait."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment | (env or {}),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shared_compilations(folder) -> dict[str, str]:
    """Environment of processes that need not compile what one of them has."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
    }


def tiny_config(**overrides):
    """paper.py's config with a tiny network (helpers_model's ResNet-10), four steps of stage 1 and two of stage 2,
    batch 2 + 2, and `tiny_data`'s validation part.

    overrides: dotted names, such as {"stage1.steps": 3}.
    """
    import helpers_model  # noqa: F401 (knows resnet10)

    from configs import paper

    config = paper.get_config()
    tiny = {
        "regressor.name": "resnet10",
        "regressor.variant": "standard",
        "regressor.width": 0.125,
        "critic.width": 0.125,
        "batch_annotated": 2,
        "batch_wild": 2,
        "stage1.steps": 4,
        "stage1.learning_rate": 1e-3,
        "stage1.final_learning_rate": 1e-4,
        "stage2.steps": 2,
        "run.log_every": 2,
        "run.evaluate_every": 3,
        "run.checkpoint_every": 2,
        "run.report_faces": 2,
        "run.evaluation_batch": 4,
        "optimizer.rate_scale": 1.0,
        "optimizer.head_features": 0,
        "optimizer.warmup_steps": 0,
        "optimizer.clip_norm": 0.0,
        "regressor.zero_head": True,
        "validation_faces": 3,
    }
    for name, value in (tiny | overrides).items():
        *parents, field = name.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        with node.unlocked():
            node[field] = value
    config.lock()
    return config


def save_untrained_run(folder, model, config, seed=3):
    """What a run leaves in its folder, of a network that has learnt nothing -> its state.

    model: the morphable model with its whitening, saved where `config.morphable_model` says.
    """
    import jax
    import numpy as np

    from twodal_jax.checkpointing import trained_model
    from twodal_jax.checkpointing.manager import Checkpoints
    from twodal_jax.geometry.morphable_model import digest
    from twodal_jax.io.text import write_json
    from twodal_jax.training import builder
    from twodal_jax.training.state import create_train_state

    state = jax.tree.map(np.asarray, create_train_state(builder.build_stages(config)[-1].spec, seed))
    content = {"config": config.to_dict(), "whitening": trained_model.whitening_of(model)}
    write_json(folder / "config.json", content)
    description = builder.resume_fingerprint(config, digest(model), {})
    Checkpoints(folder / "checkpoints").save(state, description, wait=True)
    return state


def state_hash(state) -> str:
    """SHA-256 over all leaves of a state, in their order."""
    import jax
    import numpy as np

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def tiny_data(model, events, yaw_deg=(0.0, 45.0, 75.0), faces=2, validation=True, detected=True, wild_starts=None):
    """TrainingData of random faces: batch k, of `faces` + `faces`, depends on k
    alone; a process of a group gets its part of it.

    validation: whether there is such a part. detected: whether faces to measure on have detected landmarks.
    wild_starts: a list that collects the steps wild streams are opened at.
    """
    wild_starts = [] if wild_starts is None else wild_starts
    import helpers_disk
    import helpers_model
    import numpy as np

    from twodal_jax.evaluation.held_out import HeldOut
    from twodal_jax.geometry import projection
    from twodal_jax.train import TrainingData

    def stream(part, start):
        step = start
        while True:
            step += 1
            batch = helpers_model.tiny_batch(model, annotated=faces, wild=faces, seed=step)[part]
            batch = helpers_model.part_of_process(batch)
            event = events.get(str(step))
            if part == "annotated" and event:  # every stage reads annotated batches
                if event == "nan":
                    batch["alpha"] = batch["alpha"] * np.nan
                elif event.startswith("SIG"):
                    os.kill(os.getpid(), getattr(signal, event))
                else:
                    helpers_disk.happen(event)
            yield batch

    def measured_on(seed):
        rng = np.random.default_rng(seed)
        count = len(yaw_deg)
        alpha = helpers_model.random_alpha(rng, count)
        return HeldOut(
            name=np.array([f"face{i}" for i in range(count)]),
            image=helpers_model.smooth_images(rng, count),
            landmarks68=np.asarray(projection.landmarks_crop(model, alpha)),
            roi_box=np.tile(np.array([0, 0, 120, 120], np.float32), (count, 1)),
            yaw_deg=np.array(yaw_deg, np.float32),
            detected=helpers_model.true_landmarks_18(model, alpha),
            detected_visible=np.full((count, 18), float(detected), np.float32),
        )

    def wild(start):
        wild_starts.append(start)
        return stream("wild", start)

    description = {"annotated": {"faces": 100}, "wild": {"faces": 100}}
    return TrainingData(
        annotated=lambda start: stream("annotated", start),
        wild=wild,
        held_out=measured_on(99),
        description=description | ({"validation": {"faces": len(yaw_deg)}} if validation else {}),
        validation=measured_on(98) if validation else None,
    )


def deaf(seconds):
    """Returns after some time in C, where no signal is heard and none interrupts, as in a long computation."""
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)  # zeros: a mutex nobody holds
    library.pthread_mutex_lock(mutex)
    timer = threading.Timer(seconds, library.pthread_mutex_unlock, [mutex])
    timer.daemon = True
    timer.start()
    library.pthread_mutex_lock(mutex)


def slowed(make_step, seconds):
    """`training.step.mapped_train_step` whose steps with a number in `seconds` take so much longer."""
    from twodal_jax.distributed import sharding

    def make(spec):
        step_fn = make_step(spec)

        def step(state, batch, model):
            number = int(sharding.host_copy(state.step)) + 1
            result = step_fn(state, batch, model)
            deaf(seconds.get(str(number), 0.0))
            return result

        return step

    return make


def slowed_report(write, seconds):
    """`training_report.write` that says when it begins, and then takes so much longer."""

    def slow(*arguments, **settings):
        print("reporting", file=sys.stderr, flush=True)
        deaf(seconds)
        write(*arguments, **settings)

    return slow


def main() -> None:
    workdir, settings = sys.argv[1], json.loads(sys.argv[2])
    import helpers_disk

    if settings.get("obey_permissions"):
        helpers_disk.obey_permissions()
    import helpers_model

    from twodal_jax import train
    from twodal_jax.checkpointing import manager as checkpoint_manager
    from twodal_jax.distributed import cluster
    from twodal_jax.io.text import WriteError
    from twodal_jax.reporting import training_report
    from twodal_jax.training import builder, step as train_step

    try:
        cluster.start(settings.get("distributed", cluster.AUTO), heartbeat_seconds=10)
    except cluster.GroupError as error:
        sys.exit(str(error))
    model = helpers_model.tiny_model()
    config = tiny_config(**settings.get("config", {}))
    if settings.get("slow_report"):
        training_report.write = slowed_report(training_report.write, settings["slow_report"])
    if settings.get("slow"):
        train_step.mapped_train_step = slowed(train_step.mapped_train_step, settings["slow"])
    wild_starts = []
    data = tiny_data(
        model,
        settings.get("events", {}),
        faces=config.batch_annotated,
        validation=config.validation_faces > 0,
        detected=settings.get("detected", True),
        wild_starts=wild_starts,
    )
    try:
        state = train.train_and_evaluate(config, workdir, data, model)
    except train.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.code)
    except (checkpoint_manager.CheckpointError, WriteError, builder.ConfigError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(4)
    except train.NotFinite as error:
        print(f"NotFinite: {error}", file=sys.stderr)
        sys.exit(3)
    found = {"hash": state_hash(state), "tensorflow": "tensorflow" in sys.modules, "wild_starts": wild_starts}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
