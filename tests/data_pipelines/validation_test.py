"""The validation part of an annotated set: whole photos, the same for all seeds, never trained on, in both formats."""

import helpers_model
import numpy as np
import pytest
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


class Rows:
    """A source of annotated faces of 12 photos, each in four poses and mirrored; a face's coefficients are its row."""

    kind, margin, description = "annotated", 0, "rows"

    def __len__(self):
        return len(NAMES)

    def fingerprint(self):
        return "rows"

    def faces(self, start, stop):
        for row in range(start, stop):
            yield {
                "name": NAMES[row],
                "image": photo(120, row),
                "yaw_deg": np.float32(row % 90),
                "alpha": np.full(62, row, np.float32),
                "landmarks68": np.zeros((68, 3), np.float32),
                "roi_box": np.array([0, 0, 120, 120], np.float32),
                "detected": np.ones((18, 2), np.float32),
                "detected_visible": np.ones(18, np.float32),
            }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotated")
    for format in ("arrays", "array_record"):
        prepare.prepare(Rows(), root / format, format=format, shards=3)
    synthetic.generate(root / "wild", "wild", 2, seed=0, progress=False)
    synthetic.generate(root / "drawn", "annotated", 20, seed=0, progress=False)
    return root


@pytest.fixture(params=["arrays", "array_record"])
def opened(folders, request, monkeypatch):
    monkeypatch.setattr(loader, "AT_A_TIME", 7)
    return prepared_dataset.open_prepared(folders / request.param)


def config_of(folder, **overrides):
    return tiny_config(
        **{
            "data.annotated.folder": str(folder),
            "data.evaluation.folder": str(folder.parent / "drawn"),
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


def test_photos_are_taken_whole_and_at_most_a_tenth_of_the_faces(opened):
    chosen = validation.rows(opened, 1000)
    assert len(chosen) == 8  # a tenth of 96 is 10; a photo has 4 poses and their flips
    photos = [validation.photo(name) for name in NAMES]
    taken = {photos[row] for row in chosen}
    assert chosen.tolist() == [row for row, found in enumerate(photos) if found in taken]
    message = "at most 7 of the 96.*12 photos, none small enough.*set it to 0"
    with pytest.raises(validation.ValidationError, match=message):
        validation.rows(opened, 7)
    assert not len(validation.rows(opened, 0))


def test_faces_of_their_own_photos_give_the_number_asked_for(folders):
    drawn = prepared_dataset.open_prepared(folders / "drawn")
    assert len(validation.rows(drawn, 1)) == 1 and len(validation.rows(drawn, 2)) == 2
    assert len(validation.rows(drawn.first(11), 1000)) == 2  # a tenth, rounded up
    assert set(validation.rows(drawn, 1)) < set(validation.rows(drawn, 2))
    with pytest.raises(validation.ValidationError, match="1 photos"):
        validation.rows(drawn.first(1), 1)
    with pytest.raises(validation.ValidationError, match="got -1"):
        validation.rows(drawn, -1)


@pytest.mark.parametrize("repeats", [(1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_no_seed_trains_on_a_validation_face_and_each_other_face_is_trained_on(folders, tmp_path, format, repeats):
    parts = []
    for seed in (0, 1):
        config = config_of(folders / format, seed=seed, yaw_oversampling_annotated=repeats, validation_faces=9)
        data, _ = training_data.open_training_data(config, tmp_path, helpers_model.tiny_model())
        parts.append(set(data.validation.alpha[:, 0].astype(int)))
        assert data.description["annotated"]["faces"] == 88 and data.description["validation"]["faces"] == 8
        assert [NAMES[row] for row in sorted(parts[-1])] == data.validation.name.tolist()
        epoch = np.repeat(
            np.arange(96), np.array(repeats)[(np.arange(96) % 90 > 30).astype(int) + (np.arange(96) % 90 > 60)]
        )
        expected = [row for row in epoch if row not in parts[-1]]
        stream = data.annotated(0)
        seen = np.concatenate([next(stream)["alpha"][:, 0] for _ in range(len(expected) // 2)]).astype(int)
        stream.close()
        if len(expected) % 2 == 0:
            assert sorted(seen) == expected
        assert set(seen) <= set(expected)
    assert parts[0] == parts[1] and len(parts[0]) == 8


def test_without_validation_faces_there_is_no_part_and_no_name_is_read(folders, tmp_path, monkeypatch):
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
        ({"validation_faces": 3}, "config.validation_faces: 3 faces are asked for, at most 3 of the 96"),
        ({"validation_faces": 9, "yaw_oversampling_annotated": (0, 0, 0)}, "config.yaw_oversampling_annotated"),
    ],
)
def test_a_part_that_cannot_be_is_an_error_that_names_the_field(folders, tmp_path, overrides, message):
    with pytest.raises(builder.ConfigError, match=message):
        config = config_of(folders / "arrays", **overrides)
        training_data.open_training_data(config, tmp_path, helpers_model.tiny_model())


def test_the_fingerprint_of_a_run_holds_the_part():
    faces = {"annotated": 88, "validation": 8}
    one, other = (
        builder.resume_fingerprint(tiny_config(validation_faces=number), "digest", faces) for number in (8, 9)
    )
    assert one["validation_faces"] == 8 and one["data.validation.faces"] == 8 and one != other
    with pytest.raises(builder.ConfigError, match="config.validation_faces must be 0.*or positive, got -1"):
        builder.build_stages(tiny_config(validation_faces=-1))
