"""All tables, each in its own process, and a summary of all bars.

    python -m benchmarks.all [--quick] [--only=train_step,vertex_distance] [--output=benchmarks.json]
                             [--page=docs/benchmarks.md]

Takes up to an hour on two cores, most of it for compiling. `--quick` takes fewer rounds and sizes. The exit status is
1 where a table failed. A missed bar is reported and is no error: on a busy machine some are missed.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.timing import Row, table
from twodal_jax.io.text import write_text

TABLES = (
    "train_step",
    "two_dal_step",
    "input_pipeline",
    "vertex_distance",
    "dense_faces",
    "evaluation_speed",
    "start_up",
    "huge_pages",
    "devices_speed",
    "paper_run",
)

PAGE_HEAD = """# Benchmarks

Written by `python -m benchmarks.all --page=docs/benchmarks.md`, after `pip install -r requirements-benchmarks.txt`.
Jobs that are compared run in turn. A time is the median of the rounds, a ratio the median of the rounds' ratios.
[scaling.md](scaling.md) has the cost of a whole run.
"""


def run_table(name: str, quick: bool, folder: pathlib.Path) -> dict | None:
    """Runs the command of one table, prints its output and returns its JSON; None where it failed."""
    path = folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--json={path}", *(["--quick"] if quick else [])]
    print(f"\n$ {' '.join(['python', *command[1:3], *command[4:]])}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code or not path.is_file():
        print(f"{name} failed with status {code}", flush=True)
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def bars(results: dict[str, dict]) -> list[Row]:
    """The rows that have a bar, each named together with the row it belongs to."""
    found = []
    for name, result in results.items():
        title = ""
        for row in result["rows"]:
            title = row["name"] if not row["name"].startswith("  ") else title
            fields = {key: value for key, value in row.items() if key != "verdict"}
            if row["bar"] is not None:
                whole = row["name"] if title == row["name"] else f"{title}:{row['name'][1:]}"
                found.append(Row(**fields | {"name": f"{name}: {whole}", "note": ""}))
    return found


def page(results: dict[str, dict], summary: str) -> str:
    """The text of docs/benchmarks.md: results, machine and command of every table."""
    parts = [PAGE_HEAD, "## Bars\n", f"```\n{summary}\n```\n"]
    for name, result in results.items():
        rows = [Row(**{key: value for key, value in row.items() if key != "verdict"}) for row in result["rows"]]
        shown = table("", rows).strip("\n")
        parts += [f"## {result['title']}\n", f"`python -m benchmarks.{name}`, {result['machine']}:\n"]
        parts.append(f"```\n{shown}\n```\n")
    return "\n".join(parts)


def write(results: dict[str, dict], output: pathlib.Path, page_path: pathlib.Path | None) -> None:
    """Writes the rows as JSON and, with `page_path`, as a page."""
    write_text(output, json.dumps(results, indent=1))
    if page_path:
        write_text(page_path, page(results, table("", bars(results)).strip("\n")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(TABLES))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmarks.json"))
    parser.add_argument("--page", type=pathlib.Path, help="Markdown page to write")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := sorted(set(names) - set(TABLES)):
        parser.error(f"unknown tables {', '.join(unknown)}; there are {', '.join(TABLES)}")
    start, results = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if (result := run_table(name, options.quick, pathlib.Path(folder))) is not None:
                results[name] = result
            write(results, options.output, options.page)  # after each table: an interrupted run keeps its results
    print(f"\n{table('Bars', bars(results))}\n{time.perf_counter() - start:.0f} s in all; written to {options.output}")
    sys.exit(len(results) < len(names))


if __name__ == "__main__":
    main()
