"""SHA-256 of the files of a prepared folder: written into its manifest, checked on demand."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

FILES, DIGEST = "files", "sha256"
_CHUNK = 1 << 20


def describe_files(folder: os.PathLike | str) -> dict[str, dict[str, Any]]:
    """Every file of a folder but hidden ones: {name: {"bytes": size, "sha256": hex}}."""
    paths = sorted(path for path in pathlib.Path(folder).iterdir() if not path.name.startswith("."))
    return {path.name: {"bytes": path.stat().st_size, DIGEST: file_digest(path)} for path in paths}


def file_digest(path: os.PathLike | str, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, hex; `progress` is called with the bytes of each piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
            if progress:
                progress(len(piece))
    return digest.hexdigest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of all the manifest says, itself left out."""
    rest = {key: value for key, value in manifest.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def wrong_sizes(folder: pathlib.Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """{file: what is wrong} of files that are missing or of another size than the manifest says; fast."""
    problems = {}
    for name, wanted in manifest.get(FILES, {}).items():
        path = folder / name
        if not path.is_file():
            problems[name] = "missing"
        elif path.stat().st_size != wanted["bytes"]:
            problems[name] = f"{path.stat().st_size} bytes, the manifest says {wanted['bytes']}"
    return problems


def wrong_content(
    folder: pathlib.Path, manifest: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """{file: what is wrong} of every file that is not what was prepared, the manifest itself included."""
    problems = wrong_sizes(folder, manifest)
    for name, wanted in manifest.get(FILES, {}).items():
        if name not in problems and file_digest(folder / name, progress) != wanted[DIGEST]:
            problems[name] = "its content changed (SHA-256 differs)"
    if DIGEST in manifest and manifest_digest(manifest) != manifest[DIGEST]:
        problems["manifest.json"] = "its content changed (SHA-256 differs)"
    return problems
