"""Batches: both formats give the same faces, purely from (seed, step), on any number of hosts."""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers_records import COUNT, Rows, take

from data_pipelines.loading import loader
from data_pipelines.loading.index_shuffle import sample_indices
from data_pipelines.storage import array_record, prepared_dataset


def test_prepared_faces_are_those_of_the_source_in_order(opened):
    keep = np.arange(COUNT) % 7 != 6
    found = loader.read_rows(opened, np.arange(opened.count))
    for name, values in Rows().rows.items():
        if name == "image":
            difference = np.abs(found[name].astype(int) - values[keep])
            assert difference.mean() < (0.1 if opened.format == "arrays" else 3.0)
        else:
            np.testing.assert_array_equal(found[name], values[keep])
    assert opened.manifest["skipped"] == {"seventh": 3}


def test_records_are_what_tensorflow_reads_with_the_keys_in_order():
    from data_pipelines.storage.tf_example import example_bytes

    tf = array_record.tensorflow_on_cpu()
    features = {
        "name": "ä.jpg".encode(),
        "image": bytes(range(256)) * 80,
        "yaw_deg": np.float32(-7.5),
        "landmarks": np.arange(36, dtype=np.float32).reshape(18, 2),
        "Zeros": np.zeros(0, np.float32),
        "landmarks_visible": np.ones(18, np.float32),
    }
    expected = tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                if isinstance(value, bytes)
                else tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(value)))
                for name, value in features.items()
            }
        )
    )
    found = example_bytes(features)
    assert tf.train.Example.FromString(found) == expected
    assert len(found) == len(expected.SerializeToString(deterministic=True))
    places = [found.index(b"\n" + bytes([len(name)]) + name.encode()) for name in sorted(features)]
    assert places == sorted(places)


def test_batches_follow_the_stateless_order(opened):
    for step, batch in enumerate(take(opened, 5)):
        positions = step * 8 + np.arange(8)
        rows = sample_indices(3, positions, opened.count)
        np.testing.assert_array_equal(batch["landmarks"], loader.read_rows(opened, rows)["landmarks"])
        np.testing.assert_array_equal(batch["position"][:, 1], positions)
        assert batch["image"].shape == (8, 120, 120, 3) and batch["image"].dtype == np.uint8
        assert batch["position"].dtype == np.uint32 and "name" not in batch


@pytest.mark.parametrize("limit", [1, 8, 20])
def test_a_set_cut_to_its_first_faces_draws_from_these_alone(opened, limit):
    """Also where the cut falls inside a shard."""
    whole = loader.read_rows(opened, np.arange(limit))
    batches = take(opened.first(limit), 6, batch_size=4)
    seen = np.concatenate([batch["landmarks"] for batch in batches])
    place = [np.flatnonzero((whole["landmarks"] == row).all(axis=(1, 2))) for row in seen]
    assert all(len(found) == 1 for found in place)
    assert len({int(found[0]) for found in place}) == min(limit, 24)


def test_both_formats_give_the_same_faces(folders):
    arrays, shards = (prepared_dataset.open_prepared(folders / name) for name in ("arrays", "array_record"))
    for one, other in zip(take(arrays, 4), take(shards, 4)):
        for name in ("landmarks", "visible", "yaw_deg", "position"):
            np.testing.assert_array_equal(one[name], other[name])
        assert np.abs(one["image"].astype(int) - other["image"]).mean() < 3.0


def test_images_as_decoded_are_the_same_in_rgb(opened):
    for stored, decoded in zip(take(opened, 3), take(opened, 3, as_decoded=True)):
        if opened.format == "array_record":
            decoded["image"] = decoded.pop("image_rgb")[..., ::-1]
        assert sorted(decoded) == sorted(stored)
        for name in stored:
            np.testing.assert_array_equal(decoded[name], stored[name])


def test_a_late_start_continues_the_same_stream(opened):
    for one, other in zip(take(opened, 6)[4:], take(opened, 2, start_step=4)):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_hosts_get_contiguous_parts_of_the_global_batch(opened):
    whole = take(opened, 3)
    parts = [take(opened, 3, process_index=host, process_count=4) for host in range(4)]
    for step, batch in enumerate(whole):
        for name in batch:
            joined = np.concatenate([parts[host][step][name] for host in range(4)])
            np.testing.assert_array_equal(joined, batch[name])


def test_other_seeds_give_other_batches(opened):
    assert not np.array_equal(take(opened, 1)[0]["yaw_deg"], take(opened, 1, seed=4)[0]["yaw_deg"])


def test_far_steps_split_their_position_into_two_words():
    positions = np.array([0, 2**32 + 5, 2**61])
    np.testing.assert_array_equal(loader.split_position(positions), [[0, 0], [1, 5], [2**29, 0]])


def test_bad_arguments_name_both_numbers(opened):
    with pytest.raises(ValueError, match=r"Batch size \(8\) must be divisible .* \(3\)"):
        loader.batches(opened, batch_size=8, seed=0, process_count=3)
    with pytest.raises(ValueError, match="process_index 2"):
        loader.batches(opened, batch_size=8, seed=0, process_count=2, process_index=2)
    with pytest.raises(ValueError, match=r"no fields \['alpha'\]; it has"):
        loader.batches(opened, batch_size=8, seed=0, fields=["alpha"])


def test_the_arrays_format_needs_no_tensorflow(folders, tmp_path):
    run(f"""
        import sys
        sys.modules["tensorflow"] = None
        from data_pipelines.loading import loader
        from data_pipelines.storage import prepared_dataset as prepared
        from scripts import prepare_data
        stream = loader.batches(prepared.open_prepared({str(folders / "arrays")!r}),
                                batch_size=4, seed=0)
        print(next(stream)["image"].shape)
        assert prepare_data.main(["wild_csv", "--input", "nowhere", "--output", "out"]) == 1
        """)


@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_a_program_that_just_ends_is_not_held_up(folders, format):
    run(f"""
        from data_pipelines.loading import loader
        from data_pipelines.storage import prepared_dataset as prepared
        opened = prepared.open_prepared({str(folders / format)!r})
        streams = [loader.batches(opened, batch_size=8, seed=seed) for seed in range(3)]
        for _ in range(5):
            for stream in streams:
                next(stream)
        """)


def run(program):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], timeout=90, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("at", [20_000, 64_000])  # in a record; where ArrayRecord looks when it opens the file
def test_a_shard_that_changed_stops_with_the_folder_and_the_command_that_names_the_file(folders, tmp_path, at):
    folder = shutil.copytree(folders / "array_record", tmp_path / "set")
    shard = sorted(folder.glob("*.array_record"))[1]
    content = bytearray(shard.read_bytes())
    content[at : at + 3000] = bytes(3000)  # the size stays
    shard.write_bytes(content)
    broken = prepared_dataset.open_prepared(folder)
    with pytest.raises(prepared_dataset.PreparedError, match=rf"{folder}: .*verify --output={folder}"):
        take(broken, 3)
    with pytest.raises(prepared_dataset.PreparedError, match=shard.name):
        prepared_dataset.verify(folder)
