"""`scripts.show_batch`: the sheet shows what the network gets."""

import cv2
import numpy as np
import pytest

from data_pipelines.storage import prepared_dataset
from scripts import show_batch
from tests.helpers_face_files import wild_rows
from twodal_jax.face_models.load import save_morphable_model
from twodal_jax.geometry import heatmap, morphable_model, projection
from twodal_jax.rendering import batch_sheet, drawing

CELL = 360 + 6  # pixels from one picture of a sheet to the next
EMPTY_HEATMAP = -np.ones((1, 120, 120, 1))


def small_model(seed=0):
    """A random model of 68 vertices, all of them landmarks, that fills the crop."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(-45, 45, (3, 68))
    basis = rng.normal(0, 1, (50, 3, 68))
    return morphable_model.create(mean, basis, np.array([[0, 1, 2]]), np.arange(68))


def annotated_rows(model, count=6, margin=20):
    """Frontal faces of random shape."""
    wild = wild_rows(count, margin=margin)
    alpha = np.zeros((count, 62), np.float32)
    alpha[:, [0, 5, 10]] = 1.0
    alpha[:, 3], alpha[:, 7] = 60.0, 61.0
    alpha[:, 12:] = np.random.default_rng(1).normal(0, 0.5, (count, 50))
    return {
        **{name: wild[name] for name in ("image", "name", "yaw_deg")},
        "alpha": alpha,
        "landmarks68": np.asarray(projection.landmarks_crop(model, alpha), np.float32),
        "roi_box": np.tile(np.float32([0, 0, 120, 120]), (count, 1)),
        "detected": np.zeros((count, 18, 2), np.float32),
        "detected_visible": np.zeros((count, 18), np.float32),
    }


def picture(sheet, index):
    """A picture of the sheet's first row."""
    return sheet[6:CELL, 6 + index * CELL : (index + 1) * CELL]


def test_a_sheet_of_annotated_faces_has_four_pictures_per_face(tmp_path, capsys):
    model = small_model()
    save_morphable_model(tmp_path / "model.npz", model)
    prepared_dataset.write_arrays(tmp_path / "set", kind="annotated", arrays=annotated_rows(model), source="test")
    output = tmp_path / "new" / "batch.png"
    arguments = [f"--data={tmp_path / 'set'}", f"--output={output}", "--count=3", "--augment"]
    assert show_batch.main([*arguments, f"--morphable_model={tmp_path / 'model.npz'}"]) == 0
    sheet = cv2.imread(str(output))
    assert sheet.shape[1] == 8 * CELL + 6 and sheet.shape[0] > 2 * CELL  # two faces a row, two rows
    assert "warning" not in capsys.readouterr().err
    assert [path.name for path in output.parent.iterdir()] == ["batch.png"]


def test_a_sheet_of_wild_faces_needs_no_model_and_has_three_pictures_per_face(tmp_path):
    folder = prepared_dataset.write_arrays(tmp_path / "set", kind="wild", arrays=wild_rows(6), source="test")
    output = tmp_path / "batch.png"
    assert show_batch.main([f"--data={folder}", f"--output={output}", "--count=2"]) == 0
    assert cv2.imread(str(output)).shape[1] == 6 * CELL + 6


def test_another_model_than_that_of_the_faces_gives_a_warning(capsys):
    rows = annotated_rows(small_model())
    show_batch.warn_of_wrong_model(rows, small_model(), "right")
    assert not capsys.readouterr().err
    show_batch.warn_of_wrong_model(rows, small_model(seed=9), "other")
    assert "--morphable_model=other" in capsys.readouterr().err


def test_a_missing_folder_is_one_message_that_names_it(tmp_path, capsys):
    arguments = [f"--data={tmp_path / 'nothing'}", f"--output={tmp_path / 'b.png'}"]
    assert show_batch.main(arguments) == 1
    error = capsys.readouterr().err
    assert "nothing" in error and "Traceback" not in error
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("wrong", [["--count=0"], ["--output=batch.txt"]])
def test_invalid_flags_are_errors_before_anything_is_read(wrong, capsys):
    with pytest.raises(SystemExit):
        show_batch.main(["--data=x", "--output=b.png", *wrong])
    assert wrong[0].split("=")[0] in capsys.readouterr().err


def test_without_augmentation_image_landmarks_and_heatmap_are_the_stored_ones(tmp_path):
    rows = wild_rows(1, margin=20)
    folder = prepared_dataset.write_arrays(tmp_path / "set", kind="wild", arrays=rows, source="test")
    batch = show_batch.first_batch(prepared_dataset.open_prepared(folder), 1, 0)
    assert batch.pop("name").tolist() == ["face0.jpg"]
    sheet = show_batch.sheet(batch, None, augment=False, seed=0)
    expected = drawing.upscale(rows["image"][0, 20:140, 20:140], 3)
    np.testing.assert_allclose(picture(sheet, 0).astype(int), expected, atol=1)
    flh = heatmap.heatmap(rows["landmarks"], rows["visible"])[0]
    expected = drawing.heatmap_picture(np.asarray(flh), 3)
    np.testing.assert_allclose(picture(sheet, 2).astype(int), expected, atol=3)


def test_hidden_landmarks_are_not_drawn():
    """A set stores them at (0, 0); augmentation may move that point into the crop."""
    rows = wild_rows(1, margin=20)
    rows["image"][:] = 90
    rows["landmarks"][0] = np.random.default_rng(2).uniform(30, 100, (18, 2))
    rows["landmarks"][0, 9:], rows["visible"][0, 9:] = 0.0, 0
    batch = {name: rows[name] for name in ("image", "landmarks", "visible")} | {"position": np.zeros((1, 2), np.uint32)}
    landmarks = picture(show_batch.sheet(batch, None, augment=False, seed=0), 1)
    assert any((landmarks == np.array(colour)).all(axis=-1).any() for colour in drawing.SIDE_BGR.values())
    assert (landmarks[:20, :20] == 90).all()
    moved = np.full((1, 18, 2), 60.0)
    sheet = batch_sheet.batch_sheet(rows["image"][:, 20:140, 20:140], EMPTY_HEATMAP, moved, np.zeros((1, 18)))
    assert (picture(sheet, 1) == 90).all()


def test_left_landmarks_are_cyan_and_right_ones_yellow():
    points = np.stack([np.linspace(10, 110, 18), np.linspace(100, 20, 18)], axis=1)
    sheet = batch_sheet.batch_sheet(wild_rows(1)["image"], EMPTY_HEATMAP, points[None], np.ones((1, 18)))
    for index, side in ((7, "L"), (10, "R"), (13, "C")):
        x, y = np.round(drawing.to_canvas(points[index], 3)).astype(int)
        assert tuple(picture(sheet, 1)[y, x]) == drawing.SIDE_BGR[side]
