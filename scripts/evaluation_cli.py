"""Shared parts of the evaluation commands: options, methods from files and checkpoints, progress, errors."""

import argparse
import contextlib
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

from scripts.option_types import at_least_one
from twodal_jax.checkpointing.manager import CheckpointError
from twodal_jax.checkpointing.trained_model import BEST, LATEST, load, OtherModelError, TrainedModel
from twodal_jax.evaluation import held_out
from twodal_jax.evaluation.predictions import Predictions, PredictionsError, read_predictions
from twodal_jax.face_models.load import AssetError, load_morphable_model
from twodal_jax.geometry.morphable_model import MorphableModel, same_mesh
from twodal_jax.reporting import benchmark_output
from twodal_jax.runtime import xla_flags

console = rich.console.Console(stderr=True)


class UsageError(ValueError):
    """The options do not fit together; the message names what to give."""


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Parser of `python -m module` that prints the description as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def make_evaluation_parser(
    module: str, description: str, data_help: str, detections_help: str
) -> argparse.ArgumentParser:
    """Parser with the data, output, morphable model, predictions and checkpoint options of an evaluation."""
    parser = make_parser(module, description)
    parser.add_argument("--data_dir", required=True, type=pathlib.Path, help=data_help)
    parser.add_argument("--output_dir", required=True, type=pathlib.Path, help="made if missing")
    parser.add_argument("--morphable_model", help="folder or file of the 3DMM, or builtin; default: the checkpoint's")
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="[LABEL:]FILE.npz",
        help="predictions of any method; may be given several times for a comparison",
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="[LABEL:]WORKDIR",
        help="the folder of a run of twodal_jax.main; may be given several times",
    )
    parser.add_argument("--best", action="store_true", help="use each run's best checkpoint, not its last")
    parser.add_argument(
        "--heatmap",
        choices=("detected", "empty"),
        default="detected",
        help="heatmap of a checkpoint's network: of detected landmarks, if there are any, or empty",
    )
    parser.add_argument("--detections", type=pathlib.Path, help=detections_help)
    parser.add_argument("--passes", type=at_least_one, default=1, help="forward passes of a checkpoint's network")
    return parser


def labelled(argument: str) -> tuple[str | None, pathlib.Path]:
    """Splits 'label:path' into (label, path), and 'path' into (None, path)."""
    label, colon, path = argument.partition(":")
    if colon and label and "/" not in label and "\\" not in label and path:
        return label, pathlib.Path(path)
    return None, pathlib.Path(argument)


def file_name(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", label)


def load_checkpoints(options: argparse.Namespace, *, any_model: bool = False) -> dict[str, TrainedModel]:
    """Loads {label: model} of all --checkpoint; the default label of a run is its folder's name.

    `any_model`: load a run with the morphable model of its own config where it was not trained with --morphable_model.
    """
    trained = {}
    for argument in options.checkpoint:
        label, workdir = labelled(argument)
        which = BEST if options.best else LATEST
        try:
            model = load(workdir, morphable_model=options.morphable_model, which=which)
        except OtherModelError:
            if not any_model:
                raise
            model = load(workdir, which=which)
        trained[label or workdir.absolute().name] = model
    return trained


def load_model(
    options: argparse.Namespace, trained: dict[str, TrainedModel], *, any_model: bool = False
) -> MorphableModel:
    """The morphable model of the evaluation: that of --morphable_model or of the first checkpoint.

    Raises UsageError if there is none or, unless `any_model`, if a checkpoint has another one.
    """
    if options.morphable_model:
        return load_morphable_model(options.morphable_model)
    if trained:
        first = next(iter(trained.values())).model
        others = [label for label, other in trained.items() if not same_mesh(other.model, first)]
        if others and not any_model:
            raise UsageError(
                f"{', '.join(others)}: trained with another morphable model than {next(iter(trained))}; evaluate them"
                " separately."
            )
        return first
    raise UsageError("Give --morphable_model: prediction files do not name their morphable model.")


def load_predictions(options: argparse.Namespace) -> dict[str, Predictions]:
    """Reads {label: predictions} of all --predictions."""
    files = [read_predictions(path, label) for label, path in map(labelled, options.predictions)]
    return {predictions.label: predictions for predictions in files}


def check_labels(options: argparse.Namespace, labels: list[str]) -> None:
    """Raises UsageError if there is no method, two have one label, or --detections contradicts --heatmap=empty."""
    if options.detections and options.heatmap == "empty":
        raise UsageError("--detections gives landmarks for heatmaps, --heatmap=empty uses none; omit one of them.")
    if not labels:
        raise UsageError("Give --checkpoint=WORKDIR or --predictions=FILE.npz: there is nothing to evaluate.")
    if len(set(labels)) < len(options.checkpoint) + len(options.predictions):
        raise UsageError("Two methods have the same label; give another one with label:file.")


def command_line(module: str, arguments: list[str]) -> str:
    """The command of an evaluation, for metrics.json."""
    return f"python -m {module} {shlex.join(arguments)}"


def predict_faces(label: str, trained: TrainedModel, faces, keys, roi_box, passes: int) -> Predictions:
    """Alpha that a checkpoint's network predicts for a test set's crops.

    `faces` is a `data_pipelines.test_sets.crops.CroppedFaces`; keys and roi_box are those of all images of the ground
    truth.
    """
    with progress(f"{label}: network", len(faces.rows)) as advance:
        alpha = held_out.predict_alpha(trained, faces.image, faces.detected, faces.detected_visible, passes, advance)
    return Predictions(label, tuple(keys[row] for row in faces.rows), alpha=alpha, roi_box=roi_box[faces.rows])


def describe_inputs(
    label: str, trained: TrainedModel, faces, source: object, options: argparse.Namespace, problems: list[str]
) -> str:
    """Describes, for the tables, the heatmaps of a checkpoint's network; adds a problem if landmarks are missing.

    `faces` is a `data_pipelines.test_sets.crops.CroppedFaces`; `source` is the name of the landmarks' file, or None.
    """
    if not trained.spec.heatmap.enabled:
        return "the crops alone: it was trained without heatmaps"
    known, count = int((faces.detected_visible > 0).any(axis=1).sum()), len(faces.rows)
    if known:
        rest = "" if known == count else ", empty for the rest"
        return f"heatmaps of detected landmarks ({source}) for {known} of {count} faces{rest}"
    if options.heatmap == "empty":
        return "empty heatmaps"
    why = f"{source} has landmarks of none of the faces" if source else "no landmarks were given (--detections=FILE)"
    problems.append(f"{label}: {why}, so every heatmap was empty; the paper shows those of a detector")
    return f"empty heatmaps: {why}"


def show_and_write(results: benchmark_output.Results, folder: pathlib.Path, module: str, arguments: list[str]) -> None:
    """Prints the tables of an evaluation and writes its files into the folder."""
    benchmark_output.print_tables(results, console)
    benchmark_output.write(results, folder, command_line(module, arguments))
    console.print(f"Written to {folder}")


@contextlib.contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar, or without a terminal a line every 10 %; yields `advance(count)`."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        printed = 0

        def advance(count: int) -> None:
            nonlocal printed
            bar.advance(task, count)
            done = int(bar.tasks[0].completed)
            if total and not console.is_terminal and 10 * done // total > 10 * printed // total:
                console.print(f"{description}: {done}/{total}", markup=False, highlight=False)
                printed = done

        yield advance


def run(
    main: Callable[[], None],
    *user_errors: type[Exception],
    interrupted: Callable[[], str] = lambda: "Interrupted. Files written before are complete.",
) -> None:
    """Runs a command. Errors that a user can fix, and `user_errors`, are one message and exit status 1.

    After Ctrl-C the message is `interrupted()` and the exit status 130.
    """
    from data_pipelines.sources.base import SourceError

    xla_flags.keep_compiled()
    known = (UsageError, PredictionsError, CheckpointError, AssetError, SourceError, OSError, *user_errors)
    try:
        main()
    except known as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print(interrupted(), markup=False, highlight=False, soft_wrap=True)
        sys.exit(130)
