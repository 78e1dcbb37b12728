"""Command-line INPUT... -> photos, videos and cameras, each with a unique name for its outputs.

The content of a file decides whether it is a photo or a video; its name decides where the content is unknown.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from twodal_jax.io.images import IMAGE_SUFFIXES, kind_of, open_regular, SkipFace
from twodal_jax.io.untrusted import is_of_mac

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".ogv", ".flv", ".gif"),
    *(".mts", ".m2ts"),
)
# Pictures that are not read; most raw files begin as TIFF or MP4 files do.
UNREAD_SUFFIXES = (".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd", ".tga")
_VIDEO_SIGNATURES = (
    b"GIF8",
    b"\x1aE\xdf\xa3",  # Matroska and WebM
    b"\0\0\1\xba",  # MPEG program stream
    b"\0\0\1\xb3",
    b"0&\xb2u\x8ef\xcf\x11",  # Windows Media
    b"FLV\1",
)
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_AUDIO_BRANDS = (b"M4A ", b"M4B ", b"M4P ")
_HEAD, _MPEG_PACKET = 512, 188
_SHOWN = 10


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
    """Inputs without duplicates, in the given order, a folder's in alphabetical order.

    Attributes:
      items: the inputs.
      problems: a message for each given input without one, and for pictures of types that are not read.
      notes: a message for each folder or pattern with files that are no pictures or videos.
    """

    items: list[Photo | Video | Camera]
    problems: list[str]
    notes: list[str]


def expand(inputs: Sequence[str]) -> Inputs:
    """Expands the command line's inputs.

    Args:
      inputs: pictures, videos, folders (their pictures and videos, with subfolders; without hidden files), patterns
        with *, ?, [...] and ** (as in glob), `camera:0`. A given file of an unknown type counts as a picture.

    Raises:
      InputError: no input was found.
    """
    found: list[pathlib.Path | int] = []
    problems: list[str] = []
    notes: list[str] = []
    for text in inputs:
        found += _one(str(text), problems, notes)
    unique: dict[object, pathlib.Path | int] = {}
    for source in found:
        unique.setdefault(source if isinstance(source, int) else os.path.realpath(source), source)
    if not unique:
        raise InputError("No input. " + (" ".join(problems) or "Give pictures, folders, a video or camera:0."))
    sources = list(unique.values())
    return Inputs([_item(source, name) for source, name in zip(sources, _names(sources))], problems, notes)


def _one(text: str, problems: list[str], notes: list[str]) -> list[pathlib.Path | int]:
    """The sources of one input; adds messages to `problems` and `notes`."""
    camera = re.fullmatch(r"camera:(\d+)", text)
    if camera:
        return [int(camera[1])]
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        files, of_mac = _files(path)
        if of_mac:
            notes.append(f"{text}: ignored {of_mac} file(s) that macOS adds to copies (._*, __MACOSX).")
        missing = f"{text}: no pictures or videos in this folder."
    elif path.exists():
        return [path]
    elif glob.has_magic(text):
        files = [pathlib.Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        files = [file for file in files if file.is_file()]
        missing = f"{text}: matches no picture or video."
    else:
        problems.append(f"{text}: no such file or folder.")
        return []
    kinds = [_kind(file) for file in files]
    unread, others = ([file for file, kind in zip(files, kinds) if kind is wanted] for wanted in (_Unread, None))
    if unread:
        problems.append(
            f"{text}: {len(unread)} file(s) of types that are not supported: {_listed(unread)}."
            " Save them as JPEG or PNG."
        )
    if others:
        notes.append(f"{text}: left out {len(others)} file(s), neither pictures nor videos: {_listed(others)}.")
    files = [file for file, kind in zip(files, kinds) if kind in (Photo, Video)]
    if not files and not unread:
        problems.append(missing)
    return files


def _files(folder: pathlib.Path) -> tuple[list[pathlib.Path], int]:
    """A folder's files that are not hidden, and the number of files that macOS added."""
    found, of_mac = [], 0
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        mac = [name for name in files if is_of_mac([*pathlib.Path(here).parts, name])]
        of_mac += len(mac)
        found += [pathlib.Path(here, name) for name in sorted(set(files) - set(mac)) if not name.startswith(".")]
    return found, of_mac


def _listed(files: Sequence[pathlib.Path]) -> str:
    return ", ".join(file.name for file in files[:_SHOWN]) + (" ..." if len(files) > _SHOWN else "")


class _Unread:
    """A picture of a type that is not read."""


def _kind(path: pathlib.Path) -> type | None:
    """Photo, Video, _Unread, or None for anything else."""
    suffix = path.suffix.lower()
    if suffix in UNREAD_SUFFIXES:
        return _Unread
    try:
        with open_regular(path, max_bytes=None) as file:
            head = file.read(_HEAD)
    except (SkipFace, OSError):
        head = b""
    if kind_of(head):
        return Photo
    if _is_video(head) or suffix in VIDEO_SUFFIXES:
        return Video
    return Photo if suffix in IMAGE_SUFFIXES else None


def _is_video(head: bytes) -> bool:
    if head[4:8] in _MP4_BOXES:
        return head[8:12] not in _AUDIO_BRANDS
    transport = any(head[at :: _MPEG_PACKET + at][:3] == b"GGG" for at in (0, 4))
    return head.startswith(_VIDEO_SIGNATURES) or head[:4] + head[8:12] == b"RIFFAVI " or transport


def _item(source: pathlib.Path | int, name: str) -> Photo | Video | Camera:
    if isinstance(source, int):
        return Camera(source, name)
    return (Video if _kind(source) is Video else Photo)(source, name)


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
