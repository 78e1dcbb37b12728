"""Other readers of glTF, for tests: the Khronos validator and three.js (npm packages), and Blender (bpy of PyPI)."""

import functools
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

PACKAGES = {"gltf-validator": "2.0.0-dev.3.10", "three": "0.187.0"}
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


# Arguments: file, JSON of times and vertices. Prints what three.js and Blender found, in the same form.
_THREE = """
import { readFileSync } from 'fs';
import { pathToFileURL } from 'url';
const [modules, path, wanted] = process.argv.slice(1), { times, vertices } = JSON.parse(wanted);
const load = name => import(pathToFileURL(modules + '/three/' + name));
const THREE = await load('build/three.module.js');
const { GLTFLoader } = await load('examples/jsm/loaders/GLTFLoader.js');
globalThis.self = globalThis;
console.error = () => {};  // textures are not decoded in node
const bytes = Uint8Array.from(readFileSync(path));
const gltf = await new Promise((done, failed) => new GLTFLoader().parse(bytes.buffer, '', done, failed));
const mixer = new THREE.AnimationMixer(gltf.scene), meshes = [], found = {};
gltf.scene.traverse(o => { if (o.isMesh) meshes.push(o); });
for (const clip of gltf.animations) {
  const action = mixer.clipAction(clip).setLoop(THREE.LoopOnce);
  action.clampWhenFinished = true;
  action.play();
}
for (const mesh of meshes) {
  const names = Object.entries(mesh.morphTargetDictionary).sort((a, b) => a[1] - b[1]).map(entry => entry[0]);
  found[mesh.name] = { names, weights: [...mesh.morphTargetInfluences], points: [] };
}
for (const time of times) {
  mixer.setTime(time);
  gltf.scene.updateMatrixWorld(true);
  for (const mesh of meshes) found[mesh.name].points.push(vertices.map(
    n => mesh.localToWorld(mesh.getVertexPosition(n, new THREE.Vector3())).toArray()));
}
console.log(JSON.stringify(found));
"""
_BLENDER = """
import bpy, json, sys
path, wanted = sys.argv[1], json.loads(sys.argv[2])
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=path)
scene, found = bpy.context.scene, {}
meshes = [thing for thing in scene.objects if thing.type == "MESH"]
for mesh in meshes:
    keys = mesh.data.shape_keys.key_blocks[1:]
    found[mesh.name] = {"names": [key.name for key in keys], "weights": [key.value for key in keys], "points": []}
for time in wanted["times"]:
    frame = time * scene.render.fps / scene.render.fps_base
    scene.frame_set(int(frame), subframe=frame % 1)
    for mesh in meshes:
        shape = mesh.evaluated_get(bpy.context.evaluated_depsgraph_get())
        points = [shape.matrix_world @ shape.data.vertices[n].co for n in wanted["vertices"]]
        found[mesh.name]["points"].append([(x, z, -y) for x, y, z in points])
print("FOUND" + json.dumps(found))
"""


@functools.cache
def node_modules() -> pathlib.Path:
    """The folder with PACKAGES: GLTF_MODULES, or one that npm fills once on each machine; skips without npm."""
    if given := os.environ.get("GLTF_MODULES"):
        assert all((pathlib.Path(given) / name).is_dir() for name in PACKAGES), f"GLTF_MODULES={given}: not in it"
        return pathlib.Path(given)
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("the Khronos glTF validator and three.js need node and npm")
    packages = [f"{name}@{version}" for name, version in PACKAGES.items()]
    folder = pathlib.Path(tempfile.gettempdir()) / f"twodal_{'_'.join(packages)}_{os.getuid()}"
    if not folder.is_dir():
        # Several test processes may install at once, each in its own folder; the first to finish is used.
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", fresh, *packages]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=fresh)
            except subprocess.TimeoutExpired:
                pytest.skip("npm could not fetch the Khronos glTF validator and three.js in time")
            if done.returncode:
                pytest.skip(f"npm could not fetch the Khronos glTF validator and three.js: {done.stderr[-300:]}")
            try:
                os.rename(pathlib.Path(fresh) / "node_modules", folder)
            except OSError:
                assert folder.is_dir()
    return folder


def played_by_three(path, times, vertices) -> dict[str, dict]:
    """A file as three.js plays it: {mesh: {"names", "weights" at first, "points" [time][vertex], of the world}}."""
    modules = node_modules()
    wanted = json.dumps({"times": list(times), "vertices": list(vertices)})
    command = ["node", "--input-type=module", "-e", _THREE, str(modules), str(path), wanted]
    return json.loads(_output(command))


def played_by_blender(path, times, vertices) -> dict[str, dict]:
    """The same by Blender, y up; skips without bpy in this Python or in that of BPY_PYTHON."""
    python = os.environ.get("BPY_PYTHON") or (importlib.util.find_spec("bpy") and sys.executable)
    if not python:
        pytest.skip("Blender's check needs the package bpy here, or BPY_PYTHON=a Python that has it")
    wanted = json.dumps({"times": list(times), "vertices": list(vertices)})
    return json.loads(_output([python, "-c", _BLENDER, str(path), wanted]).split("FOUND")[1])


def _output(command) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


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
