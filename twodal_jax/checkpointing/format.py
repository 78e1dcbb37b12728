"""One checkpoint on disk: a folder with a hash of every array and every file in it.

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

MANIFEST, STATE = "manifest.jsonl", "state"
LAST_FILE = "manifest.ocdbt"  # in STATE: the file that Orbax and TensorStore write last
# Orbax interprets these characters in a path: as a glob pattern, or (`gs:`) as the address of a cloud bucket.
_SPECIAL = set("[\\:")
HASH, CHUNK = "blake2b", 1 << 22


class DamagedError(Exception):
    """A checkpoint differs from what was written; the message names the file or array."""


def shapes_of(tree: Any) -> dict[str, str]:
    """{"regressor/params/conv/kernel": "float32[3, 4]"} of a pytree of arrays or shapes."""
    return {name: f"{np.dtype(x.dtype)}{list(x.shape)}" for name, x in _by_name(tree).items()}


def array_table(state: Any) -> dict[str, dict[str, Any]]:
    """{name: {"dtype", "shape", "blake2b"}}, the manifest's entries for the NumPy arrays of a state.

    The hash covers dtype, shape and bytes.
    """
    table = {}
    for name, array in _by_name(state).items():
        digest = hashlib.blake2b(f"{array.dtype}{list(array.shape)}".encode(), digest_size=32)
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        table[name] = {"dtype": str(array.dtype), "shape": list(array.shape), HASH: digest.hexdigest()}
    return table


def _by_name(tree: Any) -> dict[str, Any]:
    """{"regressor/params/conv/kernel": array} of a pytree, in the order of its leaves."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


# Orbax is imported on use: a network of the package is read without it, and starts half a second earlier.


def _checkpointer():
    """Orbax for this process alone, without the other processes of a group."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


@contextlib.contextmanager
def _path_for_orbax(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder, or a temporary symbolic link to it where its path has characters that Orbax interprets."""
    if not _SPECIAL & set(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as place:
        link = pathlib.Path(place) / "folder"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


@functools.cache
def _silence_secondary_errors() -> None:
    """Suppresses, from now on, what is printed for single arrays that could not be written.

    Orbax, asyncio and TensorStore's threads print a traceback for each, some after the save has failed. The save
    itself raises one error.
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
    """Writes a checkpoint; returns when all of it is on the disk.

    Args:
      folder: must not exist.
      state: a pytree of NumPy arrays.
      description: of JSON values.

    Raises:
      OSError, or any class of Orbax and TensorStore: it could not be written.
    """
    import orbax.checkpoint as ocp

    folder.mkdir()
    _silence_secondary_errors()
    with _path_for_orbax(folder) as path, _checkpointer() as checkpointer:
        checkpointer.save(path / STATE, args=ocp.args.StandardSave(state))
    if not (folder / STATE / LAST_FILE).is_file():  # Orbax only warns where it cannot combine its parts
        raise OSError(f"Orbax did not finish {STATE}/: it has no {LAST_FILE}")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _file_entry(path) for path in paths}
    content = {"description": dict(description), "arrays": array_table(state), "files": files}
    body = json.dumps(content) + "\n"
    (folder / MANIFEST).write_text(_hash_line(body) + body, encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: pathlib.Path) -> None:
    """Returns when a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash_line(body: str) -> str:
    """First line of a manifest whose second line is `body`."""
    return json.dumps(f"{HASH}:{hashlib.blake2b(body.encode(), digest_size=32).hexdigest()}") + "\n"


def _file_entry(path: pathlib.Path) -> dict[str, Any]:
    digest, size = hashlib.blake2b(digest_size=32), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, HASH: digest.hexdigest()}


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Converts an OSError to a DamagedError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DamagedError(f"{name} is missing") from None
    except OSError as error:
        raise DamagedError(f"{name} cannot be read: {error.strerror}") from None


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and verifies the manifest.

    Raises:
      DamagedError: it is missing or differs from what was written.
    """
    with _reading(MANIFEST):
        raw = (folder / MANIFEST).read_bytes()
    hash_line, _, body = raw.partition(b"\n")
    # Bytes are compared, because JSON can express the same values in several ways.
    if hash_line + b"\n" != _hash_line(body.decode("utf-8", "replace")).encode():
        raise DamagedError(f"{MANIFEST} is not as it was written")
    return json.loads(body)


def check_files(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Raises DamagedError where a file of a checkpoint is missing or differs from what was written."""
    for path, written in manifest["files"].items():
        with _reading(path):
            found = _file_entry(folder / path)
        if found["bytes"] != written["bytes"]:
            raise DamagedError(f"{path} has {found['bytes']} bytes instead of {written['bytes']}")
        if found != written:
            raise DamagedError(f"{path} is not as it was written")


def read(folder: pathlib.Path, manifest: Mapping[str, Any], like: Any) -> Any:
    """Reads and verifies the state; returns NumPy arrays.

    Args:
      folder: the checkpoint's.
      manifest: from `read_manifest`.
      like: a state of the same structure and shapes.

    Raises:
      DamagedError: a file or array is missing or differs from what was written.
    """
    import orbax.checkpoint as ocp

    check_files(folder, manifest)
    empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
    try:
        with _path_for_orbax(folder) as path, _checkpointer() as checkpointer:
            state = checkpointer.restore(path / STATE, args=ocp.args.StandardRestore(empty))
    except MemoryError:
        raise
    except Exception as error:  # Orbax and TensorStore document no class of errors
        raise DamagedError(f"{STATE}/ cannot be read: {first_line(error)}") from error
    for name, found in array_table(state).items():
        if found != manifest["arrays"].get(name):
            raise DamagedError(f"the array {name} is not as it was written")
    return state


def first_line(error: BaseException) -> str:
    """First line of an error's text, at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
