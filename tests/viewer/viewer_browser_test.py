"""The viewer in a headless Chromium: it draws and reacts, without console messages and network requests."""

import cv2
import helpers_chromium
import numpy as np
import pytest
from helpers_viewer import BLUE, GREEN, grey_photo, head, HOSTILE, image_vertices, RED, textured

from twodal_jax.viewer import page

pytestmark = pytest.mark.skipif(helpers_chromium.CHROMIUM is None, reason="chromium is not installed")
SECOND_POSE = np.array([[0.3, 0, 0, 70], [0, -0.3, 0, 120], [0, 0, 0.3, 0]])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with helpers_chromium.Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """name -> path; "two" has a coloured and a textured face."""
    folder = tmp_path_factory.mktemp("pages")
    second = textured(name="Two", pose_image=SECOND_POSE, roi_box=np.array([40.0, 90, 100, 150]))
    hostile = head(name=HOSTILE, expression_names=[HOSTILE] * 10, facts={HOSTILE: HOSTILE})
    contents = {"two": [head(), second], "clay": [head(colours=None)], "none": [], "hostile": [hostile] * 2}
    titles = {"hostile": HOSTILE}
    return {
        name: page.write_viewer(folder / f"{name}.html", faces, grey_photo(), titles.get(name, name))
        for name, faces in contents.items()
    }


def show(browser, path, width=1200, height=900, **options):
    """Opens a page and waits until its face is drawn."""
    browser.resize(width, height, **options)
    browser.open(path)
    browser.run("twodalViewer.ready")
    browser.settle()


@pytest.fixture
def two(browser, pages):
    """The page of two faces, without messages and requests after the test."""
    show(browser, pages["two"])
    yield browser
    assert browser.problems == [] and browser.requests == [pages["two"].as_uri()]


def positions(browser):
    values = browser.run("twodalViewer.positions().then(p => [...p])")
    return np.array(values).reshape(-1, 3)


def shown_normals(browser):
    return np.array(browser.run("twodalViewer.normals().then(n => [...n])")).reshape(-1, 3)


def slide(browser, number, value):
    """Sets a slider and sends its event."""
    browser.run(
        f"(s => {{ s.value = {value}; s.dispatchEvent(new Event('input', {{bubbles: true}})); return 1; }})"
        f"(document.getElementById('expression-{number}'))"
    )
    browser.settle()


def click(browser, selector):
    browser.click(selector)
    browser.settle()


def changed(first, second):
    """Share of the pixels that differ visibly."""
    return (np.abs(first.astype(int) - second).max(axis=-1) > 24).mean()


def near(picture, colour, tolerance=30):
    return np.abs(picture.astype(int) - colour).max(axis=-1) < tolerance


def centre(mask):
    """[x, y] mean of the pixels of a mask, which must cover 1 %."""
    assert mask.mean() > 0.01
    return np.argwhere(mask).mean(axis=0)[::-1]


def assert_upright_and_not_mirrored(picture):
    red, green, blue = (centre(near(picture, colour)) for colour in (RED, GREEN, BLUE))
    assert red[0] < blue[0] < green[0]
    assert blue[1] < min(red[1], green[1]) - 0.1 * len(picture)


def test_vertex_colours_and_texture_are_drawn_upright_unmirrored_and_with_exact_colours(two):
    coloured = two.picture("#stage")
    click(two, "label:has(#face-1)")
    with_texture = two.picture("#stage")
    for picture in (coloured, with_texture):
        assert_upright_and_not_mirrored(picture)
        face = near(picture, RED, 8) | near(picture, GREEN, 8) | near(picture, BLUE, 8)
        assert 0.1 < face.mean() < 0.6


def test_the_shaded_face_is_lit_from_above_and_every_mode_differs(two):
    pictures = {}
    for mode in ("texture", "shaded", "wireframe"):
        click(two, f"label:has(#mode-{mode})")
        pictures[mode] = two.picture("#stage")
    assert changed(pictures["texture"], pictures["shaded"]) > 0.05
    assert changed(pictures["shaded"], pictures["wireframe"]) > 0.05
    ground = pictures["shaded"][3, 3].astype(int)
    face = np.abs(pictures["shaded"] - ground).max(axis=-1) > 12
    light = pictures["shaded"].mean(axis=-1)[face]
    assert len(np.unique(light.round())) > 40 and light.std() > 10  # a gradient, not a silhouette
    height = np.argwhere(face)[:, 0]
    upper, lower = height < np.quantile(height, 0.3), height > np.quantile(height, 0.7)
    assert light[upper].mean() > light[lower].mean() + 5


def test_a_slider_moves_the_vertices_as_the_face_model_and_reset_restores_them(two):
    face, before, picture = head(), positions(two), two.picture("#stage")
    np.testing.assert_allclose(before, face.vertices_model, atol=2e-3)
    normals = shown_normals(two)
    slide(two, 0, 2.5)
    slide(two, 4, -3)
    first, second = face.expression_directions[[0, 4]]
    wanted = face.vertices_model + 2.5 * first.T - 3 * second.T
    np.testing.assert_allclose(positions(two), wanted, atol=5e-3)
    np.testing.assert_allclose(shown_normals(two), normals_of(wanted, face.triangles), atol=2e-3)
    assert changed(picture, two.picture("#stage")) > 0.01
    assert two.run("document.querySelector('#sliders output').textContent") == "+2.5 σ"
    click(two, "#reset-expression")
    assert (positions(two) == before).all() and changed(picture, two.picture("#stage")) == 0
    assert (shown_normals(two) == normals).all()


def normals_of(vertices, triangles):
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], np.cross(b - a, c - a))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def test_mouse_and_keys_rotate_the_face_and_reset_view_restores_it(two):
    front = two.picture("#stage")
    x, y, width, height = two.box("#stage")
    two.mouse("mousePressed", x + width / 2, y + height / 2)
    two.mouse("mouseMoved", x + width / 2 + 60, y + height / 2)
    two.mouse("mouseReleased", x + width / 2 + 60, y + height / 2)
    two.settle()
    dragged = two.picture("#stage")
    assert changed(front, dragged) > 0.02
    # The surface follows the mouse: red, on the left, moves to the front.
    assert near(dragged, RED).sum() > 1.2 * near(dragged, GREEN).sum()
    click(two, "#reset-view")
    assert changed(front, two.picture("#stage")) == 0
    two.run("document.getElementById('stage').focus()")
    for key, share in (("ArrowRight", 0.01), ("0", 0), ("+", 0.01), ("0", 0)):
        two.press(key)
        two.settle()
        # The focus ring is drawn in the canvas' margin.
        difference = changed(front[8:-8, 8:-8], two.picture("#stage")[8:-8, 8:-8])
        assert difference > share if share else difference == 0, key


def test_landmarks_on_the_photo_follow_the_pose(two):
    face = head()
    found = two.run(
        "[...document.querySelectorAll('#marks .points.chosen circle')]"
        ".map(c => [+c.getAttribute('cx'), +c.getAttribute('cy')])"
    )
    wanted = image_vertices(face)[face.landmark_indices, :2]
    np.testing.assert_allclose(found, wanted, atol=0.01)
    # On the screen: the first circle's place within the photo is its share of the photo's width.
    x, y, width, height = two.box("#frame")
    circle = two.box("#marks .points.chosen circle")
    on_screen = np.array([circle[0] + circle[2] / 2 - x, circle[1] + circle[3] / 2 - y]) / [width, height]
    np.testing.assert_allclose(on_screen, (wanted[0] + 0.5) / [320, 240], atol=2e-3)
    with_marks = two.picture("#frame")
    click(two, "#photo-landmarks")
    assert changed(with_marks, two.picture("#frame")) > 0.002
    click(two, "#photo-box")
    assert two.run("document.querySelectorAll('#marks > *').length") == 0


@pytest.mark.parametrize("zoom", [False, True])
def test_the_mesh_on_the_photo_follows_the_pose(two, zoom):
    for switch in ("landmarks", "box", "mesh", *(["zoom"] if zoom else [])):
        click(two, f"#photo-{switch}")
    picture = two.picture("#frame")
    face = head()
    left, top, side = -0.5, -0.5, 320
    if zoom:
        side = 100 * 1.15
        left, top = 200 - side / 2, 110 - side / 2
    points = (image_vertices(face)[:, :2] - [left, top]) * picture.shape[1] / side
    wanted = np.zeros(picture.shape[:2], np.uint8)
    for triangle in face.triangles:
        cv2.fillConvexPoly(wanted, np.round(points[triangle]).astype(np.int32), 1)
    drawn = ~near(picture, (128, 128, 128))
    assert (drawn & (wanted > 0)).sum() / (drawn | (wanted > 0)).sum() > 0.95
    assert_upright_and_not_mirrored(picture)


def tilt(picture):
    """Degrees clockwise from upright to the line between the centres of the lower face and the forehead."""
    below = near(picture, RED) | near(picture, GREEN)
    x, y = centre(near(picture, BLUE)) - centre(below)
    return np.degrees(np.arctan2(x, -y))


def red_share(picture):
    red, green = near(picture, RED).sum(), near(picture, GREEN).sum()
    return red / (red + green)


def test_as_in_photo_rotates_the_face_as_in_the_photo(two):
    assert abs(tilt(two.picture("#stage"))) < 1
    click(two, "#photo-view")
    for switch in ("landmarks", "box", "mesh"):
        click(two, f"#photo-{switch}")
    on_stage, on_photo = two.picture("#stage"), two.picture("#frame")
    assert tilt(on_photo) > 5 and red_share(on_photo) > 0.6
    assert abs(tilt(on_stage) - tilt(on_photo)) < 4
    assert abs(red_share(on_stage) - red_share(on_photo)) < 0.06


def test_landmarks_on_the_mesh_can_be_shown(two):
    without = two.picture("#stage")
    click(two, "#dots")
    assert 0.001 < changed(without, two.picture("#stage")) < 0.1


def test_another_face_is_selected_by_name_or_box_and_keeps_its_own_expression(two):
    slide(two, 0, 3)
    moved = positions(two)
    click(two, "label:has(#face-1)")
    assert two.run("twodalViewer.face()") == 1
    np.testing.assert_allclose(positions(two), head().vertices_model, atol=2e-3)
    click(two, "#marks .box")
    assert two.run("twodalViewer.face()") == 0 and (positions(two) == moved).all()
    assert two.run("document.getElementById('expression-0').value") == "3"


def test_hostile_names_are_shown_and_do_not_run(browser, pages):
    show(browser, pages["hostile"])
    assert browser.run("window.hacked === undefined") and browser.problems == []
    assert browser.run("document.title + document.querySelector('h1').textContent") == HOSTILE * 2
    assert browser.run("document.querySelector('#faces span').textContent") == HOSTILE
    assert browser.run("document.querySelector('#sliders label').textContent") == HOSTILE
    assert browser.run("document.querySelector('dt').textContent") == HOSTILE


def test_scripts_cannot_reach_a_network(browser, pages):
    show(browser, pages["clay"])
    assert browser.requests == [pages["clay"].as_uri()]
    assert browser.run("fetch('http://127.0.0.1:9/').then(() => 'loaded', () => 'refused')") == "refused"
    assert browser.run(
        "new Promise(r => { const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        "document.body.append(s); r(window.hacked === undefined); })"
    )
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_a_face_without_texture_is_shown_in_clay(browser, pages):
    show(browser, pages["clay"])
    assert browser.run("document.getElementById('mode-texture').disabled")
    assert browser.run("document.getElementById('mode-shaded').checked")
    assert browser.run("document.getElementById('picker').hidden")
    assert browser.picture("#stage").std() > 10 and browser.problems == []


def test_a_photo_without_a_face_is_reported(browser, pages):
    show(browser, pages["none"])
    assert "No face" in browser.run("document.getElementById('status').textContent")
    assert near(browser.picture("#frame")[2:-2, 2:-2], (128, 128, 128)).all() and browser.problems == []


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_all_controls_and_touch_rotates_the_face(browser, pages, width):
    show(browser, pages["two"], width, 844, mobile=True)
    assert browser.run("document.documentElement.scrollWidth") == width
    outside = browser.run(
        "[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('#frame')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    browser.run("document.getElementById('mesh-panel').scrollIntoView()")
    browser.settle()
    x, y, w, h = browser.box("#stage")
    assert (w, x) == (width - 32, 16)
    before = browser.picture("#stage")
    for kind, shift in (("touchStart", 0), ("touchMove", 30), ("touchMove", 60)):
        points = [{"x": x + w / 2 + shift, "y": y + h / 2}]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.settle()
    assert changed(before, browser.picture("#stage")) > 0.02
    buttons = [browser.box(s) for s in ("#photo-view", "#reset-view", "label:has(#dots)")]
    for i, (x1, y1, w1, h1) in enumerate(buttons):
        for x2, y2, w2, h2 in buttons[:i]:
            assert x1 >= x2 + w2 or x2 >= x1 + w1 or y1 >= y2 + h2 or y2 >= y1 + h1, "controls overlap"
    assert browser.problems == []


def test_dark_and_light_follow_the_users_setting(browser, pages):
    paper = {}
    for scheme in ("light", "dark"):
        browser.colour_scheme(scheme)
        show(browser, pages["two"])
        paper[scheme] = browser.picture()[2, 2].mean(), browser.picture("#stage")[3, 3].mean()
    browser.colour_scheme("light")
    assert min(paper["light"]) > 200 and max(paper["dark"]) < 60


def test_without_webgl_the_photo_and_its_landmarks_are_shown(browser, pages):
    script = browser.call(
        "Page.addScriptToEvaluateOnNewDocument", source="HTMLCanvasElement.prototype.getContext = () => null;"
    )
    try:
        show(browser, pages["two"])
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert not browser.run("document.getElementById('no-webgl').hidden")
    assert browser.run("document.querySelectorAll('#marks circle').length") == 136
    click(browser, "#photo-mesh")
    click(browser, "#reset-view")
    slide(browser, 0, 1)
    assert not [problem for problem in browser.problems if "WebGL" not in problem]
