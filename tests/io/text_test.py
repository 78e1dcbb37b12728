"""twodal_jax.io.text: names and labels stay text wherever they are shown, and a broken CSV line costs no other line."""

import csv
import unicodedata

import numpy as np
import pytest
from helpers_report import example_report, Page
from helpers_viewer import grey_photo, head

from data_pipelines.preparation import assemble
from data_pipelines.sources.base import Skip
from twodal_jax.io.text import as_csv_cell, as_html, as_markdown_cell, csv_lines, escape_hidden
from twodal_jax.reporting import benchmark_output, html_report
from twodal_jax.viewer import page as viewer

# Reads as "face_exe.jpg" where bidirectional controls apply; contains ends of a line, a cell, a list and a row, markup,
# and half a surrogate pair.
NASTY = (
    "face_\u202egpj.exe|\n| `x` | <script>alert(1)</script> $\\frac{$ \x1b[2J\u2028 **b** [a](javascript:x) \udcff.jpg"
)
HIDDEN = ("\u202e", "\x1b", "\u2028", "\udcff")


def read_lines(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    return list(csv_lines(path))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_csv_cells_have_their_line_numbers(tmp_path, end):
    content = end.join([b"file,x", b"", b'"a, b.jpg",1', b'"say ""a""",2', b" , "])
    expected = [(1, ["file", "x"], ""), (3, ["a, b.jpg", "1"], ""), (4, ['say "a"', "2"], "")]
    assert read_lines(tmp_path, content) == expected


def test_an_unclosed_quote_breaks_its_own_csv_line_only(tmp_path):
    lines = read_lines(tmp_path, b'file,x\na,1\n"b,2\nc,3\nd,"4\ne,5\n')
    good = {number: cells for number, cells, error in lines if not error}
    assert good == {1: ["file", "x"], 2: ["a", "1"], 4: ["c", "3"], 6: ["e", "5"]}
    assert [number for number, _, error in lines if error] == [3, 5]


def test_a_byte_order_mark_and_invalid_utf_8_do_not_break_a_csv(tmp_path):
    assert read_lines(tmp_path, b"\xef\xbb\xbfa.jpg,1\n") == [(1, ["a.jpg", "1"], "")]
    assert read_lines(tmp_path, b"caf\xe9,1\nb,2\n") == [(1, ["caf\ufffd", "1"], ""), (2, ["b", "2"], "")]


@pytest.mark.parametrize("text", ["plain.jpg", "Fußgänger 顔 (1).jpg", "עברית.png", "a'b\"c&d.jpg", "🙂.jpg"])
def test_ordinary_names_of_any_language_are_unchanged(text):
    assert escape_hidden(text) == text


def test_control_and_invisible_characters_are_escaped():
    every = "".join(map(chr, [*range(0x110), *range(0x2000, 0x2070), 0xFEFF, 0xE0041, *range(0xD800, 0xD810)]))
    shown = escape_hidden(every)
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in shown)
    assert escape_hidden("a\nb\u202ec\U000e0041") == r"a\x0ab\u202ec\U000e0041"
    shown.encode("utf-8")
    assert as_html("\u202e<b a='\"'>") == r"\u202e&lt;b a=&#x27;&quot;&#x27;&gt;"


def results(keys, label, problems=()):
    errors = np.linspace(1, 4, len(keys))
    return benchmark_output.Results(
        name="Faces",
        keys=keys,
        yaw_deg=np.zeros(len(keys)),
        errors={label: {"nme_2d_68": errors}},
        titles={"nme_2d_68": "68 points"},
        about={"nme_2d_68": "box"},
        published={},
        problems=problems,
    )


def test_labels_and_messages_stay_in_their_cells_of_a_markdown_table(tmp_path):
    benchmark_output.write(results([NASTY, "b"], NASTY, [NASTY]), tmp_path, f"--predictions={NASTY}")
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert not any(letter in text for letter in HIDDEN)
    assert "<script" not in text.replace("    --pred", "").split("##", 1)[1]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [len(line.replace("\\\\", "").replace("\\|", "").split("|")) for line in rows]
    assert len(rows) == 3 and len(set(cells)) == 1
    assert text.splitlines()[2].startswith("    --predictions=") and text.count("\n- ") == 1
    with open(tmp_path / "per_image.csv", newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert [len(row) for row in read] == [4] * 3 and not any(letter in row[1] for row in read for letter in HIDDEN)


def test_markdown_signs_are_escaped_in_a_cell():
    assert as_markdown_cell("a|b_c*<i>`x`[y]\\") == r"a\|b\_c\*&lt;i&gt;\`x\`\[y\]" + "\\\\"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1.jpg", "@SUM(A1)", '  =HYPERLINK("http://a")', "\u3000=1"])
def test_a_spreadsheet_evaluates_no_cell(text):
    assert as_csv_cell(text) == f"'{text}"
    assert as_csv_cell(f"a{text}") == f"a{text}"
    assert as_csv_cell(f"\t{text}").startswith("\\x09")


def test_names_in_written_tables_are_not_evaluated(tmp_path):
    benchmark_output.write(results(["=1+1", "b.jpg"], "@me"), tmp_path, "")
    assemble._write_skipped(tmp_path / "skipped.csv", [Skip("=1+1", "corrupt", "-x: cut short")])
    with open(tmp_path / "per_image.csv", newline="", encoding="utf-8") as file:
        assert [row[:2] for row in csv.reader(file)][1:] == [["'@me", "'=1+1"], ["'@me", "b.jpg"]]
    assert assemble.read_skipped(tmp_path / "skipped.csv") == (Skip("'=1+1", "corrupt", "'-x: cut short"),)


def test_a_report_and_a_viewers_page_show_names_as_text(tmp_path):
    face = example_report().examples[0]
    data = example_report(
        title=NASTY,
        notes=[NASTY],
        examples=[type(face)(NASTY, 1.0, 0.0, {NASTY: next(iter(face.pictures.values()))}, NASTY)],
    )
    text = html_report.render(data)
    page = Page(text)
    assert "script" not in page.tags and page.text.count(escape_hidden(NASTY)) >= 4
    shown = viewer.viewer_page([head(name=NASTY, facts={NASTY: NASTY})], grey_photo(), NASTY)
    for whole in (text, shown):
        assert not any(letter in whole for letter in HIDDEN)
        assert "<script>alert(1)" not in whole
    shown.encode("utf-8")
