"""Batches: both formats give the same faces, purely from (seed, step), on any number of hosts."""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers_records import COUNT, records, take

from data_pipelines.loading import loader
from data_pipelines.loading.index_shuffle import sample_indices
from data_pipelines.storage import array_record, prepared_dataset
from data_pipelines.storage.tf_example import example_bytes


def assert_same(batch, other, names=None):
    for name in names or batch:
        np.testing.assert_array_equal(batch[name], other[name])


def test_prepared_faces_equal_the_sources_in_order(opened):
    keep = np.arange(COUNT) % 7 != 6
    faces = loader.read_rows(opened, np.arange(opened.count))
    expected = {name: values[keep] for name, values in records().items()}
    difference = np.abs(faces.pop("image").astype(int) - expected.pop("image"))
    assert difference.mean() < (0.1 if opened.format == "arrays" else 3.0)
    assert_same(expected, faces)
    assert opened.manifest["skipped"] == {"unreadable": 3}


def test_examples_equal_tensorflows_with_sorted_keys():
    tf = array_record.tensorflow_on_cpu()
    features = {
        "name": "ä.jpg".encode(),
        "image": bytes(range(256)) * 80,
        "yaw_deg": np.float32(-7.5),
        "landmarks": np.arange(36, dtype=np.float32).reshape(18, 2),
        "Zeros": np.zeros(0, np.float32),
        "landmarks_visible": np.ones(18, np.float32),
    }

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(value)))

    expected = tf.train.Features(feature={name: feature(value) for name, value in features.items()})
    expected = tf.train.Example(features=expected)
    encoded = example_bytes(features)
    assert tf.train.Example.FromString(encoded) == expected
    assert len(encoded) == len(expected.SerializeToString(deterministic=True))
    places = [encoded.index(b"\n" + bytes([len(name)]) + name.encode()) for name in sorted(features)]
    assert places == sorted(places)


def test_batches_follow_the_stateless_order(opened):
    for step, batch in enumerate(take(opened, 5)):
        positions = step * 8 + np.arange(8)
        rows = sample_indices(3, positions, opened.count)
        np.testing.assert_array_equal(batch["landmarks"], loader.read_rows(opened, rows)["landmarks"])
        np.testing.assert_array_equal(batch["position"][:, 1], positions)
        assert batch["image"].shape == (8, 120, 120, 3) and batch["image"].dtype == np.uint8
        assert batch["position"].dtype == np.uint32 and "name" not in batch


@pytest.mark.parametrize("limit", [1, 8, 20])  # 8 and 20 are inside a shard
def test_a_set_cut_to_its_first_faces_yields_only_these(opened, limit):
    whole = loader.read_rows(opened, np.arange(limit))
    batches = take(opened.first(limit), 6, batch_size=4)
    seen = np.concatenate([batch["landmarks"] for batch in batches])
    rows = [np.flatnonzero((whole["landmarks"] == face).all(axis=(1, 2))) for face in seen]
    assert all(len(row) == 1 for row in rows)
    assert len({int(row[0]) for row in rows}) == min(limit, 24)


def test_both_formats_give_the_same_faces(folders):
    arrays, shards = (prepared_dataset.open_prepared(folders / name) for name in ("arrays", "array_record"))
    for one, other in zip(take(arrays, 4), take(shards, 4)):
        assert_same(one, other, ("landmarks", "visible", "yaw_deg", "position"))
        assert np.abs(one["image"].astype(int) - other["image"]).mean() < 3.0


def test_images_as_decoded_differ_only_in_channel_order(opened):
    for stored, decoded in zip(take(opened, 3), take(opened, 3, as_decoded=True)):
        if opened.format == "array_record":
            decoded["image"] = decoded.pop("image_rgb")[..., ::-1]
        assert sorted(decoded) == sorted(stored)
        assert_same(stored, decoded)


def test_a_later_start_step_continues_the_same_stream(opened):
    for one, other in zip(take(opened, 6)[4:], take(opened, 2, start_step=4)):
        assert_same(one, other)


def test_hosts_get_contiguous_parts_of_the_global_batch(opened):
    parts = [take(opened, 3, process_index=host, process_count=4) for host in range(4)]
    for batch, *shares in zip(take(opened, 3), *parts):
        assert_same(batch, {name: np.concatenate([share[name] for share in shares]) for name in batch})


def test_other_seeds_give_other_batches(opened):
    assert not np.array_equal(take(opened, 1)[0]["yaw_deg"], take(opened, 1, seed=4)[0]["yaw_deg"])


def test_positions_are_split_into_two_words():
    positions = np.array([0, 2**32 + 5, 2**61])
    np.testing.assert_array_equal(loader.split_position(positions), [[0, 0], [1, 5], [2**29, 0]])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"process_count": 3}, r"Batch size \(8\) must be divisible .* \(3\)"),
        ({"process_count": 2, "process_index": 2}, "process_index 2"),
        ({"fields": ["alpha"]}, r"no fields \['alpha'\]; it has"),
    ],
)
def test_invalid_arguments_are_named(opened, options, message):
    with pytest.raises(ValueError, match=message):
        loader.batches(opened, batch_size=8, seed=0, **options)


def run(program):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], timeout=90, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_format_arrays_needs_no_tensorflow(folders):
    run(f"""
        import sys
        sys.modules["tensorflow"] = None
        from data_pipelines.loading import loader
        from data_pipelines.storage import prepared_dataset as prepared
        from scripts import prepare_data
        stream = loader.batches(prepared.open_prepared({str(folders / "arrays")!r}), batch_size=4, seed=0)
        print(next(stream)["image"].shape)
        assert prepare_data.main(["wild_csv", "--input", "nowhere", "--output", "out"]) == 1
        """)


@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_open_streams_do_not_block_interpreter_exit(folders, format):
    run(f"""
        from data_pipelines.loading import loader
        from data_pipelines.storage import prepared_dataset as prepared
        opened = prepared.open_prepared({str(folders / format)!r})
        streams = [loader.batches(opened, batch_size=8, seed=seed) for seed in range(3)]
        for _ in range(5):
            for stream in streams:
                next(stream)
        """)


@pytest.mark.parametrize("at", [20_000, 64_000])  # inside a record; where ArrayRecord reads when it opens the file
def test_a_changed_shard_is_an_error_with_the_folder_and_the_verify_command(folders, tmp_path, at):
    folder = shutil.copytree(folders / "array_record", tmp_path / "set")
    shard = sorted(folder.glob("*.array_record"))[1]
    content = bytearray(shard.read_bytes())
    content[at : at + 3000] = bytes(3000)  # the size stays the same
    shard.write_bytes(content)
    with pytest.raises(prepared_dataset.PreparedError, match=rf"{folder}: .*verify --output={folder}"):
        take(prepared_dataset.open_prepared(folder), 3)
    with pytest.raises(prepared_dataset.PreparedError, match=shard.name):
        prepared_dataset.verify(folder)
