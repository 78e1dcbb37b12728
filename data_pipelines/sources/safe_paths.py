"""Names that stand in tables -> files below a root, and nowhere else.

A table comes with data from anywhere, so a name in it may say `../../etc/passwd`, and an archive may hold
symbolic links that lead out of it. Names are checked by their text when a table is read (`joined`), and files by
where they really lie when they are opened (`check_inside`).
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable

from twodal_jax.io.images import SkipFace

UNSAFE = "unsafe path"
Problem = tuple[str, str]  # reason and detail, as SkipFace has them


def joined(root: pathlib.Path, name: str) -> pathlib.Path:
    """Root / name; backslashes of Windows are separators.

    Raises:
      SkipFace: the name is empty, absolute, has a drive, `..` or a NUL character.
    """
    clean = name.replace("\\", "/")
    parts = clean.split("/")
    wrong = (
        "is empty"
        if not clean.strip("/. ")
        else "has a NUL character"
        if "\0" in clean
        else "is an absolute path"
        if clean.startswith("/") or re.match(r"[A-Za-z]:", clean)
        else "has `..` in it"
        if ".." in parts
        else ""
    )
    if wrong:
        raise SkipFace(UNSAFE, f"{name!r} {wrong}; names are relative to {root}")
    return root / clean


def check_inside(path: os.PathLike | str, root: pathlib.Path) -> None:
    """Raises SkipFace if the file, with all symbolic links followed, lies outside `root` (which may be a link)."""
    real, real_root = os.path.realpath(path), _real_root(str(root))
    if real != real_root and not real.startswith(real_root.rstrip(os.sep) + os.sep):
        raise SkipFace(
            UNSAFE,
            f"{path}: a symbolic link leads out of {root}, to {real}; copy what it points to"
            " there, or give a folder that holds both",
        )


@functools.lru_cache(maxsize=64)
def _real_root(root: str) -> str:
    return os.path.realpath(root)


def listed(
    names: Iterable[str], path_of: Callable[[str], pathlib.Path]
) -> tuple[list[pathlib.Path | None], dict[int, Problem]]:
    """path_of(name) of each, None where it raises SkipFace; and {row: what was wrong}."""
    paths, problems = [], {}
    for row, name in enumerate(names):
        try:
            paths.append(path_of(name))
        except SkipFace as skip:
            paths.append(None)
            problems[row] = (skip.reason, skip.detail)
    return paths, problems
