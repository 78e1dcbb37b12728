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
        (".", ["a.PNG", "b.jpg", "clip.mp4", "x[1].jpg", "sub/a.jpg", "sub/deep/c.webp"]),  # no hidden files
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
    assert len({name.lower() for name in names}) == len(names) == 9
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
    assert "no such file" in found.problems[0] and "no pictures or videos" in found.problems[1]


@pytest.mark.parametrize("given", [["none.jpg"], ["empty"], ["*.gif", "none"], []])
def test_no_input_at_all_is_an_error_that_names_the_arguments(here, given):
    with pytest.raises(inputs.InputError) as error:
        inputs.expand(given)
    assert all(text in str(error.value) for text in given or ["Give pictures"])


def test_unsupported_pictures_of_a_folder_are_problems_and_other_files_notes(here):
    touch(here, "photo.DNG", "sub/old.jxl", "__MACOSX/sub/._a.jpg", "__MACOSX/x.jpg")
    found = inputs.expand(["."])
    assert len(found.items) == 5
    (problem,) = found.problems
    assert problem.startswith(".: 2 file(s) of types that are not supported: photo.DNG, old.jxl. Save them as JPEG")
    assert found.notes == [
        ".: ignored 3 file(s) that macOS adds to copies (._*, __MACOSX).",
        ".: left out 1 file(s), neither pictures nor videos: notes.txt.",
    ]


MP4 = b"\0\0\0\x18ftyp%b\0\0\0\0isom"
CONTENT = {
    "jpeg": (b"\xff\xd8\xff\xe0", Photo),
    "png": (b"\x89PNG\r\n\x1a\n", Photo),
    "webp": (b"RIFF\0\0\0\0WEBPVP8 ", Photo),
    "heic": (MP4 % b"heic", Photo),
    "avif": (MP4 % b"avif", Photo),
    "mp4": (MP4 % b"mp42", Video),
    "quicktime": (b"\0\0\0\x08wide", Video),
    "matroska": (b"\x1aE\xdf\xa3\x9f", Video),
    "avi": (b"RIFF\0\0\0\0AVI LIST", Video),
    "transport": ((b"G" + bytes(187)) * 4, Video),
    "m2ts": ((bytes(4) + b"G" + bytes(187)) * 4, Video),
    "gif": (b"GIF89a", Video),
    "song": (MP4 % b"M4A ", None),
    "wave": (b"RIFF\0\0\0\0WAVEfmt ", None),
    "text": (b"Good grief", None),
    "empty": (b"", None),
}


@pytest.mark.parametrize("suffix", ["", ".jfif", ".bak"])
def test_content_decides_what_a_file_without_a_telling_name_is(tmp_path, suffix):
    for name, (content, _) in CONTENT.items():
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    found = inputs.expand([str(tmp_path)])
    unknown = Photo if suffix == ".jfif" else None  # a broken picture is reported when it is read
    expected = {name: kind or unknown for name, (_, kind) in CONTENT.items() if kind or unknown}
    assert {item.name: type(item) for item in found.items} == expected
    left_out = sorted(f"{name}{suffix}" for name in set(CONTENT) - set(expected))
    assert [note.rpartition(": ")[2] for note in found.notes] == ([", ".join(left_out) + "."] if left_out else [])
    for wrong in (".jpg", ".mp4"):
        for name, kind in (("mp4", Video), ("heic", Photo)):
            (tmp_path / f"wrong{wrong}").write_bytes(CONTENT[name][0])
            (item,) = inputs.expand([str(tmp_path / f"wrong{wrong}")]).items
            assert isinstance(item, kind)


@pytest.mark.parametrize("name", ["...jpg", "..jpg", "....png"])
def test_a_name_of_dots_is_replaced(here, name):
    touch(here, name)
    (item,) = inputs.expand([name]).items
    assert item.name == "unnamed"


def test_20_000_pictures_of_one_name_get_unique_names(tmp_path):
    paths = [tmp_path / str(number) / "a.jpg" for number in range(20_000)]
    assert len(set(inputs._names(paths))) == len(paths)
