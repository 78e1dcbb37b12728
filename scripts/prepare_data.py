"""Prepares a source of faces as a folder that training reads.

    python -m scripts.prepare_data mat --input=300W_LP --morphable_model=train.configs --output=data/300w_lp
    python -m scripts.prepare_data umdfaces --input=UMDFaces --output=data/umdfaces
    python -m scripts.prepare_data wild_csv --input=my_faces --output=data/mine --format=arrays
    python -m scripts.prepare_data profile --input=AFLW2000 --morphable_model=train.configs --output=data/profiled
    python -m scripts.prepare_data verify --output=data/mine

Large sets are prepared by several processes with Apache Beam; --runner takes any of its runners. The same command
continues an interrupted run. Unreadable faces are skipped, counted, and listed in the output's skipped.csv.
"""

import argparse
import functools
import os
import shlex
import sys

from rich.console import Console

from data_pipelines.preparation import beam_engine
from data_pipelines.preparation.prepare import EXPECTED_SKIPS, MAX_SKIPPED, prepare, SKIPPED, Summary
from data_pipelines.preparation.progress_bar import preparing
from data_pipelines.sources import registry
from data_pipelines.sources.base import SourceError
from data_pipelines.sources.detected_faces import DETECTORS
from data_pipelines.storage import checksums, prepared_dataset
from data_pipelines.storage.manifest import FORMATS, PreparedError
from scripts.option_types import at_least_one
from twodal_jax.face_models.load import AssetError
from twodal_jax.io.text import escape_hidden

SYNTHETIC = ("synthetic_annotated", "synthetic_wild")
VERIFY = "verify"
SHOWN_SKIPS = 10


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        if args.source in SYNTHETIC:
            return _generate_synthetic(args)
        if args.source == VERIFY:
            return _verify(args, console)
        summary = _prepare(args, console)
    except (SourceError, PreparedError, AssetError, ImportError) as error:
        console.print(f"error: {error}")
        return 1
    except OSError as error:
        console.print(f"error: {error.filename or args.output}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues where it stopped")
        return 130
    _report(summary, console)
    return 0


def _prepare(args: argparse.Namespace, console: Console) -> Summary:
    if not args.input:
        raise SourceError(f"--input is missing: the {registry.SOURCES[args.source]}")
    ready = {"auto": None, "yes": True, "no": False}[args.ready_crops]
    open_source = functools.partial(
        registry.open_source,
        args.source,
        args.input,
        split=args.split,
        morphable_model=args.morphable_model,
        margin=args.margin,
        landmarks=args.landmarks,
        ready=ready,
        pixel_origin=args.pixel_origin,
        detect=args.detect,
        copies=args.copies,
        steps=args.yaw_steps,
        pitch=args.pitch,
        seed=args.seed,
    )
    engine = beam_engine.BeamEngine(args.runner, args.workers, tuple(shlex.split(args.beam_options)))
    source = open_source()
    for note in source.notes:
        console.print(f"{args.input}: {note}", markup=False, highlight=False, soft_wrap=True)
    with preparing(f"{args.source} -> {args.output}", console) as show:
        return prepare(
            source,
            args.output,
            format=args.format,
            shards=args.shards,
            limit=args.limit,
            progress=show,
            max_skipped=args.max_skipped,
            engine=engine,
            open_source=open_source,
        )


def _report(summary: Summary, console: Console) -> None:
    for skip in summary.skips[:SHOWN_SKIPS]:
        console.print(escape_hidden(f"skipped {skip.name}: {skip.reason}: {skip.detail}"))
    if len(summary.skips) > SHOWN_SKIPS:
        console.print(f"... and {len(summary.skips) - SHOWN_SKIPS} more, see {summary.folder / SKIPPED}")
    for reason, count in summary.reasons.items():
        console.print(f"{count:8d} skipped: {reason}")
    if not summary.made:
        console.print(
            f"{summary.folder} exists and was made by the same command: nothing was done, and no image was read."
            " Remove it to prepare it again."
        )
    print(f"{summary.folder}: {summary.count} faces, {len(summary.skips)} skipped")


def _generate_synthetic(args: argparse.Namespace) -> int:
    from data_pipelines.sources import synthetic

    count = args.limit or 2000
    kind = args.source.removeprefix("synthetic_")
    synthetic.generate(args.output, kind=kind, count=count, seed=args.seed, margin=args.margin)
    print(f"{args.output}: {count} faces, 0 skipped")
    return 0


def _verify(args: argparse.Namespace, console: Console) -> int:
    with preparing(f"reading {args.output}", console, unit="B") as show:
        opened = prepared_dataset.verify(args.output, show)
    print(f"{args.output}: {opened.count} faces, {len(opened.manifest[checksums.FILES])} files as prepared")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.prepare_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:14s}{text}" for name, text in registry.SOURCES.items()),
    )
    parser.add_argument(
        "source",
        choices=[*registry.SOURCES, *SYNTHETIC, VERIFY],
        help=f"source of the faces; {VERIFY}: compare a prepared folder with the hashes of its manifest",
    )
    parser.add_argument("--input", help="input of the source, see the list below")
    parser.add_argument("--output", required=True, help="prepared folder")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="array_record",
        help="array_record (default) or arrays, which needs no TensorFlow",
    )
    parser.add_argument("--split", help="mat: a split of annotations.npz; tfds: a tfds split")
    parser.add_argument("--morphable_model", help="model file or folder; needed for .mat files without pt3d_68")
    parser.add_argument(
        "--landmarks",
        help="the landmark CSV or .npz, if the folder has several; umdfaces: 68-point detections (.csv or .npz) that"
        " replace its 21 points; mat: 68-point detections in pixels of the 120-pixel crops (default: fan_landmarks.csv"
        " beside annotations.npz)",
    )
    parser.add_argument(
        "--detect", choices=DETECTORS, help="mat, umdfaces: detect 68 landmarks during preparation (extra [landmarks])"
    )
    parser.add_argument(
        "--ready_crops",
        choices=("auto", "yes", "no"),
        default="auto",
        help="wild_csv, detections: whether images are 120 x 120 crops already",
    )
    parser.add_argument("--shards", type=at_least_one, help="number of shards")
    parser.add_argument("--limit", type=at_least_one, help="use only the first faces; synthetic sources: their number")
    parser.add_argument(
        "--pixel_origin",
        type=float,
        default=0.0,
        help="wild_csv: the table's coordinate of the centre of the first pixel; 1 if it counts from 1",
    )
    parser.add_argument("--margin", type=int, default=20, help="pixels stored around the 120-pixel crop (default 20)")
    parser.add_argument(
        "--max_skipped",
        type=_fraction,
        default=MAX_SKIPPED,
        help=f"stop if more than this fraction of all listed faces is unreadable (default {MAX_SKIPPED});"
        f" faces skipped for {', '.join(EXPECTED_SKIPS)} do not count",
    )
    parser.add_argument(
        "--workers",
        type=at_least_one,
        default=len(os.sched_getaffinity(0)),
        help="processes of the local runner (default: the cores of this machine)",
    )
    parser.add_argument(
        "--runner",
        default=beam_engine.LOCAL,
        help="runner of the Beam pipeline: local (default), or the name of any Beam runner: FlinkRunner, SparkRunner,"
        " DataflowRunner, ...; its workers must see --input and --output under the same paths",
    )
    parser.add_argument("--beam_options", default="", metavar="'--a=b --c'", help="flags passed on to Beam")
    parser.add_argument(
        "--copies", type=at_least_one, default=4, help="profile: turned copies of each face (default 4)"
    )
    parser.add_argument(
        "--yaw_steps",
        type=_angles,
        metavar="15,30,45",
        help="profile: degrees of yaw to add, one copy for each (default: random, up to a yaw of 90)",
    )
    parser.add_argument("--pitch", type=float, default=0.0, help="profile: largest random pitch to add, degrees")
    parser.add_argument("--seed", type=int, default=0, help="seed of synthetic faces and of the turns of profile")
    return parser


def _angles(text: str) -> tuple[float, ...]:
    angles = tuple(float(part) for part in text.split(","))
    if not all(0 <= angle <= 90 for angle in angles):
        raise argparse.ArgumentTypeError(f"must be angles from 0 to 90 degrees, got {text}")
    return angles


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
