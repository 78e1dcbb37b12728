"""Units of a preparation made by Apache Beam: on this machine's cores, or by any runner Beam knows.

The pipeline's elements are unit numbers; a worker opens the source itself and writes its units where all
processes see the staging folder (`work_units.py`). So an element weighs nothing, a killed run keeps what was
finished, and what is written does not depend on the runner or on the number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from data_pipelines.preparation import work_units
from data_pipelines.preparation.prepare import in_process, ProgressMonitor
from data_pipelines.preparation.work_units import Job
from data_pipelines.sources.base import SourceError
from data_pipelines.storage.manifest import PreparedError
from twodal_jax.face_models.load import AssetError
from twodal_jax.io.text import write_text

LOCAL = "local"
WORKERS_LOG = "workers.log"  # what local workers print, beside their units
COUNTERS = "faces"  # the namespace of Beam's counters: read, kept, and skipped by reason
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 30.0  # for workers to end once they are told, or one of them was killed
_ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class BeamEngine:
    """A `prepare.Engine`.

    Attributes:
      runner: LOCAL, processes on this machine; or a runner as Beam's own --runner names it.
      workers: of LOCAL: the number of processes.
      options: flags for Beam, such as ["--flink_master=host:8081"].
      counters: of the last run, from Beam: {"read": ..., "kept": ..., "skipped: REASON": ...}.
    """

    runner: str = LOCAL
    workers: int = 2
    options: tuple[str, ...] = ()
    counters: dict[str, int] = dataclasses.field(default_factory=dict)

    def __call__(self, job: Job, pending: list[int], watch: ProgressMonitor) -> None:
        """Makes the pending units.

        Raises:
          PreparedError: a worker could not go on (disk full, another listing there), or its files are not
            seen here. ImportError: Beam is missing, with what to install.
        """
        if not pending:
            return
        if self.runner == LOCAL and min(len(pending), self.workers) == 1 and not self.options:
            return in_process(job, pending, watch)
        run = functools.partial(self._run, job, pending, _beam())
        with _environment_of_workers():
            _wait(run, job, pending, watch)
        missing = [unit for unit in pending if unit not in watch.done]
        if missing:
            raise PreparedError(
                f"{len(missing)} of {len(pending)} units are not at {job.staging}: workers must"
                " see this folder and the source under the same path as this machine"
            )

    def _run(self, job: Job, pending: list[int], beam: Any) -> None:
        flags = list(self.options)
        if self.runner == LOCAL:
            flags += [
                f"--direct_num_workers={min(self.workers, len(pending))}",
                "--default_sdk_harness_log_level=ERROR",
            ]
        options = beam.options.pipeline_options.PipelineOptions(flags)
        runner = _local_runner(options, job) if self.runner == LOCAL else self.runner
        pipeline = beam.Pipeline(runner=runner, options=options)
        (
            pipeline
            | "units" >> beam.Create(pending)
            | "spread" >> beam.Reshuffle()
            | "make" >> beam.FlatMap(functools.partial(_work, job))
        )
        result = pipeline.run()
        result.wait_until_finish()
        with contextlib.suppress(NotImplementedError):  # some runners keep no counters
            found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(COUNTERS))["counters"]
            self.counters = {one.key.metric.name: one.result for one in found}


def _beam() -> Any:
    logging.getLogger().addFilter(_no_apitools)
    try:
        import apache_beam
        import apache_beam.metrics
        import apache_beam.options.pipeline_options
    except ImportError as error:
        raise ImportError(
            f"preparing with several processes needs Apache Beam: pip install apache-beam, or give"
            f" --workers=1 ({error})"
        ) from None
    finally:
        logging.getLogger().removeFilter(_no_apitools)
    return apache_beam


def _no_apitools(record: logging.LogRecord) -> bool:
    """Beam warns on import that the tools of a cloud nobody asked for are missing."""
    return "apitools" not in record.getMessage()


def _local_runner(options: Any, job: Job) -> Any:
    """The runner of local processes. Not DirectRunner, which first tries to fetch Prism from its site."""
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    # As DirectRunner does it; without, the workers would not know the options.
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    log, failed = (shlex.quote(os.path.join(job.staging, name)) for name in (WORKERS_LOG, work_units.FAILED))
    # Beam waits for ever for a worker that was killed, so its shell says so where `_wait` looks.
    worker = SubprocessSDKEnvironment.from_command_string(
        f"{shlex.quote(sys.executable)} -m data_pipelines.preparation.beam_worker {os.getpid()} 2>>{log} || echo"
        f' "a worker process ended with status $? (137: killed, mostly for want of memory; see $(tail -n 1 {log})).'
        f' Finished parts are kept: the same command goes on, --workers=1 needs less memory" >{failed}'
    )
    return fn_runner.FnApiRunner(worker, provision_info=fn_runner.ExtendedProvisionInfo(info))


def _work(job: Job, unit: int) -> Iterator[None]:
    """Beam's worker: makes a unit. Trouble that is no bug is left for the asking process to tell."""
    import cv2
    from apache_beam.metrics import Metrics

    cv2.setNumThreads(1)  # the cores are shared out by processes
    try:
        done = job.done(unit) or work_units.make_unit(job, work_units.source_of(job), unit)
    except work_units.Stopped:
        return
    except (SourceError, PreparedError, AssetError, ImportError, OSError) as error:
        text = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
        with contextlib.suppress(OSError):
            write_text(pathlib.Path(job.staging, work_units.FAILED), text)
            job.ask_to_stop()
        return
    start, stop = job.bounds(unit)
    Metrics.counter(COUNTERS, "read").inc(stop - start)
    Metrics.counter(COUNTERS, "kept").inc(done["count"])
    for _, _, reason, _ in done["skips"]:
        Metrics.counter(COUNTERS, f"skipped: {reason}").inc()
    yield from ()


def _wait(run, job: Job, pending: list[int], watch: ProgressMonitor) -> None:
    """Runs the pipeline in a thread and looks at its files meanwhile; whatever ends the wait ends the workers."""
    errors: list[BaseException] = []

    def body():
        # Workers inherit the mask: Ctrl-C is for this process, which tells them by `stop`.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="beam", daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not _failure(job):
            thread.join(_POLL_SECONDS)
            _look(job, pending, watch)
        thread.join(_PATIENCE_SECONDS)
        _look(job, pending, watch)
    except BaseException:
        job.ask_to_stop()
        thread.join(_PATIENCE_SECONDS)
        raise
    if text := _failure(job):
        job.ask_to_stop()
        raise PreparedError(text)
    if errors:
        raise errors[0]


def _look(job: Job, pending: list[int], watch: ProgressMonitor) -> None:
    for unit in pending:
        if unit not in watch.done and (done := job.done(unit)) is not None:
            watch.finished(unit, done)
    watch.seen(job.faces_seen())


def _failure(job: Job) -> str:
    try:
        return pathlib.Path(job.staging, work_units.FAILED).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def _environment_of_workers() -> Iterator[None]:
    """What worker processes inherit: this project on their path, one thread each, and no accelerator."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    wanted = {
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    level = logging.getLogger("apache_beam").level
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger("apache_beam").setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
