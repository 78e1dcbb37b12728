"""Batches are a function of (seed, global sample index): late starts are quick, and hosts get disjoint parts."""

import json

import numpy as np
import pytest
from helpers_run import run_python
from helpers_umdfaces import write_umdfaces

from data_pipelines.loading import loader
from data_pipelines.loading.index_shuffle import sample_indices
from data_pipelines.preparation import prepare
from data_pipelines.sources.umdfaces import umdfaces
from data_pipelines.storage import prepared_dataset

SAMPLE, BATCH, SEED = 8_000_000, 64, 5
FIRST_BATCH = """
import json, sys, time
from data_pipelines.loading import loader
from data_pipelines.storage import array_record, prepared_dataset
if sys.argv[2] == "array_record":
    array_record.tensorflow_on_cpu()  # its import is not measured
start = time.process_time()
opened = prepared_dataset.open_prepared(sys.argv[1])
stream = loader.batches(opened, batch_size=64, seed=5, start_step=8_000_000 // 64)
batch = next(stream)
seconds = time.process_time() - start
stream.close()
print(json.dumps([seconds, batch["position"].tolist(), batch["yaw_deg"].tolist()]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("resume")
    write_umdfaces(root / "umd", 150, broken=(11, 90))
    for format in ("arrays", "array_record"):
        prepare.prepare(umdfaces(root / "umd"), root / format, format=format, shards=5)
    return root


@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_the_first_batch_at_sample_8_000_000_takes_less_than_a_second(folders, format):
    """Processor seconds of a fresh process from opening the shards on, which do not depend on the machine's load."""
    process = run_python("-c", FIRST_BATCH, folders / format, format)
    assert process.returncode == 0, process.stderr[-2000:]
    seconds, position, yaw = json.loads(process.stdout)
    assert seconds < 1
    positions = SAMPLE + np.arange(BATCH)
    np.testing.assert_array_equal(np.array(position)[:, 1], positions)
    whole = loader.read_rows(prepared_dataset.open_prepared(folders / format), sample_indices(SEED, positions, 148))
    np.testing.assert_array_equal(yaw, whole["yaw_deg"])


@pytest.mark.parametrize("format", ["arrays", "array_record"])
def test_the_parts_of_all_hosts_are_the_batch_of_a_single_host(folders, format):
    opened = prepared_dataset.open_prepared(folders / format, kind="wild")

    def batch_of(host, hosts):
        stream = loader.batches(
            opened, batch_size=BATCH, seed=SEED, start_step=SAMPLE // BATCH, process_index=host, process_count=hosts
        )
        result = [next(stream) for _ in range(2)]
        stream.close()
        return result

    whole = batch_of(0, 1)
    for hosts in (2, 4):
        parts = [batch_of(host, hosts) for host in range(hosts)]
        for step in range(2):
            for name in whole[step]:
                joined = np.concatenate([part[step][name] for part in parts])
                np.testing.assert_array_equal(joined, whole[step][name], err_msg=name)
