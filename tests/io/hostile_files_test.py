"""Untrusted files never run code, never crash the process, and take neither much memory nor much time.

New processes read the files, so that a crash shows as the signal that ended one. Time is that of the CPU, because a
wall clock also measures the other work of the machine.
"""

import json
import os
import pickle
import re
import subprocess
import sys

import pytest
from helpers_good_files import good_file, KINDS
from helpers_hostile_arrays import hostile_mats, hostile_npys
from helpers_hostile_pickles import hostile_checkpoints, hostile_pickles
from helpers_run import ROOT, run_python

MEGABYTES, SECONDS = 1000, 5
MUTATIONS = 20_000 if os.environ.get("TWODAL_TEST_ALL") == "1" else 2_000
READERS = ROOT / "tests" / "helpers_readers.py"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
FORMATS = {"pickles": hostile_pickles, "checkpoints": hostile_checkpoints, "mats": hostile_mats, "npys": hostile_npys}


@pytest.mark.parametrize("name", FORMATS)
def test_hand_made_hostile_files_are_refused_with_the_right_message(tmp_path, name):
    canary, folder = tmp_path / "canary", tmp_path / "files"
    folder.mkdir()
    files = FORMATS[name](canary)
    assert len(files) >= 20
    for file, (content, _) in files.items():
        (folder / file).write_bytes(content)
    process = run_python(READERS, "files", folder, env=ONE_THREAD)
    assert process.returncode == 0, process.stderr[-2000:]
    results = json.loads(process.stdout)
    assert results.keys() == files.keys()
    for file, (_, message) in files.items():
        result = results[file]
        assert not result["signal"] and not result["status"], (file, result)
        assert result["megabytes"] < MEGABYTES and result["seconds"] < SECONDS, (file, result)
        expected = "^read$" if message is None else rf"^refused: .*{re.escape(file)}.*({message})"
        assert re.search(expected, result["text"], re.DOTALL), (file, result)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["system", "eval", "partial"])
def test_the_hostile_pickles_run_code_if_pickle_itself_reads_them(tmp_path, name):
    canary = tmp_path / "canary"
    content, _ = hostile_pickles(canary)[f"{name}.pkl"]
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.stdin.read()))"
    subprocess.run([sys.executable, "-c", code], input=content.hex(), text=True, timeout=60, check=False)
    assert canary.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_file_is_read_and_its_mutations_are_read_or_refused(tmp_path, kind):
    suffix, good = good_file(kind)
    path = tmp_path / f"good{suffix}"
    path.write_bytes(good)
    process = run_python(READERS, "mutations", kind, path, MUTATIONS, env=ONE_THREAD)
    current = (tmp_path / "current").read_text() if (tmp_path / "current").exists() else "none"
    assert process.returncode == 0, f"{kind}, mutation {current}: {process.returncode}: {process.stderr[-2000:]}"
    found = json.loads(process.stdout)
    assert not found["wrong"], (kind, found["wrong"])
    assert found["read"] + found["refused"] == MUTATIONS and found["read"] and found["refused"], (kind, found)
    assert found["slowest"][0] < SECONDS and found["megabytes"] < MEGABYTES, (kind, found)


@pytest.mark.parametrize("fault", ["crash", "hang", "memory"])
def test_the_harness_detects_a_reader_that_crashes_hangs_or_takes_all_memory(tmp_path, fault):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "good.pkl").write_bytes(pickle.dumps([1]))
    code = (
        "import json, os, signal, sys, helpers_readers as h\n"
        "h.SECONDS = 0\n"
        "h.outcome = {'crash': lambda path: os.kill(os.getpid(), signal.SIGSEGV),\n"
        "             'hang': lambda path: [None for _ in iter(int, 1)],\n"
        "             'memory': lambda path: 'read' * len(bytes(3 * 2**30))}[sys.argv[2]]\n"
        "print(json.dumps(h.run_files(sys.argv[1])))\n"
    )
    process = run_python("-c", code, folder, fault)
    assert process.returncode == 0, process.stderr[-2000:]
    result = json.loads(process.stdout)["good.pkl"]
    assert result["signal"] or result["status"], result
