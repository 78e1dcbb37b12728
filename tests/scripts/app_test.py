"""scripts.app: a picture becomes a viewer and files; the page works in a browser without reaching other machines."""

import importlib.util
import re
import time
import urllib.error
import urllib.request

import cv2
import helpers_chromium
import pytest
from helpers_pictures import group_photo
from helpers_run import Program, save_untrained_run, tiny_config

import twodal_jax
from scripts import app
from twodal_jax.checkpointing import trained_model
from twodal_jax.reconstruction.scene import Surface

WRITTEN = ["face_0.glb", "face_0.mtl", "face_0.obj", "face_0.png", "faces.json", "landmarks.csv"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(an untrained run's folder, a picture with a face, one without)."""
    folder = tmp_path_factory.mktemp("app")
    config = tiny_config(**{"morphable_model": "builtin", "regressor.zero_head": False})
    save_untrained_run(folder, trained_model.load_morphable_model("builtin"), config)
    picture, _ = group_photo(0, [200])
    cv2.imwrite(str(folder / "face.png"), picture)
    cv2.imwrite(str(folder / "wall.png"), picture[:20, :20])
    return folder, folder / "face.png", folder / "wall.png"


def test_a_picture_becomes_a_viewer_and_files_in_a_folder_of_its_own(files, tmp_path, monkeypatch):
    run, face, wall = files
    monkeypatch.setattr(app, "MIN_CONFIDENCE", 0.0)  # the network is untrained
    model = twodal_jax.load(run)
    surface = Surface(model.morphable_model)
    found = [app.reconstruct(str(face), model, surface, tmp_path) for _ in range(2)]
    assert len({viewer.parent for viewer, _ in found}) == 2
    for viewer, paths in found:
        assert "<html" in viewer.read_text() and [path.rsplit("/", 1)[1] for path in paths] == WRITTEN
    for picture, message in ((str(wall), "no face found"), (str(run / "config.json"), "."), (None, "Choose a picture")):
        with pytest.raises(ValueError, match=message):
            app.reconstruct(picture, model, surface, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(helpers_chromium.CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
def test_the_page_shows_the_face_and_reaches_no_other_machine(files, tmp_path):
    code = "from scripts import app; app.MIN_CONFIDENCE = 0.0; app.main()"
    command = ["-c", f"import helpers_model; {code}", f"--checkpoint={files[0]}", "--port=0"]
    with Program(*command) as program, helpers_chromium.Browser(tmp_path) as browser:
        program.wait_until(lambda: "Ctrl-C" in program.stdout_text())
        address = re.search(r"http://127\.0\.0\.1:\d+", program.stdout_text())[0]
        request = urllib.request.Request(address, headers={"Host": "elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)
        browser.call("Page.navigate", url=address)
        wait_for(browser, "document.querySelector('input[type=file]')")
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        chosen = browser.call("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        browser.call("DOM.setFileInputFiles", nodeId=chosen, files=[str(files[1])])
        wait_for(browser, "document.querySelector('img[src*=\"face.png\"]')")
        browser.run("document.getElementById('reconstruct').click()")
        wait_for(browser, "document.querySelector('iframe')?.contentWindow?.twodalViewer")
        assert browser.run("document.querySelector('iframe').contentWindow.twodalViewer.ready.then(() => true)")
        for name in WRITTEN:
            wait_for(browser, f"document.querySelector('a[href$=\"{name}\"]')")
        assert {request for request in browser.requests if not request.startswith((address, "blob:"))} == set()


def wait_for(browser, expression, seconds=300):
    """Waits until a JavaScript expression is true."""
    deadline = time.monotonic() + seconds
    while not browser.run(f"Boolean({expression})"):
        assert time.monotonic() < deadline, expression
        time.sleep(0.1)
