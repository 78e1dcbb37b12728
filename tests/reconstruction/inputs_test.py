"""twodal_jax.reconstruction.inputs: every picture once, in a known order, under a name of its own."""

import pytest

from twodal_jax.reconstruction import inputs
from twodal_jax.reconstruction.inputs import Camera, Photo, Video


@pytest.fixture()
def here(tmp_path, monkeypatch):
    """A folder with a few files, which is the working directory."""
    for name in ("b.jpg", "a.PNG", "notes.txt", "clip.mp4", "sub/a.jpg", "sub/deep/c.webp", ".hidden/d.jpg", "._b.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(found):
    return [(type(item).__name__, str(getattr(item, "path", getattr(item, "index", ""))), item.name) for item in found]


def test_files_videos_and_cameras_keep_their_order(here):
    found = inputs.expand(["clip.mp4", "b.jpg", "camera:2", "notes.txt"])
    assert shown(found.items) == [
        ("Video", "clip.mp4", "clip"),
        ("Photo", "b.jpg", "b"),
        ("Camera", "2", "camera2"),
        ("Photo", "notes.txt", "notes"),
    ]
    assert found.problems == []


def test_a_folder_gives_its_pictures_and_those_below_without_hidden_ones(here):
    found = inputs.expand(["."]).items
    assert [str(item.path) for item in found] == ["a.PNG", "b.jpg", "sub/a.jpg", "sub/deep/c.webp"]


def test_patterns_are_expanded_in_order(here):
    assert [str(item.path) for item in inputs.expand(["*"]).items] == ["a.PNG", "b.jpg", "clip.mp4"]
    assert [str(item.path) for item in inputs.expand(["**/*.jpg"]).items] == ["b.jpg", "sub/a.jpg"]
    assert [str(item.path) for item in inputs.expand(["[ab].*"]).items] == ["a.PNG", "b.jpg"]


def test_a_file_with_brackets_in_its_name_is_a_file(here):
    (here / "x[1].jpg").write_bytes(b"x")
    assert [str(item.path) for item in inputs.expand(["x[1].jpg"]).items] == ["x[1].jpg"]


def test_nothing_comes_twice(here):
    (here / "link.jpg").symlink_to(here / "b.jpg")
    found = inputs.expand(["b.jpg", "*.jpg", str(here / "b.jpg"), "sub/../b.jpg", "link.jpg", "camera:0", "camera:0"])
    assert [item.name for item in found.items] == ["b", "camera0"]


def test_names_differ_even_where_capitals_make_no_difference(here):
    (here / "A.jpg").write_bytes(b"x")
    (here / "other").mkdir()
    (here / "other" / "a.jpg").write_bytes(b"x")
    (here / "other" / "camera0.jpg").write_bytes(b"x")
    names = [item.name for item in inputs.expand([".", "camera:0"]).items]
    assert len({name.lower() for name in names}) == len(names) == 8
    assert "b" in names and "c" in names and not any(set("/\\") & set(name) for name in names)
    assert names == [item.name for item in inputs.expand([".", "camera:0"]).items]


def test_the_same_place_in_two_trees_still_has_two_names(here):
    for tree in ("one", "two"):
        (here / tree / "faces").mkdir(parents=True)
        (here / tree / "faces" / "p.jpg").write_bytes(b"x")
    assert [item.name for item in inputs.expand(["one", "two"]).items] == ["faces_p_jpg", "faces_p_jpg_2"]


def test_a_name_that_looks_numbered_already_is_not_taken_twice(here):
    for name in ("t/p.jpg", "u/t/p.jpg", "t_p_jpg_2.png", "t_p_jpg.jpg"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(b"x")
    names = [item.name for item in inputs.expand(["t/p.jpg", "u/t/p.jpg", "t_p_jpg_2.png", "t_p_jpg.jpg"]).items]
    assert len(set(names)) == 4


def test_what_leads_nowhere_is_reported_and_the_rest_done(here):
    found = inputs.expand(["none.jpg", "b.jpg", "empty", "*.gif"])
    assert found.items == [Photo(path=found.items[0].path, name="b")]
    assert [problem.split(":")[0] for problem in found.problems] == ["none.jpg", "empty", "*.gif"]
    assert "no such file" in found.problems[0] and ".jpg" in found.problems[1]


@pytest.mark.parametrize("given", [["none.jpg"], ["empty"], ["*.gif", "none"], []])
def test_nothing_at_all_is_an_error_that_names_it(here, given):
    with pytest.raises(inputs.InputError) as error:
        inputs.expand(given)
    assert all(text in str(error.value) for text in given or ["Give pictures"])


def test_kinds_are_told_by_suffix_in_any_case(here):
    (here / "loud.MOV").write_bytes(b"x")
    assert isinstance(inputs.expand(["loud.MOV"]).items[0], Video)
    assert inputs.expand(["camera:11"]).items == [Camera(11, "camera11")]


def test_pictures_of_a_folder_that_are_not_read_are_named(here):
    for name in ("photo.HEIC", "sub/old.gif"):
        (here / name).write_bytes(b"x")
    found = inputs.expand(["."])
    assert len(found.items) == 4
    (problem,) = found.problems
    assert problem.startswith(".: 2 of kinds that are not read: photo.HEIC, old.gif. Save them as JPEG")


@pytest.mark.parametrize("name", ["...jpg", "..jpg", "....png"])
def test_a_name_of_dots_leads_to_no_other_folder(here, name):
    (here / name).write_bytes(b"x")
    (item,) = inputs.expand([name]).items
    assert item.name == "unnamed"


def test_many_pictures_of_one_name_are_named_in_no_time(tmp_path):
    paths = [tmp_path / str(number) / "a.jpg" for number in range(20_000)]
    assert len(set(inputs._names(paths))) == len(paths)
