"""Damaged files and valid files of unexpected content: every module that reads them raises its own error."""

import pickle

import numpy as np
import pytest
from helpers_face_files import tiny_model, write_pair
from helpers_good_files import good_file
from helpers_mutations import mutant

from data_pipelines.sources import alpha_from_mat, detections, mat_300w_lp
from data_pipelines.sources.base import SkipFace, SourceError
from twodal_jax.checkpointing import authors_checkpoint
from twodal_jax.detection import from_file
from twodal_jax.evaluation import predictions
from twodal_jax.face_models.load import _with_whitening, AssetError, load_morphable_model, save_morphable_model
from twodal_jax.io.untrusted import BrokenFileError
from twodal_jax.rendering import uv

OWN_ERRORS = {
    "whitening": AssetError,
    "parameters": SkipFace,
    "detections": SourceError,
    "landmarks": from_file.GivenError,
    "predictions": predictions.PredictionsError,
    "uv": ValueError,
    "checkpoint": (BrokenFileError, authors_checkpoint.CheckpointFormatError),
}
READ = {
    "whitening": ("pickle_4", lambda path, model: _with_whitening(model, path)),
    "parameters": ("mat_packed", lambda path, _: alpha_from_mat.image_alpha(mat_300w_lp.read_mat(path))),
    "detections": ("npz_packed", lambda path, _: detections.read_detections(path)),
    "landmarks": ("npz", lambda path, _: from_file.read_landmarks(path)),
    "predictions": ("npz", lambda path, _: predictions.read_predictions(path)),
    "uv": ("npy", lambda path, _: uv.read_uv(path, 100)),
    "checkpoint": ("checkpoint_zip", lambda path, _: authors_checkpoint.read(path)),
}
SUFFIX = {"whitening": ".pkl", "parameters": ".mat", "uv": ".npy", "checkpoint": ".pth.tar"}
MODEL = tiny_model()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("part", READ)
def test_damaged_files_raise_the_readers_own_error(tmp_path, part):
    kind, read = READ[part]
    _, good = good_file(kind)
    path = tmp_path / f"mutant{SUFFIX.get(part, '.npz')}"
    for index in range(1000, 1150):
        path.write_bytes(mutant(kind, good, index))
        try:
            read(path, MODEL)
        except OWN_ERRORS[part] as error:
            assert str(path) in str(error) or part == "parameters", index


@pytest.mark.parametrize(
    "content",
    [
        {"param_mean": [[0.0] * 31] * 2, "param_std": np.ones(62)},
        {"param_mean": "x" * 62, "param_std": np.ones(62)},
        {"param_mean": np.array(["a"] * 62), "param_std": np.ones(62)},
        {"param_mean": np.ones(62, complex), "param_std": np.ones(62)},
        {"param_mean": None, "param_std": None},
        {10**18: 1},
        {"k" * 10**6: 1},
        {str(k): k for k in range(10_000)},
    ],
)
def test_a_whitening_file_of_other_content_is_one_short_message(tmp_path, content):
    path = tmp_path / "whitening.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    with pytest.raises(AssetError, match="whitening.pkl") as error:
        _with_whitening(MODEL, path)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    "changes",
    [
        {"triangles": np.array([["a", "b", "c"]])},
        {"triangles": np.zeros(3, int)},
        {"triangles": np.full((2, 3), -(2**62))},
        {"triangles": np.full((2, 3), 2**62)},
        {"triangles": np.full((2, 3), np.nan)},
        {"mean": np.zeros((3, 0))},
        {"mean": np.zeros(())},
        {"mean": np.array("text")},
        {"mean": np.full((3, 120), np.inf)},
        {"basis": np.zeros((50, 3, 1))},
        {"basis": np.zeros((0, 3, 120))},
        {"landmark_indices": np.full(68, 10**9)},
        {"landmark_indices": np.full(68, np.nan)},
        {"landmark_indices": np.zeros((68, 68))},
        {"alpha_mean": np.zeros(3)},
    ],
)
def test_a_morphable_model_of_impossible_arrays_is_one_message(tmp_path, changes):
    path = tmp_path / "forged.npz"
    save_morphable_model(path, MODEL)
    content = dict(np.load(path))
    np.savez(path, **content | {"alpha_mean": np.zeros(62), "alpha_std": np.ones(62)} | changes)
    with pytest.raises(AssetError, match="forged.npz"):
        load_morphable_model(path)


def test_a_damaged_mat_file_costs_one_face_only(tmp_path):
    for name in ("one", "two", "three"):
        write_pair(tmp_path, name, MODEL)
    (tmp_path / "two.mat").write_bytes((tmp_path / "two.mat").read_bytes()[:1000])
    source = mat_300w_lp.MatFaces(tmp_path)
    kinds = [type(face).__name__ for face in source.faces(0, 3)]
    assert kinds == ["dict", "dict", "Skip"]


@pytest.mark.parametrize(
    "content",
    [
        b'"' + b"x" * 200_000 + b'",1,2,3,4\n',
        b"\0" * 10_000,
        b"a,1,2,3,4\n" * 3 + b"\xff\xfe\n",
        b",,,,\n" * 5,
        b"a," + b"9" * 5000 + b",1e999,-1e999,nan\n",
        b"file,x1,y1,x2,y2\na,1,2," + b"1" * 400 + b",5\n",
    ],
    ids=["long_field", "zeros", "no_text", "nothing", "digits", "huge"],
)
@pytest.mark.parametrize(
    "read, error",
    [
        (from_file.read_boxes, from_file.GivenError),
        (from_file.read_landmarks, from_file.GivenError),
        (detections.read_detections, SourceError),
    ],
    ids=["boxes", "landmarks", "detections"],
)
def test_tables_of_any_content_are_read_or_refused(tmp_path, content, read, error):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    try:
        read(path)
    except error as caught:
        assert "table.csv" in str(caught)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"file": "a", "faces": [{"box": [1, 2, 3, 1' + b"0" * 400 + b"]}]}",
        b'{"file": "a", "faces": [{"box": ' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'{"file": 1' + b"0" * 5000 + b"}",
        b'{"file": "a", "faces": [{"box": {}, "landmarks68": "x"}]}',
        b"\xff\xfe",
        b"null",
        b'{"file": "a", "faces": 3}',
    ],
    ids=["deep", "huge", "nested", "digits", "types", "no_text", "null", "number"],
)
@pytest.mark.parametrize("read", [from_file.read_boxes, from_file.read_landmarks])
def test_json_of_any_other_content_is_refused(tmp_path, content, read):
    path = tmp_path / "faces.json"
    path.write_bytes(content)
    with pytest.raises(from_file.GivenError, match="faces.json"):
        read(path)
