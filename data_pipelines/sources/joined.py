"""Several sources of one kind as one."""

import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.sources.base import FaceSource, Skip, SourceError
from data_pipelines.storage.manifest import Face


def split_folders(text: os.PathLike | str) -> list[str]:
    """The folders of an input: itself where it exists, else its parts between commas."""
    text = os.fspath(text)
    return [text] if os.path.exists(text) else text.split(",")


class JoinedFaces:
    """Sources one after the other, as a `sources.base.FaceSource`.

    Raises:
      SourceError: the sources differ in kind or margin.
    """

    def __init__(self, sources: Sequence[FaceSource]):
        self._sources = list(sources)
        self.kind, self.margin = sources[0].kind, sources[0].margin
        for source in sources:
            if (source.kind, source.margin) != (self.kind, self.margin):
                raise SourceError(
                    f"{source.description}: {source.kind} images with a margin of {source.margin}, but"
                    f" {sources[0].description}: {self.kind} with {self.margin}; prepare them apart"
                )
        self.description = " + ".join(source.description for source in sources)
        self.notes = [f"{source.description}: {note}" for source in sources for note in source.notes]
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def fingerprint(self) -> str:
        """Hash of the sources' fingerprints."""
        return hashlib.sha256("\n".join(source.fingerprint() for source in self._sources).encode()).hexdigest()[:16]

    def faces(self, start: int, stop: int) -> Iterator[Face | Skip]:
        """Listed faces start ... stop - 1 of the whole."""
        for source, end in zip(self._sources, self._ends.tolist()):
            first = end - len(source)
            yield from source.faces(max(start - first, 0), max(min(stop - first, len(source)), 0))
