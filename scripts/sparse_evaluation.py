"""The command behind evaluate_aflw and evaluate_lfpa."""

import argparse
import dataclasses
from collections.abc import Callable

from data_pipelines.test_sets import aflw_lfpa
from scripts import evaluation_cli as cli, terminal
from twodal_jax.evaluation import sparse
from twodal_jax.evaluation.predictions import Predictions
from twodal_jax.reporting import benchmark_output, published_results

USER_ERRORS = (sparse.LandmarkMapError,)


def parse(arguments, module: str, description: str, default_map: str) -> argparse.Namespace:
    parser = cli.make_evaluation_parser(
        module,
        description,
        "the test set's folder",
        "68 detected landmarks a face, pixels of the 120-pixel crop; without them heatmaps are empty",
    )
    parser.add_argument(
        "--landmark_map",
        default=default_map,
        help=f"CSV of landmark,from68,vertex (see twodal_jax.evaluation.sparse); default: our {default_map}",
    )
    return parser.parse_args(arguments)


def predict(label, trained, options, truth, image_of, shown, problems) -> Predictions:
    """Alpha that a checkpoint's network predicts for the test set's crops."""
    faces, skipped = aflw_lfpa.read_faces(
        options.data_dir, truth, image_of, options.detections, authors_mouth=trained.spec.heatmap.authors_mouth
    )
    problems += [f"{label}: {problem}" for problem in skipped]
    source = options.detections and options.detections.name
    shown[label] = cli.describe_inputs(label, trained, faces, source, options, problems)
    return cli.predict_faces(label, trained, faces, truth.keys, truth.roi_box, options.passes)


def evaluate(
    arguments: list[str],
    *,
    module: str,
    description: str,
    read: Callable,
    image_of: Callable,
    default_map: str,
    count: int,
    published_measure: str | None,
) -> None:
    """Reads the test set, predicts and measures its landmarks, and prints and writes the results."""
    options = parse(arguments, module, description, default_map)
    trained, given = cli.load_checkpoints(options), cli.load_predictions(options)
    cli.check_labels(options, [*trained, *given])
    model = cli.load_model(options, trained)
    landmark_map = sparse.read_landmark_map(options.landmark_map, count, model.num_vertices)
    truth, problems = read(options.data_dir)
    shown: dict[str, str] = {}
    methods = {
        label: predict(label, found, options, truth, image_of, shown, problems) for label, found in trained.items()
    }
    errors = {}
    for label, predictions in (methods | given).items():
        with terminal.progress(f"{label}: measuring", len(truth)) as advance:
            errors[label] = sparse.measure(
                sparse.with_landmarks(predictions, model), truth, landmark_map, model, problems, advance
            )
    measured = int(landmark_map.mapped.sum())
    rows = published_results.rows_for(published_measure) if published_measure else []
    results = benchmark_output.Results(
        name=truth.name,
        keys=truth.keys,
        yaw_deg=truth.yaw_deg,
        errors=errors,
        titles={sparse.NME: f"2D, visible landmarks ({measured} of {count} mapped)"},
        about={
            sparse.NME: f"normaliser: {truth.normaliser}; ground truth: annotated landmarks;"
            f" landmark map: {options.landmark_map}"
        },
        published={sparse.NME: [dataclasses.replace(row, measure=sparse.NME) for row in rows]},
        problems=problems,
        shown=shown,
    )
    cli.show_and_write(results, options.output_dir, module, arguments)
