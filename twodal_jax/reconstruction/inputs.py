"""Command-line INPUT... -> photos, videos and cameras, each with a unique name for its outputs."""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from twodal_jax.io.images import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".ogv", ".gif")

# Picture files that OpenCV's wheels do not read; reported when a folder holds any.
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw")


class InputError(ValueError):
    """No input was found; the message says what was expected."""


@dataclasses.dataclass(frozen=True)
class Photo:
    """A picture file; `name` is that of its outputs, without a suffix."""

    path: pathlib.Path
    name: str


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file; `name` as for a photo."""

    path: pathlib.Path
    name: str


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera by its number; `name` as for a photo."""

    index: int
    name: str


class Inputs(NamedTuple):
    """Inputs without duplicates, in the given order, a folder's in alphabetical order; a message for each problem."""

    items: list[Photo | Video | Camera]
    problems: list[str]


def expand(inputs: Sequence[str]) -> Inputs:
    """Expands the command line's inputs.

    Args:
      inputs: pictures, videos, folders (with subfolders; without hidden files), patterns with *, ?, [...] and ** (as in
        glob), `camera:0`. A file of an unknown type counts as a picture.

    Raises:
      InputError: no input was found.
    """
    found: list[pathlib.Path | int] = []
    problems = []
    for text in inputs:
        new, problem = _one(str(text))
        found += new
        problems += [problem] if problem else []
    unique: dict[object, pathlib.Path | int] = {}
    for source in found:
        unique.setdefault(source if isinstance(source, int) else os.path.realpath(source), source)
    if not unique:
        raise InputError("No input. " + (" ".join(problems) or "Give pictures, folders, a video or camera:0."))
    sources = list(unique.values())
    return Inputs([_item(source, name) for source, name in zip(sources, _names(sources))], problems)


def _one(text: str) -> tuple[list[pathlib.Path | int], str | None]:
    """The sources of one input, and a message about a problem or None."""
    camera = re.fullmatch(r"camera:(\d+)", text)
    if camera:
        return [int(camera[1])], None
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        files, unread = _pictures(path)
        if unread:
            shown = ", ".join(file.name for file in unread[:10]) + (" ..." if len(unread) > 10 else "")
            return files, (
                f"{text}: {len(unread)} file(s) of types that are not supported: {shown}. Save them as JPEG or PNG; a"
                " GIF is a video, give it by its own name."
            )
        return files, None if files else f"{text}: no pictures in this folder ({' '.join(IMAGE_SUFFIXES)})."
    if path.exists():
        return [path], None
    if glob.has_magic(text):
        matches = [pathlib.Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        files = [match for match in matches if match.is_file() and _known(match)]
        return files, None if files else f"{text}: matches no picture or video."
    return [], f"{text}: no such file or folder."


def _known(path: pathlib.Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _pictures(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """A folder's pictures, and its files of `UNREAD_SUFFIXES`."""
    read, unread = [], []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                continue
            for found, suffixes in ((read, IMAGE_SUFFIXES), (unread, UNREAD_SUFFIXES)):
                if name.lower().endswith(suffixes):
                    found.append(pathlib.Path(here, name))
    return read, unread


def _item(source: pathlib.Path | int, name: str) -> Photo | Video | Camera:
    if isinstance(source, int):
        return Camera(source, name)
    return (Video if source.suffix.lower() in VIDEO_SUFFIXES else Photo)(source, name)


def _names(found: Sequence[pathlib.Path | int]) -> list[str]:
    """A unique name for each source, also on file systems that ignore case.

    The file's name without its suffix; if several share it, with the suffix, then with the folder, then with a number.
    """
    forms = [_forms(source) for source in found]
    names = [form[0] for form in forms]
    for level in range(1, max(map(len, forms))):
        counts = collections.Counter(name.lower() for name in names)
        names = [
            form[min(level, len(form) - 1)] if counts[name.lower()] > 1 else name for form, name in zip(forms, names)
        ]
    taken: set[str] = set()
    for i, name in enumerate(names):
        number = 2
        while names[i].lower() in taken:
            names[i], number = f"{name}_{number}", number + 1
        taken.add(names[i].lower())
    return names


def _forms(source: pathlib.Path | int) -> tuple[str, ...]:
    """Possible names, from short to long."""
    if isinstance(source, int):
        return (f"camera{source}",)
    stem = source.stem if source.stem.strip(".") else "unnamed"  # the stem of `...jpg` is `..`, another folder
    long = f"{stem}_{source.suffix[1:].lower()}" if source.suffix else stem
    folder = source.absolute().parent.name
    return stem, long, f"{folder}_{stem}", f"{folder}_{long}"
