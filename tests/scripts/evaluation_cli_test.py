"""scripts.evaluation_cli: an evaluation says what a network was shown."""

import argparse
import pathlib
import types

import numpy as np
import pytest

from data_pipelines.test_sets import aflw2000, aflw_lfpa
from data_pipelines.test_sets.crops import CroppedFaces
from scripts import evaluate_aflw2000, evaluate_florence, evaluation_cli as cli, sparse_evaluation


def network(enabled=True):
    heatmap = types.SimpleNamespace(enabled=enabled, authors_mouth=False)
    return types.SimpleNamespace(spec=types.SimpleNamespace(heatmap=heatmap))


def said(visible, heatmap="detected", enabled=True, source="fan.csv"):
    faces = types.SimpleNamespace(rows=np.arange(len(visible)), detected_visible=np.float32(visible)[:, None])
    problems = []
    text = cli.what_was_shown("m", network(enabled), faces, source, argparse.Namespace(heatmap=heatmap), problems)
    return text, problems


def test_what_a_network_was_shown_is_said_with_the_number_of_faces():
    assert said([1, 1]) == ("heatmaps of detected landmarks (fan.csv) for 2 of 2 faces", [])
    assert said([1, 0]) == ("heatmaps of detected landmarks (fan.csv) for 1 of 2 faces, empty for the rest", [])
    assert said([0, 0], "empty") == ("empty heatmaps", [])
    assert said([0], enabled=False) == ("the crops alone: it was trained without heatmaps", [])


def test_landmarks_that_were_asked_for_and_are_not_there_are_noted():
    text, (problem,) = said([0, 0], source=None)
    assert text == "empty heatmaps: no landmarks were given (--detections=FILE)"
    assert problem.startswith("m: no landmarks were given (--detections=FILE), so every heatmap was empty")


def test_a_file_of_landmarks_that_has_none_of_the_faces_is_named():
    text, (problem,) = said([0, 0])
    assert text == "empty heatmaps: fan.csv has landmarks of none of the faces" and "fan.csv has landmarks" in problem


def test_landmarks_and_an_empty_heatmap_do_not_go_together():
    options = argparse.Namespace(detections="a.csv", heatmap="empty", checkpoint=[], predictions=[])
    with pytest.raises(cli.UsageError, match="leave one of them away"):
        cli.check_labels(options, ["m"])


def one_face(*_, **__):
    """What the readers of faces return: one, with detected landmarks."""
    return CroppedFaces(np.arange(1), np.zeros((1, 120, 120, 3), np.uint8), np.zeros((1, 18, 2)), np.ones((1, 18))), []


def empty_face(*_, **__):
    """The same, without landmarks."""
    return CroppedFaces(np.arange(1), np.zeros((1, 120, 120, 3), np.uint8), np.zeros((1, 18, 2)), np.zeros((1, 18))), []


@pytest.mark.parametrize("there", [True, False])
def test_aflw2000_names_the_folders_own_detections_where_it_has_them(monkeypatch, tmp_path, there):
    monkeypatch.setattr(aflw2000, "read_faces", one_face if there else empty_face)
    monkeypatch.setattr(cli, "predict_faces", lambda label, *_: label)
    if there:
        (tmp_path / "fan_landmarks.csv").touch()
    options = argparse.Namespace(data_dir=tmp_path, detections=None, heatmap="detected", passes=1)
    shown, problems = {}, []
    evaluate_aflw2000.predict("m", network(), options, None, shown, problems)
    if there:
        assert shown == {"m": "heatmaps of detected landmarks (fan_landmarks.csv) for 1 of 1 faces"} and not problems
    else:
        assert shown["m"].startswith("empty heatmaps: no landmarks") and "--detections=FILE" in problems[0]


@pytest.mark.parametrize("given", [True, False])
def test_aflw_and_lfpa_say_what_was_shown(monkeypatch, given):
    monkeypatch.setattr(aflw_lfpa, "read_faces", one_face if given else empty_face)
    monkeypatch.setattr(cli, "predict_faces", lambda label, *_: label)
    path = pathlib.Path("d/found.csv") if given else None
    options = argparse.Namespace(data_dir=None, detections=path, heatmap="detected", passes=1)
    shown, problems = {}, []
    sparse_evaluation.predict("m", network(), options, None, None, shown, problems)
    if given:
        assert shown == {"m": "heatmaps of detected landmarks (found.csv) for 1 of 1 faces"} and not problems
    else:
        assert shown["m"].startswith("empty heatmaps: no landmarks") and "--detections=FILE" in problems[0]


def parse_sparse(arguments):
    return sparse_evaluation.parse(arguments, "m", "d", "aflw21")


PARSERS = {"aflw2000": evaluate_aflw2000.parse, "florence": evaluate_florence.parse, "sparse": parse_sparse}
FOLDERS = ["--data_dir=a", "--output_dir=b"]


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@pytest.mark.parametrize("passes", ["0", "-3"])
def test_no_pass_is_an_error(parse, passes, capsys):
    with pytest.raises(SystemExit):
        parse([*FOLDERS, f"--passes={passes}"])
    assert f"must be a whole number, at least 1, got '{passes}'" in capsys.readouterr().err
    assert parse([*FOLDERS, "--passes=2"]).passes == 2


@pytest.mark.parametrize(
    "parse, default",
    [
        (PARSERS["aflw2000"], "the folder's fan_landmarks.csv"),
        (PARSERS["florence"], "without them heatmaps are empty"),
        (PARSERS["sparse"], "without them heatmaps are empty"),
    ],
)
def test_the_help_says_what_is_shown_without_detections(parse, default, capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert default in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("radius", ["0", "-1", "nan", "inf"])
def test_a_face_without_size_is_an_error(radius, capsys):
    with pytest.raises(SystemExit):
        evaluate_florence.parse([*FOLDERS, f"--face_radius={radius}"])
    assert "must be positive" in capsys.readouterr().err
