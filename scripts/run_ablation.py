"""The paper's ablation in one command: trains what is missing, prints Tables II and III and Fig. 10.

    python -m scripts.run_ablation --config=configs/aflw.py --workdir=runs/ablation \\
        --variants=base,ss,sc,ss+sc --weights=4:2:1 --seeds=0,1 -- --config.stage2.steps=1000

Every combination of variant, weight mask, number of wild images and seed is a run of twodal_jax.main in
a folder of its own below --workdir; finished ones are kept, interrupted ones continued. What stands after
`--` goes to every run. Figures are those of each run's held-out set, mean +- standard deviation over seeds.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from configs.variants import ALIASES, VARIANTS, canonical
from scripts import benchmark_cli as cli
from twodal_jax import text_file
from twodal_jax.evaluation import figures, published
from twodal_jax.run_log import write_json

BASELINES = ("3ddfa", "defa")
TITLES = {"plain": "2DAL (base)", "ss": "2DAL (ss)", "sc": "2DAL (sc)", "full": "2DAL (ss+sc)",
          "3ddfa": "3DDFA-style", "defa": "DeFA-style"}  # fmt: skip
MEASURES = {"nme_2d_68": "2D, 68 points", "nme_3d_dense": "3D, all vertices"}
FINISHED = "metrics.json"
COMMAND = "ablation_run.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of the ablation."""

    variant: str
    weights: str
    num_wild: int
    seed: int

    @property
    def folder(self) -> str:
        wild = self.num_wild or "all"
        return f"{self.variant}_w{self.weights.replace(':', '-')}_n{wild}_s{self.seed}"

    def arguments(self, config: str, workdir: pathlib.Path, data_dir: pathlib.Path, extra: Sequence[str]):
        """The command line of twodal_jax.main, without the interpreter."""
        mask = ", ".join(f"{float(part)}" for part in self.weights.split(":"))
        return [
            "-m", "twodal_jax.main", f"--config={config}:{self.variant}", f"--workdir={workdir / self.folder}",
            *([] if self.variant in BASELINES else [f"--config.landmark_mask=({mask})"]),
            f"--config.data.wild.limit={self.num_wild}", f"--config.seed={self.seed}",
            *shared_data(config, data_dir), *extra,
        ]  # fmt: skip


def shared_data(config: str, data_dir: pathlib.Path) -> list[str]:
    """Sets a run would make in its own folder are made once, for all."""
    spec = importlib.util.spec_from_file_location("ablation_config", config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sets = module.get_config().data
    return [f"--config.data.{name}.folder={data_dir / name}" for name in sets if not sets[name].folder]


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.run_ablation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", required=True, help="a config with variants, e.g. configs/aflw.py")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="holds all runs and the tables")
    parser.add_argument("--variants", default="base,ss,sc,ss+sc", help="also 3ddfa and defa, the baselines")
    parser.add_argument("--weights", default="4:2:1", help="weight masks red:pink:yellow, e.g. 4:2:1,2:1:0,1:1:1")
    parser.add_argument("--num_wild", default="0", help="numbers of wild images, 0: all, e.g. 2000,5000,0")
    parser.add_argument("--seeds", default="0", help="e.g. 0,1,2")
    parser.add_argument("extra", nargs="*", help="after --: overrides for every run")
    options = parser.parse_args(arguments)
    options.variants = [canonical(name) for name in options.variants.split(",")]
    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"--variants: unknown {', '.join(unknown)}; known: {', '.join((*VARIANTS, *ALIASES))}")
    options.weights = options.weights.split(",")
    for weights in options.weights:
        parts = weights.split(":")
        if len(parts) != 3 or not all(part.replace(".", "", 1).isdigit() for part in parts):
            parser.error(f"--weights: expected red:pink:yellow such as 4:2:1, got {weights!r}")
    for name in ("num_wild", "seeds"):
        try:
            setattr(options, name, [int(part) for part in getattr(options, name).split(",")])
        except ValueError:
            parser.error(f"--{name}: expected whole numbers with commas, got {getattr(options, name)!r}")
    if not pathlib.Path(options.config).is_file():
        parser.error(f"--config: no such file: {options.config}")
    return options


def planned_runs(options) -> list[Run]:
    """Every combination, each once: weight masks and wild images do not matter to those without them."""
    runs = []
    combinations = itertools.product(options.variants, options.weights, options.num_wild, options.seeds)
    for variant, weights, num_wild, seed in combinations:
        self_supervision, self_critic, _ = VARIANTS[variant]
        weights = weights if self_supervision and variant not in BASELINES else "none"
        num_wild = num_wild if self_supervision or self_critic else 0
        run = Run(variant, "1:1:1" if weights == "none" else weights, num_wild, seed)
        if run not in runs:
            runs.append(run)
    return runs


def train(run: Run, options) -> None:
    """Trains or continues one run, unless it is finished."""
    arguments = run.arguments(options.config, options.workdir, options.workdir / "data", options.extra)
    folder = options.workdir / run.folder
    recorded = folder / COMMAND
    if recorded.is_file() and json.loads(recorded.read_text(encoding="utf-8")) != arguments:
        raise cli.UsageError(
            f"{folder}: was made by another command (see {COMMAND} in it); use another --workdir."
        )
    if (folder / FINISHED).is_file():
        cli.console.print(f"{run.folder}: finished before")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(recorded, arguments)
    cli.console.rule(run.folder)
    finished = subprocess.run([sys.executable, *arguments])
    if finished.returncode:
        raise cli.UsageError(f"{run.folder}: ended with status {finished.returncode}; see above.")


def errors_of(run: Run, workdir: pathlib.Path) -> dict[str, dict[str, float]]:
    """{measure: {"stage 1", "stage 2": mean of bins}} of a finished run; stage 2 is the end.

    With detected landmarks where the variant looks at them, the paper's protocol, else the image alone.
    """
    content = json.loads((workdir / run.folder / FINISHED).read_text(encoding="utf-8"))
    protocols = content["final"]
    protocol = "detected_landmarks" if "detected_landmarks" in protocols else "empty_heatmap"
    found: dict[str, dict[str, float]] = {}
    for stage, name in (("after stage 1", "stage 1"), ("after stage 2", "stage 2")):
        for measure, summary in content["by_stage"].get(stage, {}).get(protocol, {}).items():
            found.setdefault(measure, {})[name] = summary["mean_of_bins"]
    return found


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (0 for one) of what was measured."""
    values = [value for value in values if value is not None]
    if not values:
        return float("nan"), 0.0
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def shown(values: list[float]) -> str:
    mean, deviation = spread(values)
    if np.isnan(mean):
        return "-"
    return f"{mean:.2f}" + (f" ± {deviation:.2f}" if len(values) > 1 else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


class Collected:
    """The errors of all runs, and the tables made of them."""

    def __init__(self, runs: list[Run], workdir: pathlib.Path):
        self.runs = runs
        self.errors = {run: errors_of(run, workdir) for run in runs}

    def values(self, measure: str = "nme_2d_68", stage: str = "stage 2", **chosen) -> list[float]:
        """Of all seeds of the runs with these fields."""
        return [
            self.errors[run][measure][stage]
            for run in self.runs
            if all(getattr(run, name) == value for name, value in chosen.items())
            and stage in self.errors[run].get(measure, {})
        ]

    def of(self, field: str) -> list:
        return list(dict.fromkeys(getattr(run, field) for run in self.runs))

    @property
    def most_wild(self) -> int:
        """The largest number of wild images there is (0: all of them)."""
        return max(self.of("num_wild"), key=lambda number: number or np.inf)

    def overview(self) -> str:
        """Every combination, both stages."""
        rows = []
        for variant, weights, num_wild in dict.fromkeys((r.variant, r.weights, r.num_wild) for r in self.runs):
            chosen = dict(variant=variant, weights=weights, num_wild=num_wild)
            seeds = sum(all(getattr(r, k) == v for k, v in chosen.items()) for r in self.runs)
            cells = [shown(self.values(stage=stage, **chosen)) for stage in ("stage 1", "stage 2")]
            dense = shown(self.values("nme_3d_dense", **chosen))
            rows.append([TITLES[variant], weights, str(num_wild or "all"), *cells, dense, str(seeds)])
        header = ["variant", "weights", "wild images", "stage 1", "stage 2", "3D, all vertices", "seeds"]
        return table(header, rows)

    def table_2(self) -> str:
        """NME by number of wild images, for 2DAL (with its first weight mask) and the baselines; the
        paper's beside it."""
        numbers = sorted(self.of("num_wild"), key=lambda n: n or np.inf)
        rows = []
        for variant in (name for name in self.of("variant") if name in (*BASELINES, "full")):
            mask = next(run.weights for run in self.runs if run.variant == variant)
            chosen = dict(variant=variant, weights=mask)
            rows.append([TITLES[variant], *(shown(self.values(num_wild=n, **chosen)) for n in numbers)])
        theirs = [
            [f"{name} †", *(f"{value:.2f}" for value in row.values())]
            for name, row in published.TABLE_2.items()
        ]
        wild = next(iter(published.TABLE_2.values()))
        return (
            table(["wild images", *(str(n or "all") for n in numbers)], rows) + "\n\n"
            + table(["wild images (paper)", *(f"{n:,}" for n in wild)], theirs)
        )  # fmt: skip

    def table_3(self) -> str:
        """NME of full 2DAL with most wild images by weight mask and stage; the paper's beside it."""
        masks = list(dict.fromkeys(run.weights for run in self.runs if run.variant == "full"))
        chosen = dict(variant="full", num_wild=self.most_wild)
        rows = [
            [stage.capitalize(), *(shown(self.values(stage=stage, weights=m, **chosen)) for m in masks)]
            for stage in ("stage 1", "stage 2")
        ]
        theirs = [
            [f"Stage {i + 1} †", *(f"{row[i]:.2f}" for row in published.TABLE_3.values())] for i in range(2)
        ]
        return table(["weights", *masks], rows) + "\n\n" + table(["weights (paper)", *published.TABLE_3], theirs)

    def save_figures(self, folder: pathlib.Path) -> None:
        """Fig. 10: a bar a variant, by measure and weight mask, with most wild images."""
        for measure, title in MEASURES.items():
            for weights in self.of("weights"):
                values = {
                    TITLES[variant]: spread(found)
                    for variant in self.of("variant")
                    if (found := self._with_mask(measure, variant, weights))
                }
                if values:
                    name = f"ablation_{measure}_w{weights.replace(':', '-')}"
                    heading = f"{title}; weights {weights}"
                    figures.save(figures.bars(values, heading, "NME (%), mean of bins"), folder / name)

    def _with_mask(self, measure, variant, weights):
        """A variant without landmarks has no mask and stands beside all of them."""
        chosen = dict(variant=variant)
        if any(VARIANTS[variant][:2]):  # the others see no wild image
            chosen["num_wild"] = self.most_wild
        found = self.values(measure, weights=weights, **chosen)
        return found or ([] if VARIANTS[variant][0] else self.values(measure, **chosen))


def run_ablation(arguments) -> None:
    options = parse(arguments)
    runs = planned_runs(options)
    for run in runs:
        train(run, options)
    collected = Collected(runs, options.workdir)
    command = cli.command_line("scripts.run_ablation", arguments)
    text = "\n\n".join([
        "# Ablation: NME (%), mean of yaw bins, of each run's held-out set",
        f"    {command}",
        "2D error of 68 landmarks unless said otherwise; detected landmarks in the heatmap where the variant"
        " has one, else the image alone; ± standard deviation over seeds.",
        "## All variants (Fig. 10)", collected.overview(),
        "## Number of wild images (Table II)", collected.table_2(),
        "## Weights of the landmarks (Table III)", collected.table_3(),
        f"† published in {published.SOURCE}.",
    ])  # fmt: skip
    text_file.write(options.workdir / "ablation.md", text + "\n")
    write_json(
        options.workdir / "ablation.json",
        {"command": command,
         "runs": [dataclasses.asdict(run) | {"nme": collected.errors[run]} for run in runs]},
    )  # fmt: skip
    collected.save_figures(options.workdir)
    print(text)


if __name__ == "__main__":
    cli.run(lambda: run_ablation(sys.argv[1:]))
