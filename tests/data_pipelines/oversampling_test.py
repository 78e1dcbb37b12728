"""Oversampling by yaw, in both formats and on any number of hosts."""

import helpers_model
import numpy as np
import pytest
from helpers_records import take
from helpers_run import tiny_config

from data_pipelines import training_data
from data_pipelines.loading import loader, oversampling
from data_pipelines.sources import synthetic
from twodal_jax.evaluation.metrics import yaw_bin_index
from twodal_jax.training import builder


def test_faces_occur_as_often_as_their_yaw_bin_says(opened, monkeypatch):
    monkeypatch.setattr(loader, "COLUMN_PART", 7)
    rows = oversampling.rows_by_yaw(opened, (1, 2, 3))
    faces = loader.read_rows(opened, np.arange(opened.count))
    expected = np.array([1, 2, 3])[yaw_bin_index(faces["yaw_deg"])]
    assert len(set(expected)) == 3
    np.testing.assert_array_equal(np.bincount(rows, minlength=opened.count), expected)

    epoch = take(opened, len(rows), batch_size=1, rows=rows)
    seen = [np.flatnonzero((faces["landmarks"] == batch["landmarks"]).all(axis=(1, 2))) for batch in epoch]
    np.testing.assert_array_equal(np.bincount(np.concatenate(seen), minlength=opened.count), expected)
    positions = np.concatenate([batch["position"] for batch in epoch])
    assert len(np.unique(positions, axis=0)) == len(rows)  # repeats are augmented differently


def test_hosts_get_contiguous_parts_of_an_oversampled_epoch(opened):
    rows = oversampling.rows_by_yaw(opened, (0, 1, 4))
    hosts = [
        take(opened, 3, rows=rows, process_index=index, process_count=count)
        for index, count in ((0, 1), (0, 2), (1, 2))
    ]
    for whole, *parts in zip(*hosts):
        for name, values in whole.items():
            np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))


def test_one_repeat_each_is_no_oversampling(opened):
    assert oversampling.rows_by_yaw(opened, (1, 1, 1)) is None


def test_unknown_yaw_counts_as_frontal(opened, monkeypatch):
    unknown = {"yaw_deg": np.full(opened.count, np.nan, np.float32)}
    monkeypatch.setattr(loader, "read_column", lambda prepared, field: unknown[field])
    np.testing.assert_array_equal(oversampling.rows_by_yaw(opened, (2, 0, 5)), np.arange(opened.count).repeat(2))


@pytest.mark.parametrize(
    "repeats, message",
    [
        ((1, 2), "config.yaw_oversampling_wild: expected 3 whole numbers"),
        ((1, -1, 2), "whole numbers from 0 on"),
        ((1, 0.5, 2), "whole numbers"),
        ((0, 0, 0), "leave none of the 2 faces"),
    ],
)
def test_invalid_repeats_are_an_error_that_names_the_field(tmp_path, repeats, message):
    folders = {
        kind: str(synthetic.generate(tmp_path / kind, kind, 2, seed=0, progress=False))
        for kind in ("annotated", "wild")
    }
    config = tiny_config(
        **{
            "data.annotated.folder": folders["annotated"],
            "data.evaluation.folder": folders["annotated"],
            "data.wild.folder": folders["wild"],
            "morphable_model": "builtin",
            "validation_faces": 0,
        }
    )
    with config.unlocked():
        config.yaw_oversampling_wild = repeats
    with pytest.raises(builder.ConfigError, match=message):
        training_data.open_training_data(config, tmp_path, helpers_model.tiny_model())
