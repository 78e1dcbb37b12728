"""Makes a preparation's units with Apache Beam: on this machine's cores, or with any Beam runner.

The elements of the pipeline are unit numbers. A worker opens the source itself and writes its units into the staging
folder, which all processes must see (`work_units`). So elements are tiny, a killed run keeps its finished units, and
the output does not depend on the runner or on the number of workers.
"""

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
WORKERS_LOG = "workers.log"  # stderr of local workers, in the staging folder
COUNTERS = "faces"  # namespace of Beam's counters: read, kept, and skipped by reason
_POLL_SECONDS = 0.2
_EXIT_SECONDS = 30.0  # for workers to exit after a stop request or after one of them was killed
_ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class BeamEngine:
    """A `prepare.Engine`.

    Attributes:
      runner: LOCAL for processes on this machine, or the name of a runner as in Beam's --runner.
      workers: number of processes of LOCAL.
      options: flags for Beam, such as ["--flink_master=host:8081"].
      counters: Beam's counters of the last run: {"read": ..., "kept": ..., "skipped: REASON": ...}.
    """

    runner: str = LOCAL
    workers: int = 2
    options: tuple[str, ...] = ()
    counters: dict[str, int] = dataclasses.field(default_factory=dict)

    def __call__(self, job: Job, pending: list[int], monitor: ProgressMonitor) -> None:
        """Makes the pending units.

        Raises:
          PreparedError: a worker failed (disk full, changed listing), or its files are not visible here.
          ImportError: Beam is not installed; the message names the package.
        """
        if not pending:
            return
        if self.runner == LOCAL and min(len(pending), self.workers) == 1 and not self.options:
            return in_process(job, pending, monitor)
        run = functools.partial(self._run, job, pending, _import_beam())
        with _worker_environment():
            _run_and_watch(run, job, pending, monitor)
        missing = [unit for unit in pending if unit not in monitor.done]
        if missing:
            raise PreparedError(
                f"{len(missing)} of {len(pending)} units are not at {job.staging}: workers must"
                " see this folder and the source under the same path as this machine"
            )

    def _run(self, job: Job, pending: list[int], beam: Any) -> None:
        flags = list(self.options)
        if self.runner == LOCAL:
            flags.append(f"--direct_num_workers={min(self.workers, len(pending))}")
            flags.append("--default_sdk_harness_log_level=ERROR")
        options = beam.options.pipeline_options.PipelineOptions(flags)
        runner = _local_runner(options, job) if self.runner == LOCAL else self.runner
        pipeline = beam.Pipeline(runner=runner, options=options)
        units = pipeline | "units" >> beam.Create(pending) | "spread" >> beam.Reshuffle()
        _ = units | "make" >> beam.FlatMap(functools.partial(_work, job))
        result = pipeline.run()
        result.wait_until_finish()
        with contextlib.suppress(NotImplementedError):  # some runners have no counters
            counters = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(COUNTERS))["counters"]
            self.counters = {counter.key.metric.name: counter.result for counter in counters}


def _import_beam() -> Any:
    logging.getLogger().addFilter(_not_about_apitools)
    try:
        import apache_beam
        import apache_beam.metrics
        import apache_beam.options.pipeline_options
    except ImportError as error:
        raise ImportError(
            f'preparing with several processes needs Apache Beam: pip install "twodal_jax[data]", or give'
            f" --workers=1 ({error})"
        ) from None
    finally:
        logging.getLogger().removeFilter(_not_about_apitools)
    return apache_beam


def _not_about_apitools(record: logging.LogRecord) -> bool:
    """Drops Beam's import warning about missing cloud tools, which are not needed."""
    return "apitools" not in record.getMessage()


def _local_runner(options: Any, job: Job) -> Any:
    """Runner of local processes. Not DirectRunner, which first tries to download Prism."""
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    # As in DirectRunner; without it the workers would not know the options.
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    log, failed = (shlex.quote(os.path.join(job.staging, name)) for name in (WORKERS_LOG, work_units.FAILED))
    # Beam waits forever for a killed worker, so the worker's shell writes the message that `_run_and_watch` reads.
    worker = SubprocessSDKEnvironment.from_command_string(
        f"{shlex.quote(sys.executable)} -m data_pipelines.preparation.beam_worker {os.getpid()} 2>>{log} || echo"
        f' "a worker process ended with status $? (137: killed, usually for lack of memory; see $(tail -n 1 {log})).'
        f' Finished parts are kept: the same command continues, and --workers=1 needs less memory" >{failed}'
    )
    return fn_runner.FnApiRunner(worker, provision_info=fn_runner.ExtendedProvisionInfo(info))


def _work(job: Job, unit: int) -> Iterator[None]:
    """Beam's worker function: makes a unit. Expected errors are written to failed.txt for the parent to report."""
    import cv2
    from apache_beam.metrics import Metrics

    cv2.setNumThreads(1)  # there is one process per core
    try:
        done = job.done(unit) or work_units.make_unit(job, work_units.source_of(job), unit)
    except work_units.Stopped:
        return
    except (SourceError, PreparedError, AssetError, ImportError, OSError) as error:
        text = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
        with contextlib.suppress(OSError):
            write_text(pathlib.Path(job.staging, work_units.FAILED), text)
            job.request_stop()
        return
    start, stop = job.bounds(unit)
    Metrics.counter(COUNTERS, "read").inc(stop - start)
    Metrics.counter(COUNTERS, "kept").inc(done["count"])
    for _, _, reason, _ in done["skips"]:
        Metrics.counter(COUNTERS, f"skipped: {reason}").inc()
    yield from ()


def _run_and_watch(run, job: Job, pending: list[int], monitor: ProgressMonitor) -> None:
    """Runs the pipeline in a thread and polls the staging folder; on any exit the workers are stopped."""
    errors: list[BaseException] = []

    def body():
        # Workers inherit the mask: this process alone handles Ctrl-C, and stops them with `stop`.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            run()
        except BaseException as error:
            errors.append(error)

    def poll():
        for unit in pending:
            if unit not in monitor.done and (done := job.done(unit)) is not None:
                monitor.finished(unit, done)
        monitor.seen(job.faces_seen())

    thread = threading.Thread(target=body, name="beam", daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not _failure(job):
            thread.join(_POLL_SECONDS)
            poll()
        thread.join(_EXIT_SECONDS)
        poll()
    except BaseException:
        job.request_stop()
        thread.join(_EXIT_SECONDS)
        raise
    if text := _failure(job):
        job.request_stop()
        raise PreparedError(text)
    if errors:
        raise errors[0]


def _failure(job: Job) -> str:
    try:
        return pathlib.Path(job.staging, work_units.FAILED).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Sets what worker processes inherit: this project on their path, one thread each, no accelerator."""
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")])),
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    level = logging.getLogger("apache_beam").level
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger("apache_beam").setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
