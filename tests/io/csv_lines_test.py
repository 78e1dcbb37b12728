"""twodal_jax.io.text.csv_lines: a broken line costs no other line."""

import pytest

from twodal_jax.io.text import csv_lines


def lines(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    return list(csv_lines(path))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_cells_come_with_the_numbers_of_their_lines(tmp_path, end):
    content = end.join([b"file,x", b"", b'"a, b.jpg",1', b'"say ""a""",2', b" , "])
    assert lines(tmp_path, content) == [(1, ["file", "x"], ""), (3, ["a, b.jpg", "1"], ""), (4, ['say "a"', "2"], "")]


def test_a_quote_that_is_never_closed_breaks_its_own_line_alone(tmp_path):
    found = lines(tmp_path, b'file,x\na,1\n"b,2\nc,3\nd,"4\ne,5\n')
    assert [(number, cells) for number, cells, broken in found if not broken] == [
        (1, ["file", "x"]),
        (2, ["a", "1"]),
        (4, ["c", "3"]),
        (6, ["e", "5"]),
    ]
    assert [number for number, _, broken in found if broken] == [3, 5]


def test_a_byte_order_mark_is_no_part_of_the_first_cell(tmp_path):
    assert lines(tmp_path, b"\xef\xbb\xbfa.jpg,1\n") == [(1, ["a.jpg", "1"], "")]


def test_bytes_that_are_no_utf_8_cost_their_own_letters(tmp_path):
    assert lines(tmp_path, b"caf\xe9,1\nb,2\n") == [(1, ["caf\ufffd", "1"], ""), (2, ["b", "2"], "")]
