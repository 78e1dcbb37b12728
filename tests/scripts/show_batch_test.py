"""`scripts.show_batch`: what the sheet shows is what the network gets."""

import cv2
import numpy as np
import pytest

from data_pipelines.storage import prepared_dataset
from scripts import show_batch
from twodal_jax.face_models.load import save_morphable_model
from twodal_jax.geometry import heatmap, morphable_model, projection
from twodal_jax.rendering import batch_sheet, drawing


def small_model(seed=0):
    """A random model of 68 vertices, all of them landmarks, that fills the crop."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(-45, 45, (3, 68))
    basis = rng.normal(0, 1, (50, 3, 68))
    return morphable_model.create(mean, basis, np.array([[0, 1, 2]]), np.arange(68))


def frontal_alpha(count):
    alpha = np.zeros((count, 62), np.float32)
    alpha[:, [0, 5, 10]] = 1.0
    alpha[:, 3], alpha[:, 7] = 60.0, 61.0
    return alpha


def annotated_rows(model, count=6, margin=20):
    rng = np.random.default_rng(1)
    size = 120 + 2 * margin
    alpha = frontal_alpha(count)
    alpha[:, 12:] = rng.normal(0, 0.5, (count, 50))
    landmarks = np.asarray(projection.landmarks_crop(model, alpha))
    return {
        "image": rng.integers(0, 255, (count, size, size, 3), dtype=np.uint8),
        "name": np.array([f"face{i}.jpg" for i in range(count)]),
        "yaw_deg": np.zeros(count, np.float32),
        "alpha": alpha,
        "landmarks68": landmarks.astype(np.float32),
        "roi_box": np.tile(np.float32([0, 0, 120, 120]), (count, 1)),
        "detected": np.zeros((count, 18, 2), np.float32),
        "detected_visible": np.zeros((count, 18), np.float32),
    }


def wild_rows(count=6, margin=0):
    rng = np.random.default_rng(2)
    size = 120 + 2 * margin
    return {
        "image": rng.integers(0, 255, (count, size, size, 3), dtype=np.uint8),
        "name": np.array([f"face{i}.jpg" for i in range(count)]),
        "yaw_deg": np.full(count, np.nan, np.float32),
        "landmarks": rng.uniform(20, 100, (count, 18, 2)).astype(np.float32),
        "visible": (rng.uniform(size=(count, 18)) > 0.3).astype(np.float32),
    }


@pytest.fixture
def annotated_folder(tmp_path):
    model = small_model()
    save_morphable_model(tmp_path / "model.npz", model)
    rows = annotated_rows(model)
    return prepared_dataset.write_arrays(tmp_path / "set", kind="annotated", arrays=rows, source="test")


def test_a_sheet_of_annotated_faces_has_four_pictures_a_face(annotated_folder, tmp_path, capsys):
    output = tmp_path / "new" / "batch.png"
    arguments = [
        f"--data={annotated_folder}",
        f"--output={output}",
        "--count=3",
        f"--morphable_model={tmp_path / 'model.npz'}",
        "--augment",
    ]
    assert show_batch.main(arguments) == 0
    sheet = cv2.imread(str(output))
    cell = 360 + 6
    assert sheet.shape[1] == 8 * cell + 6 and sheet.shape[0] > 2 * cell  # two faces a row, two rows
    assert "warning" not in capsys.readouterr().err
    assert [path.name for path in output.parent.iterdir()] == ["batch.png"]


def test_a_sheet_of_wild_faces_needs_no_model_and_has_three_pictures_a_face(tmp_path):
    folder = prepared_dataset.write_arrays(tmp_path / "set", kind="wild", arrays=wild_rows(), source="test")
    output = tmp_path / "batch.png"
    assert show_batch.main([f"--data={folder}", f"--output={output}", "--count=2"]) == 0
    assert cv2.imread(str(output)).shape[1] == 6 * 366 + 6


def test_another_model_than_the_faces_were_made_with_is_warned_of(capsys):
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
def test_wrong_flags_are_refused_before_anything_is_read(wrong, capsys):
    with pytest.raises(SystemExit):
        show_batch.main(["--data=x", "--output=b.png", *wrong])
    assert wrong[0].split("=")[0] in capsys.readouterr().err


def test_without_augmentation_image_landmarks_and_heatmap_are_those_of_the_data(tmp_path):
    rows = wild_rows(count=1, margin=20)
    rows["visible"][:] = 1
    folder = prepared_dataset.write_arrays(tmp_path / "set", kind="wild", arrays=rows, source="test")
    batch = show_batch.first_batch(prepared_dataset.open_prepared(folder), 1, 0)
    assert batch.pop("name").tolist() == ["face0.jpg"]
    sheet = show_batch.sheet(batch, None, augment=False, seed=0)
    crop = rows["image"][0, 20:140, 20:140]
    expected = drawing.upscale(crop, 3)
    np.testing.assert_allclose(sheet[6:366, 6:366].astype(int), expected, atol=1)
    flh = heatmap.heatmap(rows["landmarks"], rows["visible"])[0]
    shown = sheet[6:366, 6 + 2 * 366 : 366 + 2 * 366]
    np.testing.assert_allclose(shown.astype(int), drawing.heatmap_picture(np.asarray(flh), 3), atol=3)


def test_hidden_landmarks_are_not_drawn_where_the_set_has_them_at_0_0():
    """Nor where augmentation has moved that place to."""
    rows = wild_rows(count=1, margin=20)
    rows["image"][:] = 90
    rows["visible"][0] = [1] * 9 + [0] * 9
    rows["landmarks"][0, 9:] = 0.0
    batch = {name: rows[name] for name in ("image", "landmarks", "visible")} | {"position": np.zeros((1, 2), np.uint32)}
    plain = show_batch.sheet(batch, None, augment=False, seed=0)[6:366, 6 + 366 : 366 + 366]
    colours = [plain == np.array(colour) for colour in drawing.SIDE_BGR.values()]
    assert np.any(colours[0].all(axis=-1))
    assert (plain[:20, :20] == 90).all()
    moved = batch_sheet.batch_sheet(
        rows["image"][:, 20:140, 20:140], -np.ones((1, 120, 120, 1)), np.full((1, 18, 2), 60.0), np.zeros((1, 18))
    )
    assert (moved[6:366, 6 + 366 : 366 + 366] == 90).all()


def test_left_landmarks_are_cyan_and_right_ones_yellow():
    rows = wild_rows(count=1)
    rows["landmarks"][0] = np.stack([np.linspace(10, 110, 18), np.linspace(100, 20, 18)], axis=1)
    sheet = batch_sheet.batch_sheet(rows["image"], -np.ones((1, 120, 120, 1)), rows["landmarks"], np.ones((1, 18)))
    corner = np.array([6 + 366, 6])  # of the second picture
    for index, side in ((7, "L"), (10, "R"), (13, "C")):
        x, y = np.round(drawing.to_canvas(rows["landmarks"][0, index], 3)).astype(int) + corner
        assert tuple(sheet[y, x]) == drawing.SIDE_BGR[side]
