"""Atomic writes of files that belong together."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Mapping


def write_together(files: Mapping[pathlib.Path, bytes]) -> None:
    """Writes all files in the given order and makes missing folders.

    All content is on the disk under temporary names before the first file is renamed, so that a full disk leaves the
    old files. The file that refers to the others should be last.

    Raises:
      OSError: names the file that could not be written.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    path = None
    try:
        for path, content in files.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder has this name")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].write_bytes(content)
        for path in files:
            os.replace(temporary[path], path)
    except OSError as error:
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from None
    finally:
        for left in temporary.values():
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
