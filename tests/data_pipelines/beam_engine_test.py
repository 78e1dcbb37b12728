"""Preparing through Apache Beam: real worker processes, killed, interrupted and counted."""

import collections
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

COUNT = 120
MANY, UNITS = 1500, 30  # seconds for two processes, so that they are caught at work
BROKEN = (3, 17, 77)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("umd") / "UMDFaces"
    reasons = write_umdfaces(folder, COUNT, broken=BROKEN)
    return folder, reasons


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(faces, tmp_path_factory):
    """Prepared by this process alone."""
    output = tmp_path_factory.mktemp("whole") / "out"
    prepare.prepare(umdfaces(faces[0]), output, shards=6)
    return content(output)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder that takes seconds, and what it becomes."""
    root = tmp_path_factory.mktemp("many")
    write_umdfaces(root / "UMDFaces", MANY, broken=BROKEN)
    prepare.prepare(umdfaces(root / "UMDFaces"), root / "out", shards=UNITS)
    return root / "UMDFaces", content(root / "out")


# FnApiRunner stands for any runner that is named: Beam looks it up by its name, and it needs no cluster.
@pytest.mark.parametrize(
    "engine", [BeamEngine(workers=2), BeamEngine(runner="FnApiRunner")], ids=["2 workers", "FnApiRunner"]
)
def test_the_bytes_do_not_depend_on_the_runner_and_beam_counts_exactly(faces, whole, tmp_path, engine):
    folder, reasons = faces
    seen = []
    prepare.prepare(
        umdfaces(folder),
        tmp_path / "out",
        shards=6,
        engine=engine,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert content(tmp_path / "out") == whole
    skipped = collections.Counter(f"skipped: {reason}" for reason in reasons.values())
    assert engine.counters == {"read": COUNT, "kept": COUNT - len(BROKEN), **skipped}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[-1] == (COUNT, COUNT)
    assert os.listdir(tmp_path) == ["out"]


def test_progress_never_goes_back_when_a_unit_ends_while_another_is_at_work(faces, tmp_path):
    source, shown = umdfaces(faces[0]), []
    job = work_units.Job(str(tmp_path), json.dumps({"total": COUNT, "units": 6}), lambda: source)
    watch = prepare.ProgressMonitor(job, source, 1.0, lambda done, total: shown.append((done, total)))
    watch.seen(20 + 6)  # two units at work, one of them through
    watch.finished(0, {"count": 20, "skips": []})
    watch.seen(5)
    watch.seen(13)
    assert shown == [(26, COUNT), (26, COUNT), (26, COUNT), (33, COUNT)]


def start(folder, output):
    # A shell's background jobs ignore SIGINT and hand that down; `env` undoes it.
    command = [
        "env",
        "--default-signal=INT",
        sys.executable,
        "-m",
        "scripts.prepare_data",
        "umdfaces",
        f"--input={folder}",
        f"--output={output}",
        f"--shards={UNITS}",
        "--workers=2",
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def workers_of(asker):
    """Process ids of the workers that a process started."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"data_pipelines.preparation.beam_worker\0{asker}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_cut_keeps_its_units_and_ends_with_the_same_bytes(many, tmp_path, sign):
    folder, whole = many
    staging = tmp_path / ".out.partial"
    process = start(folder, tmp_path / "out")
    wait_for(lambda: list(staging.glob("unit-*/done.json")))
    process.send_signal(sign)
    told = process.communicate(timeout=300)[1]
    assert process.returncode == (-signal.SIGKILL if sign == signal.SIGKILL else 130), told
    if sign == signal.SIGINT:
        assert told == "interrupted; the same command continues where it stopped\n"
    wait_for(lambda: not workers_of(process.pid), 30)
    kept = {path: path.stat().st_mtime_ns for path in staging.glob("unit-*/done.json")}
    assert kept and not (tmp_path / "out").exists()
    sizes = [path.stat().st_size for path in staging.glob("working-*/seen")]
    assert sign == signal.SIGKILL or not sizes
    continued = []
    engine = lambda job, pending, watch: continued.extend(pending) or prepare.in_process(job, pending, watch)  # noqa: E731
    prepare.prepare(umdfaces(folder), tmp_path / "out", shards=UNITS, engine=engine)
    assert len(continued) == UNITS - len(kept)
    assert content(tmp_path / "out") == whole


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_a_message_and_not_in_a_wait_for_ever(many, tmp_path):
    process = start(many[0], tmp_path / "out")
    wait_for(lambda: workers_of(process.pid))
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert told.startswith("error: a worker process ended with status 137") and "Traceback" not in told
    wait_for(lambda: not workers_of(process.pid), 30)


def test_a_worker_that_cannot_go_on_ends_the_run_with_its_message(faces, tmp_path):
    other = tmp_path / "other"
    write_umdfaces(other, 10)

    class Changed:
        """Workers open another listing than the one asked for."""

        def __call__(self):
            return umdfaces(other)

    with pytest.raises(PreparedError, match="its listing changed while it was prepared"):
        prepare.prepare(
            umdfaces(faces[0]), tmp_path / "out", shards=2, engine=BeamEngine(workers=2), open_source=Changed()
        )
    assert not (tmp_path / "out").exists()


def test_without_beam_one_process_prepares_and_two_say_what_to_install(faces, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match="pip install apache-beam, or give --workers=1"):
        prepare.prepare(umdfaces(faces[0]), tmp_path / "out", shards=2, engine=BeamEngine(workers=2))
    prepare.prepare(umdfaces(faces[0]), tmp_path / "out", shards=2, engine=BeamEngine(workers=1))
    assert prepared_dataset.open_prepared(tmp_path / "out").count == COUNT - len(BROKEN)


def test_flags_for_beam_are_passed_on(faces, tmp_path, monkeypatch, capsys):
    from scripts import prepare_data

    seen = []
    monkeypatch.setattr(
        beam_engine.BeamEngine,
        "__call__",
        lambda self, job, pending, watch: seen.append(self) or prepare.in_process(job, pending, watch),
    )
    assert (
        prepare_data.main(
            [
                "umdfaces",
                f"--input={faces[0]}",
                f"--output={tmp_path / 'out'}",
                "--runner=FlinkRunner",
                "--workers=7",
                "--beam_options=--flink_master=a:8081 --parallelism=2",
            ]
        )
        == 0
    )
    assert (seen[0].runner, seen[0].workers) == ("FlinkRunner", 7)
    assert seen[0].options == ("--flink_master=a:8081", "--parallelism=2")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["count"] == COUNT - len(BROKEN)
