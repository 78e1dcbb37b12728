r"""The paper's tables and figures on AFLW2000-3D, for a checkpoint or predictions of any method.

    python -m scripts.evaluate_aflw2000 --data_dir=AFLW2000 --output_dir=out \
        --checkpoint=runs/paper --predictions=theirs:theirs.npz --morphable_model=bfm

`twodal_jax.evaluation.predictions` describes prediction files. The output folder gets metrics.json, tables.md,
per_image.csv, and the figures as PNG and SVG.
"""

import sys

import numpy as np

from data_pipelines.test_sets import aflw2000
from scripts import evaluation_cli as cli, terminal
from twodal_jax.evaluation import metrics, nme_evaluation
from twodal_jax.evaluation.predictions import crop_alpha, Predictions
from twodal_jax.geometry import projection
from twodal_jax.geometry.morphable_model import MorphableModel, same_mesh
from twodal_jax.rendering import drawing, overlay
from twodal_jax.reporting import benchmark_output, paper_figures, published_results

NAME = "AFLW2000-3D"
WRONG_MODEL_NME = 5.0  # per cent; 40 + 10 components of the right model are within 1
SCALE = 3


def parse(arguments):
    parser = cli.make_evaluation_parser(
        "scripts.evaluate_aflw2000",
        __doc__,
        "AFLW2000-3D: name.jpg and name.mat, flat or in images/",
        f"68 detected landmarks a face, pixels of the 120-pixel crop; default: the folder's {aflw2000.DETECTIONS}",
    )
    parser.add_argument("--split", help="only images of this split of annotations.npz")
    parser.add_argument("--no_icp", action="store_true", help="leave reconstruction out, the slowest measure")
    parser.add_argument("--overlays", type=int, default=12, help="faces drawn, best to worst (0: none)")
    return parser.parse_args(arguments)


def misfit(truth, model) -> str:
    """The reason why the meshes of a morphable model have no ground truth here; "" if they have.

    A morphable model other than the set's does not rebuild the true landmarks from the true coefficients.
    """
    known = np.flatnonzero(np.isfinite(truth.alpha).all(axis=1))[:100]
    if not len(known):
        return ""
    rebuilt = nme_evaluation.landmarks_image(model, truth.alpha[known], truth.roi_box[known])
    true = truth.landmarks68[known]
    error = np.nanmedian(metrics.nme(np.asarray(rebuilt)[..., :2], true[..., :2], true))
    if error <= WRONG_MODEL_NME:
        return ""
    return (
        f"the morphable model does not fit this data set: its landmarks for the parameters of the .mat files have an"
        f" error of {error:.1f} % (at most {WRONG_MODEL_NME:.0f} expected). AFLW2000-3D needs the 40 + 10 model of BFM"
        " that comes with 3DDFA (--morphable_model)."
    )


def comparable(
    predictions: Predictions, own: MorphableModel | None, why: str, problems: list[str]
) -> Predictions | None:
    """The part of predictions that needs no common mesh: the 68 landmarks; None if there is none.

    Args:
      predictions: of one method, whose meshes have no ground truth.
      own: the morphable model of a checkpoint's alpha; None for a file of predictions.
      why: the reason, for `problems`.
      problems: receives what is left out.
    """
    if own is not None:
        predictions = nme_evaluation.with_landmarks_only(predictions, own)
    elif predictions.landmarks68 is None:
        problems.append(f"{predictions.label}: not measured: {why}")
        return None
    problems.append(
        f"{predictions.label}: only the 68 landmarks are measured, in 2D and 3D. All vertices and the reconstruction"
        f" are left out: {why}"
    )
    return Predictions(predictions.label, predictions.keys, landmarks68=predictions.landmarks68)


def predict(label, trained, options, truth, shown, problems) -> Predictions:
    """Alpha that a checkpoint's network predicts for the test set's crops."""
    faces, skipped = aflw2000.read_faces(
        options.data_dir,
        truth,
        None if options.heatmap == "empty" else options.detections,
        empty=options.heatmap == "empty",
        authors_mouth=trained.spec.heatmap.authors_mouth,
    )
    problems += [f"{label}: {problem}" for problem in skipped]
    path = options.detections or options.data_dir / aflw2000.DETECTIONS
    source = path.name if path.is_file() else None
    shown[label] = cli.describe_inputs(label, trained, faces, source, options, problems)
    return cli.predict_faces(label, trained, faces, truth.keys, truth.roi_box, options.passes)


def draw(predictions, truth, model, errors, options) -> None:
    """Writes Fig. 5: faces from best to worst."""
    if predictions.vertices is not None and predictions.landmarks68 is None or not options.overlays:
        return
    chosen = metrics.best_to_worst(errors["nme_2d_68"], options.overlays)
    rows = predictions.rows_of([truth.keys[i] for i in chosen], [])
    examples = []
    for i, row, rank in zip(chosen, rows, metrics.rank_names(len(chosen))):
        crop = aflw2000.read_crop(options.data_dir, truth.keys[i], truth.roi_box[i])
        if crop is None:
            continue
        canvas, mesh = drawing.upscale(crop, SCALE), None
        if predictions.landmarks68 is None:
            own = predictions.roi_box
            box = truth.roi_box[i : i + 1] if own is None else own[row : row + 1]
            alpha = crop_alpha(predictions, np.array([row]), box, model.alpha_mean, model.alpha_std)
            points = np.asarray(nme_evaluation.landmarks_image(model, alpha, box))[0]
            vertices = nme_evaluation.vertices_image(model, alpha, box)
            vertices = np.asarray(projection.image_to_crop(vertices, truth.roi_box[i : i + 1]))[0]
            mesh = overlay.draw_mesh(canvas, vertices, model.triangles, scale=SCALE)
        else:
            points = predictions.landmarks68[row]
        on_canvas = [
            drawing.to_canvas(np.asarray(projection.image_to_crop(p[..., :2], truth.roi_box[i])), SCALE)
            for p in (points, truth.landmarks68[i])
        ]
        title = f"{rank}: {errors['nme_2d_68'][i]:.2f} %, yaw {truth.yaw_deg[i]:.0f}°"
        examples.append(
            {"title": title, "image": canvas, "predicted": on_canvas[0], "true": on_canvas[1], "mesh": mesh}
        )
    if examples:
        figure = paper_figures.overlays(examples, f"{NAME}: {predictions.label}")
        paper_figures.save(figure, options.output_dir / f"overlays_{cli.file_name(predictions.label)}")


def evaluate(arguments) -> None:
    options = parse(arguments)
    trained, given = cli.load_checkpoints(options, any_model=True), cli.load_predictions(options)
    cli.check_labels(options, [*trained, *given])
    model = cli.load_model(options, trained, any_model=True)
    with terminal.progress("ground truth") as advance:
        truth, problems = aflw2000.read_ground_truth(
            options.data_dir, split=options.split, progress=lambda done, total: advance(1)
        )
    wrong = misfit(truth, model)
    if wrong and not trained and all(predictions.landmarks68 is None for predictions in given.values()):
        raise terminal.UsageError(wrong[0].upper() + wrong[1:])
    shown: dict[str, str] = {}
    methods = {
        label: predict(label, found, options, truth, shown, problems) for label, found in trained.items()
    } | given
    for label in [label for label in methods if wrong or label in trained]:
        own = trained[label].model if label in trained else None
        if wrong or not same_mesh(own, model):
            why = wrong or "its morphable model is not the one that the ground truth is rebuilt by."
            methods[label] = comparable(methods[label], own, why, problems)
    errors = {}
    for label, predictions in methods.items():
        if predictions is None:
            continue
        with terminal.progress(f"{label}: measuring", len(truth)) as advance:
            errors[label] = nme_evaluation.measure(
                predictions, truth, model, with_icp=not options.no_icp, progress=advance, problems=problems
            )
        if "nme_2d_68" in errors[label]:
            draw(predictions, truth, model, errors[label], options)
    results = benchmark_output.Results(
        name=NAME + (f", split {options.split}" if options.split else ""),
        keys=truth.keys,
        yaw_deg=truth.yaw_deg,
        errors=errors,
        titles=nme_evaluation.TITLES,
        about=benchmark_output.about_measures(truth),
        published={name: published_results.rows_for(name) for name in nme_evaluation.TITLES},
        problems=problems,
        shown=shown,
    )
    cli.show_and_write(results, options.output_dir, "scripts.evaluate_aflw2000", arguments)


if __name__ == "__main__":
    terminal.run(lambda: evaluate(sys.argv[1:]))
