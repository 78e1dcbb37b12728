"""Train the rows of the paper's ablation under equal conditions and write their table.

    python -m scripts.run_ablation --config=configs/aflw.py --workdir=runs/ablation --tune --seeds=0,1,2

Every row, seed and learning rate is a run of twodal_jax.main in its own folder below --workdir, one after the other.
Finished runs are kept and interrupted ones are resumed. ablation.md and ablation.json in --workdir are rewritten after
each run. docs/ablation.md describes the rows and the rules. Flags after `--` are passed to every run.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import ml_collections

from configs.variants import ALIASES, canonical, VARIANTS, WITHOUT_EXTRAS
from scripts import ablation_plan, ablation_table, evaluation_cli as cli, terminal
from scripts.ablation_plan import Row, Run
from scripts.ablation_table import Finished
from scripts.option_types import at_least_one, comma_list
from twodal_jax.evaluation.held_out import DETECTED, EMPTY
from twodal_jax.io.text import write_json, write_text
from twodal_jax.main import with_config_path
from twodal_jax.training import metric_logger

ROWS = "base,base+reproj,ss,sc,ss+sc,no-2d-con,no-3d-con,no-cyc,no-sc,3ddfa,defa"
FINISHED = "metrics.json"
COMMAND = "ablation_run.json"
TUNING_SEED = 0
EXTENSIONS = 3  # number of further rates tried while the best one is the lowest or the highest
NOTES = {
    "same": "All rows see the heatmap of landmarks, which is left empty for half of the training images.",
    "paper": "Each row sees what the paper defines: base, sc and the baselines see the image alone.",
}


def _variant(name: str) -> str:
    if canonical(name) not in VARIANTS or name.endswith(WITHOUT_EXTRAS):
        raise ValueError
    return canonical(name)


def _mask(text: str) -> str:
    if not text:
        return ""
    red, pink, yellow = (f"{float(part):g}" for part in text.split(":"))
    return f"{red}:{pink}:{yellow}"


def _positive(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise ValueError
    return float(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed options; exits with a message where a value is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.run_ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, known = parser.add_argument, ", ".join((*VARIANTS, *ALIASES))
    add("--config", required=True, help="a config with variants, e.g. configs/aflw.py")
    add("--workdir", required=True, type=pathlib.Path, help="folder of all runs and of the table")
    add(
        "--rows",
        default=ROWS,
        type=comma_list(_variant, f"some of {known}"),
        help="variants of configs/variants.py (default: %(default)s)",
    )
    add(
        "--extras",
        default="on,off",
        type=comma_list({"on": True, "off": False}.__getitem__, "on, off or both"),
        help="with and without this project's additions to the paper (default: %(default)s)",
    )
    add(
        "--seeds",
        default="0,1,2",
        type=comma_list(int, "whole numbers"),
        help="an interval needs two; three or more are recommended (default: %(default)s)",
    )
    add("--steps", type=at_least_one, help="of every run, divided as in the config (default: the config's)")
    add("--tune", action="store_true", help="first choose each row's learning rate on validation faces")
    add("--tune_steps", type=at_least_one, help="of every tuning run (default: a third of --steps)")
    add(
        "--rates",
        default="0.333,1,3",
        type=comma_list(_positive, "positive numbers"),
        help="factors of the config's learning rate that --tune tries (default: %(default)s)",
    )
    add("--reference", default="ss+sc", help="row that differences are taken from (default: %(default)s)")
    add(
        "--inputs",
        choices=tuple(NOTES),
        default="same",
        help="same: all rows see the heatmap; paper: each row's own input",
    )
    add(
        "--weights",
        default="",
        type=comma_list(_mask, "masks such as 4:2:1"),
        help="Table III: masks red:pink:yellow, e.g. 4:2:1,1:1:1 (default: the config's)",
    )
    add(
        "--num_wild",
        default="0",
        type=comma_list(int, "whole numbers"),
        help="Table II: numbers of wild images, 0 for all, e.g. 2000,5000,0 (default: %(default)s)",
    )
    add(
        "--beside",
        action="append",
        default=[],
        metavar="[LABEL:]FOLDER",
        help="an output folder of scripts.evaluate_aflw2000, shown below the table",
    )
    add("--dry_run", action="store_true", help="print the plan without training")
    add("--seconds_per_step", type=float, help="for the plan's estimate of time")
    own = list(arguments)
    end = own.index("--") if "--" in own else len(own)
    options = parser.parse_args(own[:end])
    options.extra = own[end + 1 :]
    if canonical(options.reference) not in VARIANTS:
        parser.error(f"--reference: expected one of {known}, got {options.reference!r}")
    options.config = with_config_path(f"--config={options.config}").partition("=")[2]
    if not pathlib.Path(options.config).is_file():
        parser.error(f"--config: no such file: {options.config}")
    return options


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The parsed options, and the plan that follows from the config."""

    options: argparse.Namespace
    full: ml_collections.ConfigDict
    rows: list[Row]
    steps: int
    tune_steps: int

    def arguments(self, run: Run) -> list[str]:
        """The command line of a run."""
        options = self.options
        return ablation_plan.run_arguments(
            run,
            options.config,
            self.full,
            str(options.workdir),
            same_input=options.inputs == "same",
            extra=options.extra,
        )

    def folder(self, run: Run) -> pathlib.Path:
        """The work directory of a run."""
        return self.options.workdir / run.folder

    def is_finished(self, run: Run) -> bool:
        """Whether a run has written its result."""
        return (self.folder(run) / FINISHED).is_file()

    def learning_rate(self, run: Run) -> float:
        """The highest learning rate of a run."""
        config = ablation_plan.load_config(self.options.config, run.row.config_variant)
        return ablation_plan.learning_rate(config, run.factor)

    def tuning_run(self, row: Row, factor: float) -> Run:
        """The run that measures the validation error of a row at one rate."""
        return Run(row, TUNING_SEED, self.tune_steps, factor, tuning=True)

    def final_runs(self, factors: dict[Row, float]) -> list[Run]:
        """The runs of the table, seed by seed, so that it compares all rows early."""
        return [Run(row, seed, self.steps, factors[row]) for seed in self.options.seeds for row in self.rows]


def open_ablation(options: argparse.Namespace) -> Ablation:
    """Reads the config and plans the rows."""
    full = ablation_plan.load_config(options.config, "full")
    steps = options.steps or ablation_plan.total_steps(full)
    rows = ablation_plan.planned_rows(options.rows, options.extras, options.weights, options.num_wild)
    return Ablation(options, full, rows, steps, options.tune_steps or max(steps // 3, 2))


def train(run: Run, ablation: Ablation) -> bool:
    """Trains or resumes a run; returns False where it was finished before.

    Raises:
      UsageError: another command made its folder, or the run ended with an error or by a signal.
    """
    arguments, folder = ablation.arguments(run), ablation.folder(run)
    recorded = folder / COMMAND
    if recorded.is_file() and json.loads(recorded.read_text(encoding="utf-8")) != arguments:
        raise terminal.UsageError(
            f"{folder}: was trained by another command, see {COMMAND}. Give another --workdir, or remove the folder."
        )
    if ablation.is_finished(run):
        terminal.console.print(f"{run.folder}: finished before", highlight=False)
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_json(recorded, arguments)
    terminal.console.rule(run.folder)
    code = _wait_for([sys.executable, *arguments], compiled=ablation.options.workdir.absolute() / ".compiled")
    if code:
        raise terminal.UsageError(
            f"{run.folder}: ended with status {code}, see above. The same command resumes the ablation."
        )
    if not ablation.is_finished(run):
        raise terminal.UsageError(f"{run.folder}: stopped before its end. The same command resumes the ablation.")
    return True


def _wait_for(command: list[str], compiled: pathlib.Path) -> int:
    """Runs a command and returns its exit status; waits for it on SIGINT and SIGTERM too, while it saves its state.

    compiled: cache of compiled programs that all runs share.
    """
    environment = {"JAX_COMPILATION_CACHE_DIR": str(compiled)} | os.environ
    with subprocess.Popen(command, env=environment) as process:
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sends SIGINT to the run too
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)


def validation_error(workdir: pathlib.Path) -> float:
    """The validation error at the end of a run: mean of the yaw bins in per cent, infinite where the run diverged.

    With detected landmarks where the validation faces have them, else with the image alone.
    """
    evaluations = [entry for entry in metric_logger.read_history(workdir) if entry["kind"] == "evaluation"]
    names = [f"validation/{protocol}/mean_of_bins" for protocol in (DETECTED, EMPTY)]
    last = evaluations[-1] if evaluations else {}
    name = next((name for name in names if name in last), None)
    if name is None:
        raise terminal.UsageError(f"{workdir}: its history has no validation error at the end of the run.")
    return float("inf") if last[name] is None else last[name]


def tune_row(factors: Sequence[float], error_of: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The factor with the lowest error, and {factor: error} of all tried.

    While the best factor is the lowest or the highest, a further one is tried, at most EXTENSIONS in all, because the
    optimal rates of SGD and Muon may differ.
    """
    tried = {factor: error_of(factor) for factor in factors}
    for _ in range(EXTENSIONS if len(tried) > 1 else 0):
        ordered = sorted(tried)
        best = min(ordered, key=tried.get)
        if best == ordered[0]:
            further = best * ordered[0] / ordered[1]
        elif best == ordered[-1]:
            further = best * ordered[-1] / ordered[-2]
        else:
            break
        tried[further] = error_of(further)
    return min(sorted(tried), key=tried.get), tried


def tune(ablation: Ablation) -> list[dict]:
    """Trains each row at several rates; returns the argument `tuned` of `ablation_table.text`."""
    found = []
    for row in ablation.rows:

        def error_of(factor: float, row: Row = row) -> float:
            run = ablation.tuning_run(row, factor)
            train(run, ablation)
            return validation_error(ablation.folder(run))

        chosen, tried = tune_row(ablation.options.rates, error_of)
        if tried[chosen] == float("inf"):
            raise terminal.UsageError(f"{row.folder}: no rate gives a measurable validation error; try lower --rates.")
        trials = [
            {
                "factor": factor,
                "learning_rate": ablation.learning_rate(ablation.tuning_run(row, factor)),
                "validation_error": error,
                "folder": ablation.tuning_run(row, factor).folder,
            }
            for factor, error in sorted(tried.items())
        ]
        found.append({"row": row, "steps": ablation.tune_steps, "chosen": chosen, "trials": trials})
    return found


def read_finished(run: Run, ablation: Ablation) -> Finished:
    """The result in a finished run's folder."""
    folder = ablation.folder(run)
    content = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    uses_wild = config["self_supervision"] or config["self_critic"]
    by_measure = {
        measure: {name: found[measure] for name, found in content["final"].items() if measure in found}
        for measure in ("nme_2d_68", "nme_3d_dense")
    }
    return Finished(
        run,
        by_measure["nme_2d_68"],
        by_measure["nme_3d_dense"],
        content["step"],
        (config["batch_annotated"], config["batch_wild"] * uses_wild),
        ablation.learning_rate(run),
    )


def read_beside(arguments: Sequence[str]) -> dict[str, dict]:
    """{label: summary of the 2D NME} of output folders of scripts.evaluate_aflw2000."""
    found = {}
    for argument in arguments:
        label, folder = cli.labelled(argument)
        methods = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["methods"]
        for name, summaries in methods.items():
            found[label if label and len(methods) == 1 else name] = summaries["nme_2d_68"]
    return found


def as_json(value: object) -> object:
    """The value with dataclasses as dicts and infinity as None."""
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if value == float("inf") else value


def write_results(runs: Sequence[Run], tuned: list[dict], ablation: Ablation, command: str) -> str:
    """Writes ablation.md and ablation.json of the finished runs; returns the text."""
    options = ablation.options
    finished = [read_finished(run, ablation) for run in runs if ablation.is_finished(run)]
    reference, beside = canonical(options.reference), read_beside(options.beside)
    text = ablation_table.text(
        finished,
        tuned,
        beside,
        reference=reference,
        reference_name=options.reference,
        planned=len(runs),
        command=command,
        note=NOTES[options.inputs],
    )
    content = {
        "command": command,
        "inputs": options.inputs,
        "reference": reference,
        "planned_runs": len(runs),
        "rows": ablation_table.row_summaries(finished, reference),
        "runs": [{"folder": result.run.folder} | dataclasses.asdict(result) for result in finished],
        "effects": [
            dataclasses.asdict(effect) | {"verdict": effect.verdict} for effect in ablation_table.effects(finished)
        ],
        "tuning": tuned,
        "beside": beside,
    }
    write_text(options.workdir / "ablation.md", text)
    write_json(options.workdir / "ablation.json", as_json(content))
    return text


def plan_text(ablation: Ablation) -> str:
    """The text that --dry_run prints."""
    options = ablation.options
    tuning = [ablation.tuning_run(row, factor) for row in ablation.rows for factor in options.rates if options.tune]
    final = ablation.final_runs(dict.fromkeys(ablation.rows, 1.0))
    runs = [*tuning, *([] if options.tune else final)]
    lines = [f"{run.folder}: {run.steps} steps{', finished' * ablation.is_finished(run)}" for run in runs]
    left = sum(run.steps for run in runs if not ablation.is_finished(run))
    if options.tune:  # the name of a final run's folder contains the rate, which is not chosen yet
        lines += [f"{run.row.folder}, seed {run.seed}, at the chosen rate: {run.steps} steps" for run in final]
        left += sum(run.steps for run in final)
        lines.append(
            f"{len(tuning)} tuning runs (for each row up to {EXTENSIONS} more while its best rate is the lowest or the"
            " highest)"
        )
    lines.append(f"{len(final)} final runs: {len(ablation.rows)} rows, {len(options.seeds)} seeds")
    shown = f"{'about ' * options.tune}{left:,} steps to train"
    if options.seconds_per_step:
        shown += f", about {left * options.seconds_per_step / 3600:.1f} hours"
    return "\n".join([*lines, shown])


def run_ablation(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(arguments)
    ablation = open_ablation(options)
    if options.dry_run:
        print(plan_text(ablation))
        return
    command = cli.command_line("scripts.run_ablation", list(arguments))
    read_beside(options.beside)  # a missing file is reported before anything is trained
    tuned = tune(ablation) if options.tune else []
    factors = dict.fromkeys(ablation.rows, 1.0) | {found["row"]: found["chosen"] for found in tuned}
    runs = ablation.final_runs(factors)
    for run in runs:
        if train(run, ablation):
            write_results(runs, tuned, ablation, command)
    print(write_results(runs, tuned, ablation, command))


if __name__ == "__main__":
    terminal.run(lambda: run_ablation(sys.argv[1:]))
