"""The Khronos glTF validator (an npm package), for tests."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

VERSION = "2.0.0-dev.3.10"
_SCRIPT = """
const validator = require('gltf-validator'), fs = require('fs');
(async () => {
  const found = {};
  for (const path of process.argv.slice(1)) {
    const report = await validator.validateBytes(new Uint8Array(fs.readFileSync(path)));
    found[path] = report.issues;
  }
  console.log(JSON.stringify(found));
})().catch(error => { console.error(error); process.exit(1); });
"""


def node_modules() -> pathlib.Path:
    """The folder with gltf-validator: GLTF_VALIDATOR, or one that npm fills once on each machine; skips without npm."""
    if given := os.environ.get("GLTF_VALIDATOR"):
        assert (pathlib.Path(given) / "gltf-validator").is_dir(), f"GLTF_VALIDATOR={given}: not in it"
        return pathlib.Path(given)
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("the Khronos glTF validator needs node and npm")
    folder = pathlib.Path(tempfile.gettempdir()) / f"twodal_gltf_validator_{VERSION}_{os.getuid()}"
    if not folder.is_dir():
        # Several test processes may install at once, each in its own folder; the first to finish is used.
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", fresh]
            command += [f"gltf-validator@{VERSION}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=fresh)
            except subprocess.TimeoutExpired:
                pytest.skip("npm could not fetch the Khronos glTF validator in time")
            if done.returncode:
                pytest.skip(f"npm could not fetch the Khronos glTF validator: {done.stderr[-300:]}")
            try:
                os.rename(pathlib.Path(fresh) / "node_modules", folder)
            except OSError:
                assert folder.is_dir()
    return folder


def issues(modules: pathlib.Path, paths) -> dict[str, dict]:
    """{path: the validator's `issues`, with numErrors, numWarnings and messages}."""
    # Node searches a folder called node_modules, and the one in NODE_PATH.
    done = subprocess.run(
        ["node", "-e", _SCRIPT, *map(str, paths)],
        env=os.environ | {"NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
