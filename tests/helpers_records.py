"""A small prepared data set in both formats."""

import numpy as np
import pytest

from data_pipelines.loading import loader
from data_pipelines.preparation import prepare
from data_pipelines.sources.base import Skip
from data_pipelines.storage import prepared_dataset
from tests.helpers_face_files import photo, wild_rows

COUNT = 23


class Rows:
    """A source over arrays; every seventh face is unreadable."""

    kind, margin, description = "wild", 0, "rows"

    def __init__(self, count=COUNT):
        self.rows = wild_rows(count)
        self.rows["image"] = np.stack([photo(120, seed) for seed in range(count)])

    def __len__(self):
        return len(self.rows["name"])

    def fingerprint(self):
        return "rows"

    def faces(self, start, stop):
        for row in range(start, stop):
            face = {name: values[row] for name, values in self.rows.items()}
            face["name"] = str(face["name"])
            yield Skip(face["name"], "seventh", "on purpose") if row % 7 == 6 else face


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for format in ("arrays", "array_record"):
        prepare.prepare(Rows(), root / format, format=format, shards=3, max_skipped=0.2)
    return root


@pytest.fixture(params=["arrays", "array_record"])
def opened(folders, request):
    return prepared_dataset.open_prepared(folders / request.param, kind="wild")


def take(opened, count, **options):
    stream = loader.batches(opened, **({"batch_size": 8, "seed": 3} | options))
    result = [next(stream) for _ in range(count)]
    stream.close()
    return result
