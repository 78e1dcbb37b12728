"""Untrusted file names from tables -> files below a root folder.

A table may contain names such as `../../etc/passwd`, and an archive may contain symbolic links that lead out of it.
Names are checked as text when a table is read (`joined`). Files are checked by their real location when they are
opened (`check_inside`).
"""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable

from twodal_jax.io.images import SkipFace
from twodal_jax.io.untrusted import is_of_mac

UNSAFE = "unsafe path"
MAC_FILE = "file of macOS"
Problem = tuple[str, str]  # reason and detail, as in SkipFace


def joined(root: pathlib.Path, name: str) -> pathlib.Path:
    """The path root / name; backslashes are separators, as on Windows.

    Raises SkipFace if the name is empty or absolute, has a drive, `..` or a NUL character, or is `is_of_mac`.
    """
    clean = name.replace("\\", "/")
    problems = {
        "is empty": not clean.strip("/. "),
        "has a NUL character": "\0" in clean,
        "is an absolute path": clean.startswith("/") or re.match(r"[A-Za-z]:", clean),
        "has `..` in it": ".." in clean.split("/"),
    }
    for problem, applies in problems.items():
        if applies:
            raise SkipFace(UNSAFE, f"{name!r} {problem}; names are relative to {root}")
    if is_of_mac(clean.split("/")):
        raise SkipFace(MAC_FILE, f"{name}: macOS added it to a copy or an archive")
    return root / clean


def check_inside(path: os.PathLike | str, root: pathlib.Path) -> None:
    """Raises SkipFace if the file, with all symbolic links resolved, is outside `root`, which may be a link itself."""
    real, real_root = os.path.realpath(path), _real_root(str(root))
    if real != real_root and not real.startswith(real_root.rstrip(os.sep) + os.sep):
        raise SkipFace(
            UNSAFE,
            f"{path}: a symbolic link leads out of {root}, to {real}; copy its target there, or give a folder that"
            " holds both",
        )


@functools.lru_cache(maxsize=64)
def _real_root(root: str) -> str:
    return os.path.realpath(root)


def listed(
    names: Iterable[str], path_of: Callable[[str], pathlib.Path]
) -> tuple[list[pathlib.Path | None], dict[int, Problem]]:
    """Paths `path_of(name)`, None where it raises SkipFace; and {row: problem} of these rows."""
    paths, problems = [], {}
    for row, name in enumerate(names):
        try:
            paths.append(path_of(name))
        except SkipFace as skip:
            paths.append(None)
            problems[row] = (skip.reason, skip.detail)
    return paths, problems
