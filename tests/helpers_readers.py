"""Runs the readers of untrusted files on hostile ones and reports the outcomes as JSON.

As a program:
  python helpers_readers.py files FOLDER              every file of a folder, each in a forked child
  python helpers_readers.py mutations KIND GOOD_FILE COUNT   mutations of a valid file, in one process
"""

import importlib
import json
import os
import pathlib
import resource
import sys
import time
import traceback

import numpy as np

MEMORY_LIMIT, SECONDS = 2 * 2**30, 5
_PLAIN = (str, bytes, bytearray, int, float, bool, type(None))


def read(path):
    """Reads a file with the reader of its suffix."""
    from twodal_jax.io import npy, pickle_arrays, torch_checkpoint

    reader = {
        ".pkl": pickle_arrays.load,
        ".tar": torch_checkpoint.load,
        ".mat": _read_mat,
        ".npy": npy.read_npy,
        ".npz": npy.read_npz,
    }[pathlib.Path(path).suffix]
    return reader(path)


def _read_mat(path):
    """Reads all variables, and `tri` by its name, as the reader of a morphable model does."""
    from twodal_jax.io import mat

    found = mat.read(path)
    return found if "tri" in found else mat.read(path, ("tri",)) or found


def is_plain(value) -> bool:
    """Whether a result consists of arrays of numbers and text, plain values and containers."""
    if isinstance(value, dict):
        return all(type(key) in _PLAIN and is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple, set, frozenset):
        return all(is_plain(item) for item in value)
    if isinstance(value, np.ndarray | np.generic):
        np.asarray(value).tolist() if value.nbytes < 10**6 else value.sum()  # reads every element
        return value.dtype.kind in "biufcSU"
    return type(value) in _PLAIN


def outcome(path):
    """Returns "read" or the message of BrokenFileError; raises any other error."""
    from twodal_jax.io.untrusted import BrokenFileError

    try:
        return "read" if is_plain(read(path)) else "holds something other than arrays"
    except BrokenFileError as error:
        return f"refused: {error}"


def peak_kilobytes() -> int:
    """Peak memory of this program; `ru_maxrss` would start from that of its parent."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def limit_this_process(cpu_seconds=None):
    """Ends the process with more memory or time than this, before it harms the machine."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    if cpu_seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))


def run_files(folder):
    """{file name: {status, signal, seconds of CPU, megabytes, text}}, each file in a child process."""
    for name in ("mat", "torch_checkpoint"):  # once, before the children
        importlib.import_module(f"twodal_jax.io.{name}")

    results = {}
    for path in sorted(pathlib.Path(folder).iterdir()):
        text_file = path.parent.parent / "outcome.txt"
        child = os.fork()
        if child == 0:
            limit_this_process(SECONDS + 1)
            try:
                text, status = outcome(path), 0
            except BaseException:
                text, status = traceback.format_exc()[-2000:], 1
            text_file.write_text(text)
            os._exit(status)
        _, status, usage = os.wait4(child, 0)
        results[path.name] = {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1,
            "seconds": usage.ru_utime + usage.ru_stime,
            "megabytes": usage.ru_maxrss / 1024,
            "text": text_file.read_text() if text_file.exists() else "",
        }
        text_file.unlink(missing_ok=True)
    return results


def run_mutations(kind, good_file, count):
    """Outcomes of the first `count` mutations of a valid file; the file "current" holds the number being read."""
    import helpers_mutations

    good_file = pathlib.Path(good_file)
    good, path = good_file.read_bytes(), good_file.with_name(f"mutant{good_file.suffix}")
    assert outcome(good_file) == "read"  # also imports the reader
    current = os.open(good_file.with_name("current"), os.O_CREAT | os.O_RDWR)
    limit_this_process()
    found = {"read": 0, "refused": 0, "slowest": [0.0, None], "largest": [0.0, None], "wrong": []}
    memory = peak_kilobytes()
    for index in range(count):
        os.pwrite(current, b"%09d" % index, 0)
        path.write_bytes(helpers_mutations.mutant(kind, good, index))
        start = time.process_time()
        try:
            text = outcome(path)
        except Exception:
            text = traceback.format_exc()[-1500:]
        found["slowest"] = max(found["slowest"], [time.process_time() - start, index])
        now = peak_kilobytes()
        if now > memory:
            found["largest"] = max(found["largest"], [(now - memory) / 1024, index])
            memory = now
        part = text.partition(":")[0]
        if part in ("read", "refused"):
            found[part] += 1
        elif len(found["wrong"]) < 3:
            found["wrong"].append([index, text])
    return found | {"megabytes": memory / 1024}


def main():
    if sys.argv[1] == "files":
        print(json.dumps(run_files(sys.argv[2])))
    else:
        kind, good_file, count = sys.argv[2:]
        print(json.dumps(run_mutations(kind, good_file, int(count))))


if __name__ == "__main__":
    main()
