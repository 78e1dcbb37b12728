"""Files from outside never run code, never crash the process, and take neither much memory nor time.

The files are read in real processes: a crash is seen as the signal that ended one. Time is that of the CPU, for a
wall clock measures the machine's other work too.
"""

import json
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
READERS = ROOT / "tests" / "helpers_readers.py"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
FORMATS = {"pickles": hostile_pickles, "checkpoints": hostile_checkpoints, "mats": hostile_mats, "npys": hostile_npys}


@pytest.mark.parametrize("name", FORMATS)
def test_hand_made_hostile_files_are_refused_for_what_they_are(tmp_path, name):
    canary, folder = tmp_path / "canary", tmp_path / "files"
    folder.mkdir()
    files = FORMATS[name](canary)
    assert len(files) >= 20
    for file, (content, _) in files.items():
        (folder / file).write_bytes(content)
    process = run_python(READERS, "files", folder, env=ONE_THREAD)
    assert process.returncode == 0, process.stderr[-2000:]
    found = json.loads(process.stdout)
    assert found.keys() == files.keys()
    for file, (_, message) in files.items():
        result = found[file]
        assert not result["signal"] and not result["status"], (file, result)
        assert result["megabytes"] < MEGABYTES and result["seconds"] < SECONDS, (file, result)
        if message is None:
            assert result["text"] == "read", (file, result)
        else:
            assert re.search(rf"^refused: .*{re.escape(file)}.*({message})", result["text"], re.DOTALL), (file, result)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["system", "eval", "partial"])
def test_the_canary_sings_where_pickle_itself_reads_the_file(tmp_path, name):
    canary = tmp_path / "canary"
    content, _ = hostile_pickles(canary)[f"{name}.pkl"]
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.stdin.read()))"
    subprocess.run([sys.executable, "-c", code], input=content.hex(), text=True, timeout=60, check=False)
    assert canary.exists()


def read_mutations(tmp_path, kind, first, count):
    """What became of mutations of a good file, all of one process."""
    suffix, good = good_file(kind)
    path = tmp_path / f"good{suffix}"
    path.write_bytes(good)
    process = run_python(READERS, "mutations", kind, path, first, count, env=ONE_THREAD)
    at = (tmp_path / "at").read_text() if (tmp_path / "at").exists() else "none"
    assert process.returncode == 0, f"{kind}, mutation {at}: ended by {process.returncode}: {process.stderr[-2000:]}"
    found = json.loads(process.stdout)
    assert not found["wrong"], (kind, found["wrong"])
    assert found["read"] + found["refused"] == count and found["read"] and found["refused"], (kind, found)
    assert found["slowest"][0] < SECONDS and found["megabytes"] < MEGABYTES, (kind, found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_of_good_files_are_read_or_refused(tmp_path, kind):
    read_mutations(tmp_path, kind, 0, 500)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_20_000_mutations_of_good_files_are_read_or_refused(tmp_path, kind):
    read_mutations(tmp_path, kind, 0, 20_000)


@pytest.mark.parametrize("kind", KINDS)
def test_the_good_files_themselves_are_read(tmp_path, kind):
    from helpers_readers import outcome

    suffix, good = good_file(kind)
    path = tmp_path / f"good{suffix}"
    path.write_bytes(good)
    assert outcome(path) == "read"


def test_a_crash_and_a_hang_would_be_seen(tmp_path):
    """The harness itself: a reader that dies by a signal, or never ends, is told apart from one that refuses."""
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
    for wrong in ("crash", "hang", "memory"):
        process = run_python("-c", code, folder, wrong)
        assert process.returncode == 0, process.stderr[-2000:]
        result = json.loads(process.stdout)["good.pkl"]
        assert result["signal"] or result["status"], (wrong, result)
