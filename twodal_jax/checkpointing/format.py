"""One checkpoint on disk: a folder, written atomically, with a hash of every array and every file in it.

`state/` is written by Orbax, which does not detect corrupted data. `manifest.jsonl` has two lines: the hash of the
second line, and {"description", "arrays": {name: {"dtype", "shape", "blake2b"}}, "files": {path: {"bytes",
"blake2b"}}}. File hashes are verified before Orbax reads the files, array hashes after.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

MANIFEST, STATE = "manifest.jsonl", "state"
WHOLE = "manifest.ocdbt"  # in STATE: the file that Orbax and TensorStore write last
# Orbax interprets these in a path: as a glob pattern, or (`gs:`) as an address of a cloud bucket.
_AWKWARD = set("[\\:")
HASH, CHUNK = "blake2b", 1 << 22


class DamagedError(Exception):
    """A checkpoint differs from what was written; the message names the file or array."""


def arrays_of(tree: Any) -> dict[str, Any]:
    """{"regressor/params/conv/kernel": array} of a pytree, in the order of its leaves."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def shapes_of(tree: Any) -> dict[str, str]:
    """{name: "float32[3, 4]"} of a pytree of arrays or shapes."""
    return {name: f"{np.dtype(x.dtype)}{list(x.shape)}" for name, x in arrays_of(tree).items()}


def array_hash(array: np.ndarray) -> str:
    """BLAKE2b of dtype, shape and bytes."""
    found = hashlib.blake2b(f"{array.dtype}{list(array.shape)}".encode(), digest_size=32)
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found.hexdigest()


def array_table(state: Any) -> dict[str, dict[str, Any]]:
    """{name: {"dtype", "shape", hash}}, the manifest's entries for the arrays of a host state."""
    return {
        name: {"dtype": str(array.dtype), "shape": list(array.shape), HASH: array_hash(array)}
        for name, array in arrays_of(state).items()
    }


def _checkpointer() -> ocp.Checkpointer:
    """Orbax for this process alone; the others of a group take no part."""
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


@contextlib.contextmanager
def _plainly_named(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder, by a name that Orbax takes as it is: for a while there is a symbolic link if its own is none."""
    if not _AWKWARD & set(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as place:
        link = pathlib.Path(place) / "folder"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


@functools.cache
def _one_error_is_enough() -> None:
    """From now on nothing is printed of arrays that could not be written, but for the error that is raised.

    Orbax, asyncio and TensorStore's threads print a traceback for each of them, some after the save has failed.
    """
    for logger, noise in (("absl", "_SignalingThread"), ("asyncio", "Task exception was never retrieved")):
        logging.getLogger(logger).addFilter(lambda record, noise=noise: noise not in record.getMessage())
    hook = sys.unraisablehook

    def print_others(found: Any) -> None:
        closed = isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"
        if not closed:
            hook(found)

    sys.unraisablehook = print_others


def write(folder: pathlib.Path, state: Any, description: Mapping[str, Any]) -> None:
    """Writes a checkpoint into `folder`, which must not exist; returns when all of it is on the disk.

    Args:
      state: a pytree of NumPy arrays. description: must survive JSON.
    """
    folder.mkdir()
    _one_error_is_enough()
    with _plainly_named(folder) as named, _checkpointer() as checkpointer:
        checkpointer.save(named / STATE, args=ocp.args.StandardSave(state))
    if not (folder / STATE / WHOLE).is_file():  # Orbax only warns where it cannot put its parts together
        raise OSError(f"Orbax did not finish {STATE}/: it has no {WHOLE}")
    files = {path: _file_entry(folder / path) for path in _paths(folder)}
    content = {"description": dict(description), "arrays": array_table(state), "files": files}
    body = json.dumps(content) + "\n"
    (folder / MANIFEST).write_text(_seal(body) + body, encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: pathlib.Path) -> None:
    """Returns when a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(body: str) -> str:
    return json.dumps(f"{HASH}:{hashlib.blake2b(body.encode(), digest_size=32).hexdigest()}") + "\n"


def _paths(folder: pathlib.Path) -> Iterator[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return iter(sorted(path.relative_to(folder).as_posix() for path in found))


def _file_entry(path: pathlib.Path) -> dict[str, Any]:
    found, size = hashlib.blake2b(digest_size=32), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
            size += len(chunk)
    return {"bytes": size, HASH: found.hexdigest()}


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the manifest.

    Raises:
      DamagedError: it is missing or not as it was written.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"{MANIFEST} is missing") from None
    except OSError as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error.strerror}") from None
    seal, _, body = raw.partition(b"\n")
    # Bytes, not values: JSON has several ways to write the same.
    if seal + b"\n" != _seal(body.decode("utf-8", "replace")).encode():
        raise DamagedError(f"{MANIFEST} is not as it was written")
    return json.loads(body)


def check_files(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Raises DamagedError unless every file of a checkpoint is as it was written."""
    for path, written in manifest["files"].items():
        try:
            found = _file_entry(folder / path)
        except FileNotFoundError:
            raise DamagedError(f"{path} is missing") from None
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error.strerror}") from None
        if found["bytes"] != written["bytes"]:
            raise DamagedError(f"{path} has {found['bytes']} bytes instead of {written['bytes']}")
        if found != written:
            raise DamagedError(f"{path} is not as it was written")


def read(folder: pathlib.Path, manifest: Mapping[str, Any], like: Any) -> Any:
    """Reads and verifies the state; returns NumPy arrays.

    Args:
      like: a state of the same structure and shapes.

    Raises:
      DamagedError: a file or array is missing or differs from what was written.
    """
    check_files(folder, manifest)
    empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    try:
        with _plainly_named(folder) as named, _checkpointer() as checkpointer:
            state = checkpointer.restore(named / STATE, args=ocp.args.StandardRestore(empty))
    except MemoryError:
        raise
    except Exception as error:  # Orbax and TensorStore promise no class
        raise DamagedError(f"{STATE}/ cannot be read: {first_line(error)}") from error
    for name, found in array_table(state).items():
        if found != manifest["arrays"].get(name):
            raise DamagedError(f"the array {name} is not as it was written")
    return state


def first_line(error: BaseException) -> str:
    """First line of an error's text, at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
