"""Tables are read in slices, which nothing that is read depends on."""

from helpers_umdfaces import write_umdfaces

from data_pipelines.sources import csv_table
from data_pipelines.sources.base import Skip
from data_pipelines.sources.umdfaces import umdfaces


def test_tables_are_read_alike_in_slices_of_any_size(tmp_path, monkeypatch):
    """Two batches whose rows, some of them broken, fall into the slices in other ways."""
    for batch, count in (("first", 7), ("second", 4)):
        write_umdfaces(tmp_path / batch, count)
        (tmp_path / batch / "umdfaces_batch1").rename(tmp_path / batch[0])
    table = tmp_path / "f" / "umdfaces_batch1_ultraface.csv"
    lines = table.read_text().splitlines()
    lines[3], lines[6] = "3,cut short", lines[6].replace("s0/face0005.jpg", "../out.jpg")
    table.write_text("\n".join(lines) + "\n")
    found = []
    for size in (csv_table.SLICE, 1, 2, 3, 11):
        monkeypatch.setattr(csv_table, "SLICE", size)
        source = umdfaces(tmp_path)
        found.append((source.names, source.problems, source.fingerprint(), source.landmarks.shape))
    assert len(source) == 11 and sorted(source.problems) == [2, 5]
    assert all(one == found[0] for one in found)
    names = [face["name"] for face in source.faces(0, len(source)) if not isinstance(face, Skip)]
    assert names == [name for row, name in enumerate(source.names) if row not in (2, 5)]
