"""INPUT... of the command line -> pictures, videos and cameras, each with a name its outputs can have."""

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

# Pictures that a folder may hold and OpenCV's wheels do not read; named, so that they are not missed.
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw")


class InputError(ValueError):
    """Nothing to work on; the message says what was looked for."""


@dataclasses.dataclass(frozen=True)
class Photo:
    """A picture file; `name` is that of its outputs, without suffix."""

    path: pathlib.Path
    name: str


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file; `name` as of a photo."""

    path: pathlib.Path
    name: str


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera by its number; `name` as of a photo."""

    index: int
    name: str


class Inputs(NamedTuple):
    """Attributes:
    items: what was found, in the order it was given; a folder's in alphabetical order, none twice.
    problems: a line for each input that led to nothing.
    """

    items: list[Photo | Video | Camera]
    problems: list[str]


def expand(inputs: Sequence[str]) -> Inputs:
    """Finds what the inputs mean.

    Args:
      inputs: pictures, videos, folders (their pictures, and those of the folders in them; no hidden ones),
        patterns with *, ?, [...] and ** (as in glob), `camera:0`. A file of an unknown kind counts as a picture.

    Raises:
      InputError: nothing was found at all.
    """
    found: list[pathlib.Path | int] = []
    problems = []
    for text in inputs:
        new, problem = _one(str(text))
        found += new
        problems += [problem] if problem else []
    seen: dict[object, pathlib.Path | int] = {}
    for what in found:
        seen.setdefault(what if isinstance(what, int) else os.path.realpath(what), what)
    if not seen:
        raise InputError("No input. " + (" ".join(problems) or "Give pictures, folders, a video or camera:0."))
    unique = list(seen.values())
    return Inputs([_item(what, name) for what, name in zip(unique, _names(unique))], problems)


def _one(text: str) -> tuple[list[pathlib.Path | int], str | None]:
    """What one input means, and what is wrong with it."""
    camera = re.fullmatch(r"camera:(\d+)", text)
    if camera:
        return [int(camera[1])], None
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        files, unread = _pictures(path)
        if unread:
            shown = ", ".join(file.name for file in unread[:10]) + (" ..." if len(unread) > 10 else "")
            return files, (
                f"{text}: {len(unread)} of kinds that are not read: {shown}. Save them as JPEG or PNG; a GIF"
                " is a film, give it by its own name."
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
    """A folder's pictures, and those of `UNREAD_SUFFIXES`."""
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


def _item(what: pathlib.Path | int, name: str) -> Photo | Video | Camera:
    if isinstance(what, int):
        return Camera(what, name)
    return (Video if what.suffix.lower() in VIDEO_SUFFIXES else Photo)(what, name)


def _names(found: Sequence[pathlib.Path | int]) -> list[str]:
    """A name for each, no two alike even where capitals make no difference.

    The file's own without its suffix; where several have that, with the suffix, then with the folder, and then
    with a number.
    """
    forms = [_forms(what) for what in found]
    names = [form[0] for form in forms]
    for level in range(1, max(map(len, forms))):
        alike = _repeated(names)
        names = [form[min(level, len(form) - 1)] if name.lower() in alike else name for form, name in zip(forms, names)]
    taken: set[str] = set()
    for i, name in enumerate(names):
        number = 2
        while names[i].lower() in taken:
            names[i], number = f"{name}_{number}", number + 1
        taken.add(names[i].lower())
    return names


def _repeated(names: Sequence[str]) -> set[str]:
    return {name for name, count in collections.Counter(name.lower() for name in names).items() if count > 1}


def _forms(what: pathlib.Path | int) -> tuple[str, ...]:
    """Names from short to long."""
    if isinstance(what, int):
        return (f"camera{what}",)
    stem = what.stem if what.stem.strip(".") else "unnamed"  # of `...jpg` it is `..`, another folder
    long = f"{stem}_{what.suffix[1:].lower()}" if what.suffix else stem
    folder = what.absolute().parent.name
    return stem, long, f"{folder}_{stem}", f"{folder}_{long}"
