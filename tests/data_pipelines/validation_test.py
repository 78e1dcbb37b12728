"""The validation part of an annotated set: whole photos, the same for all seeds, never trained on; in both formats."""

import helpers_model
import numpy as np
import pytest
from helpers_records import ArraySource
from helpers_run import tiny_config

from data_pipelines import training_data
from data_pipelines.loading import loader, validation
from data_pipelines.preparation import prepare
from data_pipelines.sources import synthetic
from data_pipelines.storage import prepared_dataset
from tests.helpers_face_files import photo
from twodal_jax.training import builder

PHOTOS, POSES = 12, 4
NAMES = [
    f"{folder}/AFW_{number}_1_{pose}"
    for folder in ("AFW", "AFW_Flip")
    for number in range(PHOTOS)
    for pose in range(POSES)
]


def annotated_rows():
    """Faces of 12 photos, each in four poses and mirrored; all coefficients of a face are its row."""
    count = len(NAMES)
    row = np.arange(count, dtype=np.float32)
    return {
        "name": np.array(NAMES),
        "image": np.stack([photo(120, seed) for seed in range(count)]),
        "yaw_deg": row % 90,
        "alpha": np.tile(row[:, None], (1, 62)),
        "landmarks68": np.zeros((count, 68, 3), np.float32),
        "roi_box": np.tile(np.float32([0, 0, 120, 120]), (count, 1)),
        "detected": np.ones((count, 18, 2), np.float32),
        "detected_visible": np.ones((count, 18), np.float32),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotated")
    for format in ("arrays", "array_record"):
        prepare.prepare(ArraySource("annotated", annotated_rows()), root / format, format=format, shards=3)
    synthetic.generate(root / "wild", "wild", 2, seed=0, progress=False)
    synthetic.generate(root / "rendered", "annotated", 20, seed=0, progress=False)
    return root


@pytest.fixture(params=["arrays", "array_record"])
def opened(folders, request, monkeypatch):
    monkeypatch.setattr(loader, "COLUMN_PART", 7)
    return prepared_dataset.open_prepared(folders / request.param)


def config_of(folder, **overrides):
    return tiny_config(
        **{
            "data.annotated.folder": str(folder),
            "data.evaluation.folder": str(folder.parent / "rendered"),
            "data.wild.folder": str(folder.parent / "wild"),
            "morphable_model": "builtin",
            **overrides,
        }
    )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("AFW/AFW_134212_1_0", "AFW/AFW_134212_1"),
        ("AFW_Flip/AFW_134212_1_13", "AFW/AFW_134212_1"),
        ("300W_LP/HELEN_Flip/HELEN_100032540_1_3", "300W_LP/HELEN/HELEN_100032540_1"),
        ("LFPW/LFPW_image_test_0001_2", "LFPW/LFPW_image_test_0001"),
        ("image00002", "image00002"),
        ("the300w_lp/000123", "the300w_lp/000123"),
        ("synthetic_1_face0000004", "synthetic_1_face0000004"),
    ],
)
def test_poses_and_flips_belong_to_one_photo(name, expected):
    assert validation.photo(name) == expected


def test_photos_are_taken_whole_up_to_a_tenth_of_the_faces(opened):
    chosen = validation.rows(opened, 1000)
    assert len(chosen) == 8  # a tenth of 96 is 10; a photo has 4 poses and their flips
    photos = [validation.photo(name) for name in NAMES]
    taken = {photos[row] for row in chosen}
    assert chosen.tolist() == [row for row, name in enumerate(photos) if name in taken]
    message = "at most 7 of the 96.*none of its 12 photos has few enough.*set it to 0"
    with pytest.raises(validation.ValidationError, match=message):
        validation.rows(opened, 7)
    assert not len(validation.rows(opened, 0))


def test_photos_of_one_face_give_the_requested_number(folders):
    rendered = prepared_dataset.open_prepared(folders / "rendered")
    assert len(validation.rows(rendered, 1)) == 1 and len(validation.rows(rendered, 2)) == 2
    assert len(validation.rows(rendered.first(11), 1000)) == 2  # a tenth, rounded up
    assert set(validation.rows(rendered, 1)) < set(validation.rows(rendered, 2))
    with pytest.raises(validation.ValidationError, match="1 photos"):
        validation.rows(rendered.first(1), 1)
    with pytest.raises(validation.ValidationError, match="got -1"):
        validation.rows(rendered, -1)


@pytest.mark.parametrize("repeats", [(1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_no_seed_trains_on_validation_faces_and_every_seed_on_all_others(folders, tmp_path, format, repeats):
    parts = []
    for seed in (0, 1):
        config = config_of(folders / format, seed=seed, yaw_oversampling_annotated=repeats, validation_faces=9)
        data, _ = training_data.open_training_data(config, tmp_path, helpers_model.tiny_model())
        parts.append(set(data.validation.alpha[:, 0].astype(int)))
        assert data.description["annotated"]["faces"] == 88 and data.description["validation"]["faces"] == 8
        assert [NAMES[row] for row in sorted(parts[-1])] == data.validation.name.tolist()
        yaw = np.arange(96) % 90
        epoch = np.repeat(np.arange(96), np.array(repeats)[(yaw > 30).astype(int) + (yaw > 60)])
        expected = [row for row in epoch if row not in parts[-1]]
        stream = data.annotated(0)
        seen = np.concatenate([next(stream)["alpha"][:, 0] for _ in range(len(expected) // 2)]).astype(int)
        stream.close()
        if len(expected) % 2 == 0:
            assert sorted(seen) == expected
        assert set(seen) <= set(expected)
    assert parts[0] == parts[1] and len(parts[0]) == 8


def test_without_validation_faces_no_name_is_read(folders, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("read")

    monkeypatch.setattr(loader, "read_column", refuse)
    config = config_of(folders / "arrays", validation_faces=0)
    data, _ = training_data.open_training_data(config, tmp_path, helpers_model.tiny_model())
    assert data.validation is None and "validation" not in data.description
    assert data.description["annotated"]["faces"] == 96


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"validation_faces": 3}, "config.validation_faces: 3 faces are requested, at most 3 of the 96"),
        ({"validation_faces": 9, "yaw_oversampling_annotated": (0, 0, 0)}, "config.yaw_oversampling_annotated"),
    ],
)
def test_an_impossible_validation_part_is_an_error_that_names_the_field(folders, tmp_path, overrides, message):
    with pytest.raises(builder.ConfigError, match=message):
        config = config_of(folders / "arrays", **overrides)
        training_data.open_training_data(config, tmp_path, helpers_model.tiny_model())


def test_the_resume_fingerprint_depends_on_the_validation_part():
    faces = {"annotated": 88, "validation": 8}
    one, other = (
        builder.resume_fingerprint(tiny_config(validation_faces=number), "digest", faces) for number in (8, 9)
    )
    assert one["validation_faces"] == 8 and one["data.validation.faces"] == 8 and one != other
    with pytest.raises(builder.ConfigError, match="config.validation_faces must be 0.*or positive, got -1"):
        builder.build_stages(tiny_config(validation_faces=-1))
