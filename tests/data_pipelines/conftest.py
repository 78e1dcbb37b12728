"""A small prepared data set in both formats."""

import pytest
from helpers_records import ArraySource, records

from data_pipelines.preparation import prepare
from data_pipelines.storage import prepared_dataset


@pytest.fixture(scope="package")
def folders(tmp_path_factory):
    """Prepared folders "arrays" and "array_record" of 23 faces, every seventh skipped."""
    root = tmp_path_factory.mktemp("sets")
    for format in ("arrays", "array_record"):
        source = ArraySource("wild", records(), skipped=lambda row: row % 7 == 6)
        prepare.prepare(source, root / format, format=format, shards=3, max_skipped=0.2)
    return root


@pytest.fixture(params=["arrays", "array_record"])
def opened(folders, request):
    """The opened prepared set, in both formats."""
    return prepared_dataset.open_prepared(folders / request.param)
