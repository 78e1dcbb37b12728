"""Tables are read in slices; the result does not depend on the slices' size."""

from helpers_umdfaces import write_umdfaces

from data_pipelines.sources import csv_table
from data_pipelines.sources.base import Skip
from data_pipelines.sources.umdfaces import umdfaces
from tests.helpers_face_files import read_all


def test_slices_of_any_size_give_the_same_faces(tmp_path, monkeypatch):
    """Two batches with some broken rows, which fall into different slices."""
    for batch, count in (("first", 7), ("second", 4)):
        write_umdfaces(tmp_path / batch, count)
        (tmp_path / batch / "umdfaces_batch1").rename(tmp_path / batch[0])
    table = tmp_path / "f" / "umdfaces_batch1_ultraface.csv"
    lines = table.read_text().splitlines()
    lines[3], lines[6] = "3,cut short", lines[6].replace("s0/face0005.jpg", "../out.jpg")
    table.write_text("\n".join(lines) + "\n")
    results = []
    for size in (csv_table.SLICE, 1, 2, 3, 11):
        monkeypatch.setattr(csv_table, "SLICE", size)
        source = umdfaces(tmp_path)
        results.append((source.names, source.problems, source.fingerprint(), source.landmarks.shape))
    assert len(source) == 11 and sorted(source.problems) == [2, 5]
    assert all(result == results[0] for result in results)
    names = [face["name"] for face in read_all(source) if not isinstance(face, Skip)]
    assert names == [name for row, name in enumerate(source.names) if row not in (2, 5)]
