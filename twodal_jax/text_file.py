"""Small text files, written whole or not at all."""

import os
import pathlib


def write(path: os.PathLike | str, text: str) -> None:
    """Writes a UTF-8 text file atomically: a reader sees the old one or the new one. Of processes that write
    the same file, the last one wins. Raises OSError, and leaves nothing half-written behind."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
