"""Faces that come several times an epoch: how often by yaw, in both formats, on any number of hosts."""

import helpers_model
import numpy as np
import pytest
from helpers_records import folders, opened, take  # noqa: F401 (fixtures)
from helpers_run import tiny_config

from data_pipelines import training_data
from data_pipelines.loading import loader, oversampling
from data_pipelines.sources import synthetic
from twodal_jax.evaluation.metrics import yaw_bin_index
from twodal_jax.training import builder


def test_each_face_comes_as_often_as_its_yaw_says(opened, monkeypatch):  # noqa: F811
    monkeypatch.setattr(loader, "AT_A_TIME", 7)
    rows = oversampling.rows_by_yaw(opened, (1, 2, 3))
    everything = loader.read_rows(opened, np.arange(opened.count))
    expected = np.array([1, 2, 3])[yaw_bin_index(everything["yaw_deg"])]
    assert len(set(expected)) == 3
    np.testing.assert_array_equal(np.bincount(rows, minlength=opened.count), expected)

    epoch = take(opened, len(rows), batch_size=1, rows=rows)
    seen = [np.flatnonzero((everything["landmarks"] == batch["landmarks"]).all(axis=(1, 2))) for batch in epoch]
    np.testing.assert_array_equal(np.bincount(np.concatenate(seen), minlength=opened.count), expected)
    positions = np.concatenate([batch["position"] for batch in epoch])
    assert len(np.unique(positions, axis=0)) == len(rows)  # a face that comes again is augmented anew


def test_hosts_share_the_repeated_faces_as_they_share_others(opened):  # noqa: F811
    rows = oversampling.rows_by_yaw(opened, (0, 1, 4))
    for whole, *parts in zip(
        *(
            take(opened, 3, rows=rows, process_index=index, process_count=count)
            for index, count in ((0, 1), (0, 2), (1, 2))
        )
    ):
        for name, values in whole.items():
            np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))


def test_once_each_is_the_stream_without_repeats(opened):  # noqa: F811
    assert oversampling.rows_by_yaw(opened, (1, 1, 1)) is None


def test_an_unknown_yaw_counts_as_frontal(opened, monkeypatch):  # noqa: F811
    unknown = {"yaw_deg": np.full(opened.count, np.nan, np.float32)}
    monkeypatch.setattr(loader, "read_column", lambda prepared, field: unknown[field])
    np.testing.assert_array_equal(oversampling.rows_by_yaw(opened, (2, 0, 5)), np.arange(opened.count).repeat(2))


@pytest.mark.parametrize(
    "given, message",
    [
        ((1, 2), "config.yaw_oversampling_wild: expected 3 whole numbers"),
        ((1, -1, 2), "whole numbers from 0 on"),
        ((1, 0.5, 2), "whole numbers"),
        ((0, 0, 0), "no face is left of 2"),
    ],
)
def test_repeats_that_cannot_be_are_an_error_that_names_the_field(tmp_path, given, message):
    faces = {
        kind: str(synthetic.generate(tmp_path / kind, kind, 2, seed=0, progress=False))
        for kind in ("annotated", "wild")
    }
    config = tiny_config(
        **{
            "data.annotated.folder": faces["annotated"],
            "data.evaluation.folder": faces["annotated"],
            "data.wild.folder": faces["wild"],
            "morphable_model": "builtin",
            "validation_faces": 0,
        }
    )
    with config.unlocked():
        config.yaw_oversampling_wild = given
    with pytest.raises(builder.ConfigError, match=message):
        training_data.open_training_data(config, tmp_path, helpers_model.tiny_model())
