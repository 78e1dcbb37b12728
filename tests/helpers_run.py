"""Fresh Python processes, and a tiny training run for them that needs no TensorFlow.

As a program, `python helpers_run.py WORKDIR SETTINGS` trains a tiny model and prints {"hash": of the final state,
"tensorflow": whether it was imported, "wild_starts": steps at which streams of wild faces were opened}. SETTINGS is a
JSON object; all fields are optional:

  config: {dotted name: value} for `tiny_config`
  events: {step: event} at the annotated batch of a step: "nan" spoils it, "SIGTERM" and other names are sent to the
    process, everything else goes to `helpers_disk.apply`
  slow_steps: {step: seconds} that a step takes longer; slow_report: seconds that the report takes longer
  detected: false: no test or validation face has detected landmarks
  distributed: `config.distributed`; obey_permissions: true: without root's right to write anywhere
"""

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ALL = os.environ.get("TWODAL_TEST_ALL") == "1"  # `make test-all`: more repetitions of the same checks
# LLVM takes most of the time of a compilation.
QUICK_COMPILER = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"


class Program(subprocess.Popen):
    """A fresh interpreter in the project's root, on the CPU, with output to files; a `with` block kills it."""

    def __init__(self, *arguments, env=None, cwd=ROOT, stderr=None):
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        environment = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "JAX_PLATFORMS": "cpu",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, *map(str, arguments)]
        environment = os.environ | environment | (env or {})
        super().__init__(command, env=environment, cwd=cwd, stdout=self._out, stderr=stderr or self._err, text=True)

    def __exit__(self, *_) -> None:
        self.kill()
        self.wait()

    def stdout_text(self) -> str:
        """Its standard output so far."""
        return _content(self._out)

    def stderr_text(self) -> str:
        """Its standard error so far."""
        return _content(self._err)

    def wait_until(self, holds, timeout: float = 400) -> None:
        """Returns when `holds()` is true, or a pattern is found in the standard error."""
        deadline = time.monotonic() + timeout
        while not (re.search(holds, self.stderr_text()) if isinstance(holds, str) else holds()):
            assert self.poll() is None and time.monotonic() < deadline, self.stderr_text()[-3000:]
            time.sleep(0.02)

    def finish(self, timeout: float = 800) -> subprocess.CompletedProcess:
        """Waits for its end."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:.0f} s: {self.stderr_text()[-3000:]}") from None
        return subprocess.CompletedProcess(self.args, self.returncode, self.stdout_text(), self.stderr_text())


def _content(file) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode("utf-8", "replace")


def run_python(*arguments, timeout=800, **settings) -> subprocess.CompletedProcess:
    """Runs a `Program` to its end."""
    with Program(*arguments, **settings) as program:
        return program.finish(timeout)


@contextlib.contextmanager
def started(commands, env=None):
    """Several `Program`s at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Program(*command, env=env)) for command in commands]


def run_together(commands, env=None, timeout: float = 400) -> list[subprocess.CompletedProcess]:
    """Runs commands at once, to their ends."""
    with started(commands, env) as programs:
        return [program.finish(timeout) for program in programs]


def free_port() -> int:
    """A port that is not in use."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def place(index: int, port: int, count: int = 2) -> str:
    """`config.distributed` of a process of a group on this machine."""
    return f"127.0.0.1:{port},{count},{index}"


def tiny_command(workdir, config=(), events=(), **settings) -> list[str]:
    """Arguments of a `Program` that trains a tiny model; see the module's docstring."""
    events = {str(step): event.format(workdir=workdir) for step, event in dict(events).items()}
    return ["tests/helpers_run.py", str(workdir), json.dumps({"config": dict(config), "events": events} | settings)]


def start_tiny(workdir, config=(), events=(), env=None, stderr=None, **settings) -> Program:
    """Starts a tiny training run."""
    return Program(*tiny_command(workdir, config, events, **settings), env=env, stderr=stderr)


def train_tiny(workdir, config=(), events=(), **settings) -> subprocess.CompletedProcess:
    """Runs a tiny training run to its end."""
    return run_python(*tiny_command(workdir, config, events, **settings))


def result(process: subprocess.CompletedProcess) -> dict:
    """What a finished tiny run printed."""
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def saved_steps(workdir) -> list[int]:
    """The steps of a run's latest checkpoints, ascending."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def tiny_config(**overrides):
    """paper.py's config with a ResNet-10, four steps of stage 1 and two of stage 2, batch 2 + 2, 3 validation faces.

    overrides: by dotted names, such as {"stage1.steps": 3}.
    """
    from configs import paper

    importlib.import_module("helpers_model")  # defines resnet10
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
    """Writes the folder of a run with an untrained network; returns its state.

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
    """SHA-256 of all leaves of a state, in their order."""
    import jax
    import numpy as np

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def tiny_data(model, events, yaw_deg=(0.0, 45.0, 75.0), faces=2, validation=True, detected=True, wild_starts=None):
    """TrainingData of random faces. Batch k of `faces` + `faces` depends on k alone; a group's process gets its part.

    validation: whether there is a validation part. detected: whether test and validation faces have detected landmarks.
    wild_starts: a list that collects the steps at which streams of wild faces are opened.
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
                elif hasattr(signal, event):
                    os.kill(os.getpid(), getattr(signal, event))
                else:
                    helpers_disk.apply(event)
            yield batch

    def held_out(seed):
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
        held_out=held_out(99),
        description=description | ({"validation": {"faces": len(yaw_deg)}} if validation else {}),
        validation=held_out(98) if validation else None,
    )


def hold_thread(seconds):
    """Returns after some time in C code, in which Python handles no signal, as in a long computation."""
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)  # zeros: an unlocked mutex
    library.pthread_mutex_lock(mutex)
    timer = threading.Timer(seconds, library.pthread_mutex_unlock, [mutex])
    timer.daemon = True
    timer.start()
    library.pthread_mutex_lock(mutex)


def slow_steps(make_step, seconds):
    """`training.step.mapped_train_step` whose steps with a number in `seconds` take so much longer."""
    from twodal_jax.distributed import sharding

    def make(spec):
        step_fn = make_step(spec)

        def step(state, batch, model):
            number = int(sharding.host_copy(state.step)) + 1
            output = step_fn(state, batch, model)
            hold_thread(seconds.get(str(number), 0.0))
            return output

        return step

    return make


def slow_report(write, seconds):
    """`training_report.write` that prints "reporting" and takes `seconds` longer."""

    def slow(*arguments, **settings):
        print("reporting", file=sys.stderr, flush=True)
        hold_thread(seconds)
        write(*arguments, **settings)

    return slow


def main() -> None:
    workdir, settings = sys.argv[1], json.loads(sys.argv[2])
    import helpers_disk

    if settings.get("obey_permissions"):
        helpers_disk.obey_permissions()
    import helpers_model

    from twodal_jax import train
    from twodal_jax.checkpointing.manager import CheckpointError
    from twodal_jax.distributed import cluster
    from twodal_jax.io.text import WriteError
    from twodal_jax.reporting import training_report
    from twodal_jax.training import builder, step as train_step

    cluster.start(settings.get("distributed", cluster.AUTO), heartbeat_seconds=10)
    model = helpers_model.tiny_model()
    config = tiny_config(**settings.get("config", {}))
    if seconds := settings.get("slow_report"):
        training_report.write = slow_report(training_report.write, seconds)
    if seconds := settings.get("slow_steps"):
        train_step.mapped_train_step = slow_steps(train_step.mapped_train_step, seconds)
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
    except (CheckpointError, WriteError, builder.ConfigError, train.NotFinite) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, train.NotFinite) else 4)
    found = {"hash": state_hash(state), "tensorflow": "tensorflow" in sys.modules, "wild_starts": wild_starts}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
