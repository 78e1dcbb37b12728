"""Preparation with Apache Beam: real worker processes, killed, interrupted and counted."""

import collections
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers_run import ROOT
from helpers_umdfaces import write_umdfaces

from data_pipelines.preparation import beam_engine, prepare, work_units
from data_pipelines.preparation.beam_engine import BeamEngine
from data_pipelines.sources.umdfaces import umdfaces
from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.manifest import PreparedError
from tests.helpers_face_files import file_contents, run_prepare_data

COUNT = 120
MANY, UNITS = 1500, 30  # takes two processes seconds, so that a signal arrives while they work
BROKEN = (3, 17, 77)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """(UMDFaces folder, {name: reason} of its broken images)."""
    folder = tmp_path_factory.mktemp("umd") / "UMDFaces"
    return folder, write_umdfaces(folder, COUNT, broken=BROKEN)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """(UMDFaces folder that takes seconds, content of its prepared folder)."""
    root = tmp_path_factory.mktemp("many")
    write_umdfaces(root / "UMDFaces", MANY, broken=BROKEN)
    prepare.prepare(umdfaces(root / "UMDFaces"), root / "out", shards=UNITS)
    return root / "UMDFaces", file_contents(root / "out")


# FnApiRunner stands for any named runner: Beam finds it by its name, and it needs no cluster.
@pytest.mark.parametrize(
    "engine", [BeamEngine(workers=2), BeamEngine(runner="FnApiRunner")], ids=["2 workers", "FnApiRunner"]
)
def test_every_runner_writes_the_same_bytes_and_counts_exactly(faces, tmp_path, engine):
    folder, reasons = faces
    prepare.prepare(umdfaces(folder), tmp_path / "one_process", shards=6)
    seen = []
    prepare.prepare(
        umdfaces(folder), tmp_path / "out", shards=6, engine=engine, progress=lambda *counts: seen.append(counts)
    )
    assert file_contents(tmp_path / "out") == file_contents(tmp_path / "one_process")
    skipped = collections.Counter(f"skipped: {reason}" for reason in reasons.values())
    assert engine.counters == {"read": COUNT, "kept": COUNT - len(BROKEN), **skipped}
    assert seen == sorted(seen) and seen[-1] == (COUNT, COUNT)
    assert sorted(os.listdir(tmp_path)) == ["one_process", "out"]


def test_progress_never_decreases_when_a_unit_ends_while_another_is_unfinished(faces, tmp_path):
    source, shown = umdfaces(faces[0]), []
    job = work_units.Job(str(tmp_path), json.dumps({"total": COUNT, "units": 6}), lambda: source)
    monitor = prepare.ProgressMonitor(job, source, 1.0, lambda done, total: shown.append((done, total)))
    monitor.seen(20 + 6)  # of two units, one of them complete
    monitor.finished(0, {"count": 20, "skips": []})
    monitor.seen(5)
    monitor.seen(13)
    assert shown == [(26, COUNT), (26, COUNT), (26, COUNT), (33, COUNT)]


def start(folder, output):
    # A shell's background jobs ignore SIGINT, and their children inherit that; `env` resets it.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "scripts.prepare_data", "umdfaces"]
    command += [f"--input={folder}", f"--output={output}", f"--shards={UNITS}", "--workers=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def workers_of(parent):
    """Process ids of the workers that a process started."""
    workers = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"data_pipelines.preparation.beam_worker\0{parent}\0".encode() in path.read_bytes():
                workers.append(int(path.parent.name))
        except OSError:
            continue
    return workers


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_keeps_its_units_and_continues_to_the_same_bytes(many, tmp_path, sign):
    folder, expected = many
    staging = tmp_path / ".out.partial"
    process = start(folder, tmp_path / "out")
    wait_for(lambda: list(staging.glob("unit-*/done.json")))
    process.send_signal(sign)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == (-signal.SIGKILL if sign == signal.SIGKILL else 130), stderr
    if sign == signal.SIGINT:
        assert stderr == "interrupted; the same command continues where it stopped\n"
    wait_for(lambda: not workers_of(process.pid), 30)
    kept = list(staging.glob("unit-*/done.json"))
    assert kept and not (tmp_path / "out").exists()
    assert sign == signal.SIGKILL or not list(staging.glob("working-*/seen"))
    continued = []

    def engine(job, pending, monitor):
        continued.extend(pending)
        prepare.in_process(job, pending, monitor)

    prepare.prepare(umdfaces(folder), tmp_path / "out", shards=UNITS, engine=engine)
    assert len(continued) == UNITS - len(kept)
    assert file_contents(tmp_path / "out") == expected


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_a_message(many, tmp_path):
    process = start(many[0], tmp_path / "out")
    wait_for(lambda: workers_of(process.pid))
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert stderr.startswith("error: a worker process ended with status 137") and "Traceback" not in stderr
    wait_for(lambda: not workers_of(process.pid), 30)


def test_an_error_of_a_worker_ends_the_run_with_its_message(faces, tmp_path):
    write_umdfaces(tmp_path / "other", 10)
    options = {"engine": BeamEngine(workers=2), "open_source": functools.partial(umdfaces, tmp_path / "other")}
    with pytest.raises(PreparedError, match="its listing changed while it was prepared"):
        prepare.prepare(umdfaces(faces[0]), tmp_path / "out", shards=2, **options)
    assert not (tmp_path / "out").exists()


def test_without_beam_one_worker_prepares_and_two_name_the_package(faces, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match=r'pip install "twodal_jax\[data\]", or give --workers=1'):
        prepare.prepare(umdfaces(faces[0]), tmp_path / "out", shards=2, engine=BeamEngine(workers=2))
    prepare.prepare(umdfaces(faces[0]), tmp_path / "out", shards=2, engine=BeamEngine(workers=1))
    assert prepared_dataset.open_prepared(tmp_path / "out").count == COUNT - len(BROKEN)


def test_flags_for_beam_are_passed_on(faces, tmp_path, monkeypatch):
    engines = []

    def call(engine, job, pending, monitor):
        engines.append(engine)
        prepare.in_process(job, pending, monitor)

    monkeypatch.setattr(beam_engine.BeamEngine, "__call__", call)
    flags = "--runner=FlinkRunner", "--workers=7", "--beam_options=--flink_master=a:8081 --parallelism=2"
    assert run_prepare_data("umdfaces", faces[0], tmp_path / "out", *flags) == 0
    assert (engines[0].runner, engines[0].workers) == ("FlinkRunner", 7)
    assert engines[0].options == ("--flink_master=a:8081", "--parallelism=2")
    assert prepared_dataset.open_prepared(tmp_path / "out").count == COUNT - len(BROKEN)
