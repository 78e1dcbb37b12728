"""File names and labels from untrusted sources stay text, without active hidden characters, wherever they are shown."""

import csv
import unicodedata

import numpy as np
import pytest
from helpers_report import example_report, Page
from helpers_viewer import grey_photo, head

from data_pipelines.preparation import assemble
from data_pipelines.sources.base import Skip
from twodal_jax.io.text import as_csv_cell, as_html, as_markdown_cell, escape_hidden
from twodal_jax.reporting import benchmark_output, html_report
from twodal_jax.viewer import page as viewer

# Displayed as "face_exe.jpg" where bidi controls are active; ends a line, a table cell, a list item and a row; contains
# half a surrogate pair.
HOSTILE = (
    "face_\u202egpj.exe|\n| `x` | <script>alert(1)</script> $\\frac{$ \x1b[2J\u2028 **b** [a](javascript:x) \udcff.jpg"
)
HIDDEN = ("\u202e", "\x1b", "\u2028", "\udcff")


@pytest.mark.parametrize("text", ["plain.jpg", "Fußgänger 顔 (1).jpg", "עברית.png", "a'b\"c&d.jpg", "🙂.jpg"])
def test_ordinary_names_in_any_language_are_unchanged(text):
    assert escape_hidden(text) == text


def test_hidden_characters_are_escaped():
    text = "".join(map(chr, [*range(0x110), *range(0x2000, 0x2070), 0xFEFF, 0xE0041, *range(0xD800, 0xD810)]))
    escaped = escape_hidden(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in escaped)
    assert escape_hidden("a\nb\u202ec\U000e0041") == r"a\x0ab\u202ec\U000e0041"
    escaped.encode("utf-8")
    assert as_html("\u202e<b a='\"'>") == r"\u202e&lt;b a=&#x27;&quot;&#x27;&gt;"


def results(keys, label, problems=()):
    return benchmark_output.Results(
        name="Faces",
        keys=keys,
        yaw_deg=np.zeros(len(keys)),
        errors={label: {"nme_2d_68": np.linspace(1, 4, len(keys))}},
        titles={"nme_2d_68": "68 points"},
        about={"nme_2d_68": "box"},
        published={},
        problems=problems,
    )


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_hostile_labels_and_messages_stay_in_their_markdown_and_csv_cells(tmp_path):
    benchmark_output.write(results([HOSTILE, "b"], HOSTILE, [HOSTILE]), tmp_path, f"--predictions={HOSTILE}")
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert not any(letter in text for letter in HIDDEN) and "<script" not in text.split("##", 1)[1]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [len(line.replace("\\\\", "").replace("\\|", "").split("|")) for line in rows]
    assert len(rows) == 3 and len(set(cells)) == 1
    assert text.splitlines()[2].startswith("    --predictions=") and text.count("\n- ") == 1
    rows = read_csv(tmp_path / "per_image.csv")
    assert [len(row) for row in rows] == [4] * 3 and not any(letter in row[1] for row in rows for letter in HIDDEN)


def test_markdown_markup_in_a_cell_is_escaped():
    assert as_markdown_cell("a|b_c*<i>`x`[y]\\") == r"a\|b\_c\*&lt;i&gt;\`x\`\[y\]" + "\\\\"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1.jpg", "@SUM(A1)", '  =HYPERLINK("http://a")', "\u3000=1"])
def test_a_spreadsheet_evaluates_no_name(text):
    assert as_csv_cell(text) == f"'{text}"
    assert as_csv_cell(f"a{text}") == f"a{text}"
    assert as_csv_cell(f"\t{text}").startswith("\\x09")


def test_csv_files_contain_no_formulas(tmp_path):
    benchmark_output.write(results(["=1+1", "b.jpg"], "@me"), tmp_path, "")
    assert [row[:2] for row in read_csv(tmp_path / "per_image.csv")[1:]] == [["'@me", "'=1+1"], ["'@me", "b.jpg"]]
    assemble._write_skipped(tmp_path / "skipped.csv", [Skip("=1+1", "corrupt", "-x: cut short")])
    assert assemble.read_skipped(tmp_path / "skipped.csv") == (Skip("'=1+1", "corrupt", "'-x: cut short"),)


def test_html_pages_show_hostile_names_as_text_without_hidden_characters():
    face = example_report().examples[0]
    picture = next(iter(face.pictures.values()))
    example = html_report.Example(HOSTILE, 1.0, 0.0, {HOSTILE: picture}, HOSTILE)
    report = html_report.render(example_report(title=HOSTILE, notes=[HOSTILE], examples=[example]))
    page = Page(report)
    assert "script" not in page.tags and page.text.count(escape_hidden(HOSTILE)) >= 4
    viewer_page = viewer.viewer_page([head(name=HOSTILE, facts={HOSTILE: HOSTILE})], grey_photo(), HOSTILE)
    for text in (report, viewer_page):
        assert not any(letter in text for letter in HIDDEN) and "<script>alert(1)" not in text
        text.encode("utf-8")
