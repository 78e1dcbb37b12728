"""Files of MediaPipe's wheels, for tests: downloaded by pip once on each machine, never installed."""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import pytest

WITH_MODELS, NEWEST = "0.10.14", "1.2.3"


@functools.cache
def wheel(version) -> zipfile.ZipFile:
    """The wheel of a version, in a folder of this user; skips where pip cannot fetch it."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"twodal_mediapipe_{version}_{os.getuid()}"
    if not list(folder.glob("*.whl")):
        platform = ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", f"mediapipe=={version}", *platform]
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            older = "--platform=manylinux2014_x86_64"
            done = subprocess.run([*command, older, "--dest", fresh], capture_output=True, text=True, timeout=300)
            if done.returncode:
                pytest.skip(f"pip could not fetch mediapipe {version}: {done.stderr[-300:]}")
            folder.mkdir(exist_ok=True)
            for path in pathlib.Path(fresh).glob("*.whl"):
                os.replace(path, folder / path.name)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def read(name, version=WITH_MODELS) -> bytes:
    return wheel(version).read(f"mediapipe/{name}")
