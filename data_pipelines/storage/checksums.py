"""SHA-256 of the files of a prepared folder: stored in its manifest, verified on demand."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

FILES, DIGEST = "files", "sha256"
_CHUNK = 1 << 20
_CHANGED = "its content changed (SHA-256 differs)"


def describe_files(folder: os.PathLike | str) -> dict[str, dict[str, Any]]:
    """{name: {"bytes": size, "sha256": hex}} of every file of a folder but hidden ones."""
    paths = sorted(path for path in pathlib.Path(folder).iterdir() if not path.name.startswith("."))
    return {path.name: {"bytes": path.stat().st_size, DIGEST: file_digest(path)} for path in paths}


def file_digest(path: os.PathLike | str, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, hex. `progress` is called with the bytes of each piece read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
            if progress:
                progress(len(piece))
    return digest.hexdigest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its own digest, hex."""
    rest = {key: value for key, value in manifest.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def wrong_sizes(folder: pathlib.Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """{file: problem} of files that are missing or whose size differs from the manifest; reads no content."""
    problems = {}
    for name, listed in manifest[FILES].items():
        path = folder / name
        if not path.is_file():
            problems[name] = "missing"
        elif path.stat().st_size != listed["bytes"]:
            problems[name] = f"{path.stat().st_size} bytes, the manifest lists {listed['bytes']}"
    return problems


def wrong_content(
    folder: pathlib.Path, manifest: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """{file: problem} of every file that differs from what was prepared, the manifest included."""
    problems = wrong_sizes(folder, manifest)
    for name, listed in manifest[FILES].items():
        if name not in problems and file_digest(folder / name, progress) != listed[DIGEST]:
            problems[name] = _CHANGED
    if manifest_digest(manifest) != manifest[DIGEST]:
        problems["manifest.json"] = _CHANGED
    return problems
