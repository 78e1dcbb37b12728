"""A source over arrays, and batches of a prepared folder."""

import numpy as np

from data_pipelines.loading import loader
from data_pipelines.sources.base import Skip
from tests.helpers_face_files import photo, wild_rows

COUNT = 23


def records():
    """Rows of kind "wild" with smooth images."""
    return wild_rows(COUNT) | {"image": np.stack([photo(120, seed) for seed in range(COUNT)])}


class ArraySource:
    """A `FaceSource` over the rows of {field: [count, ...]}; `skipped(row)` tells which rows are unreadable."""

    margin, description = 0, "rows"

    def __init__(self, kind, rows, skipped=lambda row: False):
        self.kind, self.rows, self.skipped = kind, rows, skipped

    def __len__(self):
        return len(self.rows["name"])

    def fingerprint(self):
        return "rows"

    def faces(self, start, stop):
        for row in range(start, stop):
            face = {name: values[row] for name, values in self.rows.items()}
            face["name"] = str(face["name"])
            yield Skip(face["name"], "unreadable", "on purpose") if self.skipped(row) else face


def take(opened, count, **options):
    """The first `count` batches of 8 faces."""
    stream = loader.batches(opened, **({"batch_size": 8, "seed": 3} | options))
    result = [next(stream) for _ in range(count)]
    stream.close()
    return result
