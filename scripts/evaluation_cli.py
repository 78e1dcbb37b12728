"""What the evaluation commands share: options, methods from files and checkpoints, progress, failing."""

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
from twodal_jax.checkpointing.trained_model import BEST, LATEST, load, TrainedModel
from twodal_jax.evaluation import held_out
from twodal_jax.evaluation.predictions import Predictions, PredictionsError, read_predictions
from twodal_jax.face_models.load import AssetError, load_morphable_model
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.reporting import benchmark_output
from twodal_jax.runtime import xla_flags

console = rich.console.Console(stderr=True)


class UsageError(ValueError):
    """The options do not go together; the message says what to give."""


def add_method_options(parser: argparse.ArgumentParser, data_help: str, detections_help: str) -> None:
    """--data_dir, --output_dir, --morphable_model, --predictions, --checkpoint and how to run it."""
    parser.add_argument("--data_dir", required=True, type=pathlib.Path, help=data_help)
    parser.add_argument("--output_dir", required=True, type=pathlib.Path, help="made if missing")
    parser.add_argument("--morphable_model", help="folder or file of the 3DMM, or builtin; default: the checkpoint's")
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="[LABEL:]FILE.npz",
        help="anybody's predictions; several make a comparison",
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
        help="what a checkpoint's network is shown: detected landmarks where there are any, or none",
    )
    parser.add_argument("--detections", type=pathlib.Path, help=detections_help)
    parser.add_argument("--passes", type=at_least_one, default=1, help="forward passes of a checkpoint's network")


def labelled(argument: str) -> tuple[str | None, pathlib.Path]:
    """'label:path' -> (label, path); 'path' -> (None, path)."""
    label, colon, path = argument.partition(":")
    if colon and label and "/" not in label and "\\" not in label and path:
        return label, pathlib.Path(path)
    return None, pathlib.Path(argument)


def file_name(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", label)


def load_checkpoints(options: argparse.Namespace) -> dict[str, TrainedModel]:
    """{label: model}; the label of a run is its folder's name."""
    trained = {}
    for argument in options.checkpoint:
        label, workdir = labelled(argument)
        which = BEST if options.best else LATEST
        found = load(workdir, morphable_model=options.morphable_model, which=which)
        trained[label or workdir.absolute().name] = found
    return trained


def load_model(options: argparse.Namespace, trained: dict[str, TrainedModel]) -> MorphableModel:
    """The morphable model everything is measured with."""
    if options.morphable_model:
        return load_morphable_model(options.morphable_model)
    if trained:
        return next(iter(trained.values())).model
    raise UsageError("Give --morphable_model: the predictions do not say which one they are meant for.")


def load_predictions(options: argparse.Namespace) -> dict[str, Predictions]:
    """{label: predictions} of all --predictions."""
    found = [read_predictions(path, label) for label, path in map(labelled, options.predictions)]
    return {predictions.label: predictions for predictions in found}


def check_labels(options: argparse.Namespace, labels: list[str]) -> None:
    """Something to measure, no two under one name, and no landmarks for a heatmap that shows none."""
    if options.detections and options.heatmap == "empty":
        raise UsageError("--detections gives landmarks to show, --heatmap=empty shows none; leave one of them away.")
    if not labels:
        raise UsageError("Give --checkpoint=WORKDIR or --predictions=FILE.npz: there is nothing to measure.")
    if len(set(labels)) < len(options.checkpoint) + len(options.predictions):
        raise UsageError("Two methods have one name; tell them apart with label:file.")


def command_line(module: str, arguments: list[str]) -> str:
    """What was run, for metrics.json."""
    return f"python -m {module} {shlex.join(arguments)}"


def predict_faces(label: str, trained: TrainedModel, faces, truth, passes: int) -> Predictions:
    """The coefficients a checkpoint's network gives a benchmark's crops (`data_pipelines.test_sets.crops.CroppedFaces`)."""
    with progress(f"{label}: network", len(faces.rows)) as advance:
        alpha = held_out.predict_alpha(trained, faces.image, faces.detected, faces.detected_visible, passes, advance)
    keys = tuple(truth.keys[row] for row in faces.rows)
    return Predictions(label, keys, alpha=alpha, roi_box=truth.roi_box[faces.rows])


def what_was_shown(
    label: str, trained: TrainedModel, faces, source: object, options: argparse.Namespace, problems: list[str]
) -> str:
    """What a checkpoint's network saw besides the crops, for the tables; a note where it was asked for more.

    faces: a `data_pipelines.test_sets.crops.CroppedFaces`. source: name of the landmarks' file, None where there is none.
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
    """The end of every evaluation: tables on the screen, files in the folder."""
    benchmark_output.print_tables(results, console)
    benchmark_output.write(results, folder, command_line(module, arguments))
    console.print(f"Written to {folder}")


@contextlib.contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar; yields `advance(count)`. Without a terminal: a line every tenth."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        said = 0

        def advance(count: int) -> None:
            nonlocal said
            bar.advance(task, count)
            done = int(bar.tasks[0].completed)
            if total and not console.is_terminal and 10 * done // total > 10 * said // total:
                console.print(f"{description}: {done}/{total}", markup=False, highlight=False)
                said = done

        yield advance


def run(
    main: Callable[[], None],
    *user_errors: type[Exception],
    interrupted: Callable[[], str] = lambda: "Interrupted. What was written before is whole.",
) -> None:
    """Runs a command; what a user can mend (also errors of `user_errors`) is one message and exit status 1.

    interrupted: what to say after Ctrl-C; the exit status is then 130.
    """
    from data_pipelines.sources.base import SourceError

    xla_flags.set_cpu_flags()
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
