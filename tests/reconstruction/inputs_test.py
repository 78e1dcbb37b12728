"""twodal_jax.reconstruction.inputs: each input once, in a defined order, with a unique name."""

import pathlib

import pytest

from twodal_jax.reconstruction import inputs
from twodal_jax.reconstruction.inputs import Camera, Photo, Video


@pytest.fixture()
def here(tmp_path, monkeypatch):
    """The working directory, with a few files."""
    touch(
        tmp_path, "b.jpg", "a.PNG", "notes.txt", "clip.mp4", "sub/a.jpg", "sub/deep/c.webp", ".hidden/d.jpg", "._b.jpg"
    )
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_files_videos_and_cameras_keep_their_order(here):
    touch(here, "loud.MOV")
    found = inputs.expand(["clip.mp4", "b.jpg", "camera:2", "notes.txt", "loud.MOV"])
    path = pathlib.Path
    assert found.items == [
        Video(path("clip.mp4"), "clip"),
        Photo(path("b.jpg"), "b"),
        Camera(2, "camera2"),
        Photo(path("notes.txt"), "notes"),
        Video(path("loud.MOV"), "loud"),
    ]
    assert found.problems == []


@pytest.mark.parametrize(
    "given, expected",
    [
        (".", ["a.PNG", "b.jpg", "x[1].jpg", "sub/a.jpg", "sub/deep/c.webp"]),  # no hidden files
        ("*", ["a.PNG", "b.jpg", "clip.mp4", "x[1].jpg"]),
        ("**/*.jpg", ["b.jpg", "sub/a.jpg", "x[1].jpg"]),
        ("[ab].*", ["a.PNG", "b.jpg"]),
        ("x[1].jpg", ["x[1].jpg"]),
    ],
)
def test_folders_and_patterns_are_expanded_in_order(here, given, expected):
    touch(here, "x[1].jpg")
    assert [str(item.path) for item in inputs.expand([given]).items] == expected


def test_duplicates_are_removed(here):
    (here / "link.jpg").symlink_to(here / "b.jpg")
    found = inputs.expand(["b.jpg", "*.jpg", str(here / "b.jpg"), "sub/../b.jpg", "link.jpg", "camera:0", "camera:0"])
    assert [item.name for item in found.items] == ["b", "camera0"]


def test_names_are_unique_even_if_case_is_ignored(here):
    touch(here, "A.jpg", "other/a.jpg", "other/camera0.jpg")
    names = [item.name for item in inputs.expand([".", "camera:0"]).items]
    assert len({name.lower() for name in names}) == len(names) == 8
    assert "b" in names and "c" in names and not any(set("/\\") & set(name) for name in names)
    assert names == [item.name for item in inputs.expand([".", "camera:0"]).items]


def test_files_of_one_name_in_folders_of_one_name_are_numbered(here):
    touch(here, "one/faces/p.jpg", "two/faces/p.jpg")
    assert [item.name for item in inputs.expand(["one", "two"]).items] == ["faces_p_jpg", "faces_p_jpg_2"]


def test_a_numbered_name_does_not_collide_with_a_file_of_that_name(here):
    paths = ["t/p.jpg", "u/t/p.jpg", "t_p_jpg_2.png", "t_p_jpg.jpg"]
    touch(here, *paths)
    names = [item.name for item in inputs.expand(paths).items]
    assert len(set(names)) == 4


def test_inputs_without_a_file_are_reported_and_the_others_kept(here):
    found = inputs.expand(["none.jpg", "b.jpg", "empty", "*.gif"])
    assert found.items == [Photo(path=found.items[0].path, name="b")]
    assert [problem.split(":")[0] for problem in found.problems] == ["none.jpg", "empty", "*.gif"]
    assert "no such file" in found.problems[0] and ".jpg" in found.problems[1]


@pytest.mark.parametrize("given", [["none.jpg"], ["empty"], ["*.gif", "none"], []])
def test_no_input_at_all_is_an_error_that_names_the_arguments(here, given):
    with pytest.raises(inputs.InputError) as error:
        inputs.expand(given)
    assert all(text in str(error.value) for text in given or ["Give pictures"])


def test_unsupported_pictures_of_a_folder_are_reported(here):
    touch(here, "photo.HEIC", "sub/old.gif")
    found = inputs.expand(["."])
    assert len(found.items) == 4
    (problem,) = found.problems
    assert problem.startswith(".: 2 file(s) of types that are not supported: photo.HEIC, old.gif. Save them as JPEG")


@pytest.mark.parametrize("name", ["...jpg", "..jpg", "....png"])
def test_a_name_of_dots_is_replaced(here, name):
    touch(here, name)
    (item,) = inputs.expand([name]).items
    assert item.name == "unnamed"


def test_20_000_pictures_of_one_name_get_unique_names(tmp_path):
    paths = [tmp_path / str(number) / "a.jpg" for number in range(20_000)]
    assert len(set(inputs._names(paths))) == len(paths)
