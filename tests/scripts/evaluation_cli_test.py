"""scripts.evaluation_cli: an evaluation describes the network's inputs, and its options are validated."""

import argparse
import pathlib
import types

import numpy as np
import pytest

from data_pipelines.test_sets import aflw2000, aflw_lfpa
from data_pipelines.test_sets.crops import CroppedFaces
from scripts import evaluate_aflw2000, evaluate_florence, evaluation_cli as cli, sparse_evaluation, terminal

MISSING = "no landmarks were given (--detections=FILE)"


def network(enabled=True):
    heatmap = types.SimpleNamespace(enabled=enabled, authors_mouth=False)
    return types.SimpleNamespace(spec=types.SimpleNamespace(heatmap=heatmap))


@pytest.mark.parametrize(
    "visible, options, expected",
    [
        ([1, 1], {}, "heatmaps of detected landmarks (fan.csv) for 2 of 2 faces"),
        ([1, 0], {}, "heatmaps of detected landmarks (fan.csv) for 1 of 2 faces, empty for the rest"),
        ([0, 0], {"heatmap": "empty"}, "empty heatmaps"),
        ([0], {"enabled": False}, "the crops alone: it was trained without heatmaps"),
        ([0, 0], {"source": None}, f"empty heatmaps: {MISSING}"),
        ([0, 0], {}, "empty heatmaps: fan.csv has landmarks of none of the faces"),
    ],
)
def test_the_networks_inputs_are_described_and_missing_landmarks_reported(visible, options, expected):
    faces = types.SimpleNamespace(rows=np.arange(len(visible)), detected_visible=np.float32(visible)[:, None])
    settings = {"heatmap": "detected", "enabled": True, "source": "fan.csv"} | options
    heatmap, problems = argparse.Namespace(heatmap=settings["heatmap"]), []
    text = cli.describe_inputs("m", network(settings["enabled"]), faces, settings["source"], heatmap, problems)
    reason = expected.removeprefix("empty heatmaps: ")
    assert text == expected
    assert problems == (
        [f"m: {reason}, so every heatmap was empty; the paper shows those of a detector"] if reason != expected else []
    )


def test_detections_and_an_empty_heatmap_are_an_error():
    options = argparse.Namespace(detections="a.csv", heatmap="empty", checkpoint=[], predictions=[])
    with pytest.raises(terminal.UsageError, match="omit one of them"):
        cli.check_labels(options, ["m"])


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("test_set", ["aflw2000", "sparse"])
def test_every_evaluation_describes_its_inputs(monkeypatch, tmp_path, test_set, given):
    faces = np.zeros((1, 120, 120, 3), np.uint8), np.zeros((1, 18, 2)), np.full((1, 18), float(given))
    for reader in (aflw2000, aflw_lfpa):
        monkeypatch.setattr(reader, "read_faces", lambda *_, **__: (CroppedFaces(np.arange(1), *faces), []))
    monkeypatch.setattr(cli, "predict_faces", lambda label, *_: label)
    options = argparse.Namespace(data_dir=tmp_path, detections=None, heatmap="detected", passes=1)
    truth = types.SimpleNamespace(keys=[], roi_box=None)
    shown, problems = {}, []
    if test_set == "aflw2000":
        name = "fan_landmarks.csv"
        if given:
            (tmp_path / name).touch()  # the folder's own detections
        evaluate_aflw2000.predict("m", network(), options, truth, shown, problems)
    else:
        name = "detected.csv"
        options.detections = pathlib.Path("d", name) if given else None
        sparse_evaluation.predict("m", network(), options, truth, None, shown, problems)
    if given:
        assert shown == {"m": f"heatmaps of detected landmarks ({name}) for 1 of 1 faces"} and not problems
    else:
        assert shown["m"] == f"empty heatmaps: {MISSING}" and MISSING in problems[0]


def parse_sparse(arguments):
    return sparse_evaluation.parse(arguments, "m", "d", "aflw21")


PARSERS = {"aflw2000": evaluate_aflw2000.parse, "florence": evaluate_florence.parse, "sparse": parse_sparse}
FOLDERS = ["--data_dir=a", "--output_dir=b"]


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@pytest.mark.parametrize("passes", ["0", "-3"])
def test_fewer_than_one_pass_is_an_error(parse, passes, capsys):
    with pytest.raises(SystemExit):
        parse([*FOLDERS, f"--passes={passes}"])
    assert f"must be a whole number, at least 1, got '{passes}'" in capsys.readouterr().err
    assert parse([*FOLDERS, "--passes=2"]).passes == 2


@pytest.mark.parametrize("name", PARSERS)
def test_the_help_tells_the_default_of_detections(name, capsys):
    with pytest.raises(SystemExit):
        PARSERS[name](["--help"])
    default = "the folder's fan_landmarks.csv" if name == "aflw2000" else "without them heatmaps are empty"
    assert default in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("radius", ["0", "-1", "nan", "inf"])
def test_a_face_radius_that_is_not_positive_and_finite_is_an_error(radius, capsys):
    with pytest.raises(SystemExit):
        evaluate_florence.parse([*FOLDERS, f"--face_radius={radius}"])
    assert "must be positive" in capsys.readouterr().err
