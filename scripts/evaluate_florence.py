"""Reconstruction error on Florence (Fig. 7b): renders each scan in the protocol's poses, then measures.

    python -m scripts.evaluate_florence --data_dir=Florence --output_dir=out --checkpoint=runs/paper

The folder holds a folder for each subject with its mesh (.obj or .wrl, y up, facing +z). Renderings are
written to OUTPUT_DIR/renders as SUBJECT_pPITCH_yYAW.png; other methods run on them and hand in an .npz with
`name` and `vertices` (pixels of the rendering) or `alpha` with `roi_box`. An optional landmarks.csv in the
folder (subject, x36, y36, z36, x45, y45, z45) gives the outer eye corners; where it does not, they are found by
fitting the morphable model to the scan, once for all methods; so meshes of any topology can be measured.
metrics.json has each subject's distance between them, and where it is from.
"""

import argparse
import collections
import csv
import dataclasses
import pathlib
import sys

import numpy as np

from data_pipelines.sources import detections
from data_pipelines.sources.base import SkipFace, SourceError, to_18_landmarks
from data_pipelines.test_sets import mesh_scans
from data_pipelines.test_sets.crops import CroppedFaces
from scripts import evaluation_cli as cli
from twodal_jax.evaluation import held_out, icp, nme_evaluation, scan_eyes, scan_protocol
from twodal_jax.evaluation.predictions import crop_alpha, listed, Predictions
from twodal_jax.geometry import projection
from twodal_jax.io.images import crop_face
from twodal_jax.reconstruction.outputs import write_picture
from twodal_jax.rendering import overlay, shading
from twodal_jax.reporting import benchmark_output

CORNERS = ("x36", "y36", "z36", "x45", "y45", "z45")
ABOUT = (
    "normaliser: 3D outer interocular distance of the scan ({normaliser}); ground truth: the scan, after rigid ICP;"
    " mean distance of the predicted vertices to their nearest scan points"
)
MARKED, FITTED = "landmarks.csv", "fitted morphable model"


@dataclasses.dataclass(frozen=True)
class Rendering:
    """One picture of a subject."""

    key: str
    subject: str
    yaw: float
    camera: scan_protocol.Camera
    roi_box: np.ndarray


def positive(text: str) -> float:
    """The type of an option that is a length."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {value}")
    return value


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evaluate_florence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_method_options(
        parser,
        "a folder for each subject, with its mesh",
        "68 detected landmarks of each rendering (by its file name), its pixels; without them heatmaps are empty",
    )
    parser.add_argument(
        "--protocol",
        choices=tuple(scan_protocol.PROTOCOLS),
        default="paper",
        help="poses: the paper's text, or those of VRN's author (they differ)",
    )
    parser.add_argument(
        "--face_radius",
        type=positive,
        default=scan_protocol.FACE_RADIUS_MM,
        help="of the face around the nose tip, in the scans' unit (millimetres)",
    )
    parser.add_argument("--render_only", action="store_true", help="make the renderings and stop")
    return parser.parse_args(arguments)


def read_corners(folder: pathlib.Path) -> dict[str, float]:
    """{subject: 3D outer interocular distance} of landmarks.csv; empty without the file."""
    path = folder / "landmarks.csv"
    if not path.is_file():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        points = {row["subject"]: np.array([float(row[name]) for name in CORNERS]) for row in rows}
    except (KeyError, ValueError, TypeError, csv.Error) as error:  # TypeError: a short line; ValueError: no UTF-8
        raise SourceError(f"{path}: needs the columns subject, {', '.join(CORNERS)} ({error})") from None
    return {subject: float(np.linalg.norm(p[:3] - p[3:])) for subject, p in points.items()}


def read_scans(folder: pathlib.Path, problems: list[str]) -> dict[str, mesh_scans.Scan]:
    """{subject: scan}; unreadable ones are named in `problems`."""
    found = {}
    for subject, path in mesh_scans.list_scans(folder).items():
        try:
            found[subject] = mesh_scans.read_scan(path)
        except SkipFace as skip:
            problems.append(f"{subject}: left out: {skip.reason} ({skip.detail})")
    if not found:
        raise SourceError(f"{folder}: no scan could be read.\n" + "\n".join(problems))
    return found


def plan(found: dict[str, mesh_scans.Scan], options) -> list[Rendering]:
    """Every picture of the protocol."""
    renderings = []
    for subject, scan in found.items():
        for pitch, yaw in scan_protocol.poses(options.protocol):
            camera = scan_protocol.make_camera(scan.vertices, pitch, yaw, options.face_radius)
            box = scan_protocol.roi_box(scan.vertices, camera, options.face_radius)
            renderings.append(Rendering(f"{subject}_p{pitch:+.0f}_y{yaw:+.0f}", subject, yaw, camera, box))
    return renderings


def render(rendering: Rendering, scan: mesh_scans.Scan) -> np.ndarray:
    """The picture, BGR uint8 [450, 450, 3], on grey."""
    points = rendering.camera.project(scan.vertices).astype(np.float32)
    size = scan_protocol.IMAGE_SIZE
    image, _ = shading.render(
        points,
        np.asarray(scan.triangles, np.int32),
        scan.colours,
        size,
        size,
        light=overlay.HEAD_LIGHT,
        background=np.full((size, size, 3), 0.5, np.float32),
    )
    return np.round(255.0 * image).astype(np.uint8)


def shown_faces(renderings, pictures, detected: pathlib.Path | None, authors_mouth: bool) -> CroppedFaces:
    """What a network is shown: crops, and the landmarks of a detections file in pixels of the renderings."""
    boxes = np.stack([rendering.roi_box for rendering in renderings])
    crops = np.stack([crop_face(picture, box, margin=0) for picture, box in zip(pictures, boxes)])
    found = detections.detections_by_stem(detected) if detected else {}
    nothing = np.full((detections.NUM_POINTS, 2), np.nan, np.float32)
    points = np.stack([found.get(rendering.key, nothing) for rendering in renderings])
    points = np.asarray(projection.image_to_crop(points, boxes))
    landmarks, visible = to_18_landmarks(points, np.isfinite(points).all(axis=-1), authors_mouth=authors_mouth)
    return CroppedFaces(np.arange(len(renderings)), crops, landmarks, visible)


def predict(label, trained, renderings, pictures, options, shown, problems) -> Predictions:
    """The coefficients a checkpoint's network gives the renderings."""
    faces = shown_faces(renderings, pictures, options.detections, trained.spec.heatmap.authors_mouth)
    source = options.detections and options.detections.name
    shown[label] = cli.what_was_shown(label, trained, faces, source, options, problems)
    with cli.progress(f"{label}: network", len(faces.rows)) as advance:
        alpha = held_out.predict_alpha(
            trained, faces.image, faces.detected, faces.detected_visible, options.passes, advance
        )
    boxes = np.stack([rendering.roi_box for rendering in renderings])
    return Predictions(label, tuple(r.key for r in renderings), alpha=alpha, roi_box=boxes)


def interocular_distances(targets, corners, model, radius: float, problems) -> dict[str, tuple[float, str]]:
    """{subject: (3D outer interocular distance in the scan's unit, where it is from)}; one for all methods.

    NaN, and a message in `problems`, where no face could be fitted.
    """
    found = {}
    with cli.progress("eye corners", len(targets)) as advance:
        for subject, target in targets.items():
            distance, source = corners.get(subject, 0.0), MARKED
            if not 0 < distance < np.inf:
                distance, source = scan_eyes.interocular_distance(model, target, radius), FITTED
            if not 0 < distance < np.inf:
                problems.append(
                    f"{subject}: not measured: no face could be fitted to the scan to find its eye"
                    " corners; give them in landmarks.csv"
                )
                distance = np.nan
            found[subject] = distance, source
            advance(1)
    return found


def about(interocular: dict[str, tuple[float, str]]) -> str:
    """What the numbers are, with how many subjects' normaliser is from where."""
    counts = collections.Counter(source for _, source in interocular.values())
    said = (f"{source} for {count} of {len(interocular)} subjects" for source, count in counts.items())
    return ABOUT.format(normaliser=", ".join(said))


def meshes(predictions: Predictions, renderings, model, problems):
    """Yields (index of the rendering, vertices [M, 3] in its pixels)."""
    rows = predictions.rows_of([r.key for r in renderings], problems)
    if predictions.vertices is not None:
        place = {row: i for i, row in enumerate(rows) if row >= 0}
        for start, block in predictions.vertices.batches(nme_evaluation.BATCH):
            for offset, vertices in enumerate(block):
                if start + offset in place:
                    yield place[start + offset], vertices.T
        return
    if predictions.alpha is None:
        raise cli.UsageError(f"{predictions.label}: Florence needs `vertices` or `alpha`.")
    for i in np.flatnonzero(rows >= 0):
        own = predictions.roi_box
        box = renderings[i].roi_box if own is None else own[rows[i]]
        alpha = crop_alpha(predictions, rows[i : i + 1], box[None], model.alpha_mean, model.alpha_std)
        yield i, np.asarray(nme_evaluation.vertices_image(model, alpha, box[None]))[0]


def measure(predictions, renderings, targets, interocular, model, problems) -> np.ndarray:
    """Error [n] in per cent; NaN where not measured."""
    errors = np.full(len(renderings), np.nan)
    with cli.progress(f"{predictions.label}: ICP", len(renderings)) as advance:
        for i, vertices in meshes(predictions, renderings, model, problems):
            rendering = renderings[i]
            if np.isfinite(vertices).all():
                errors[i] = scan_protocol.reconstruction_error(
                    vertices, rendering.camera, targets[rendering.subject], interocular[rendering.subject][0]
                )
            advance(1)
    missing = [r.key for r, error in zip(renderings, errors) if np.isnan(error)]
    if missing:
        problems.append(
            f"{predictions.label}: {listed(missing)}: not measured (no prediction, no normaliser, or a value that is"
            " not finite)"
        )
    return errors


def evaluate(arguments) -> None:
    options = parse(arguments)
    problems: list[str] = []
    trained, given = cli.load_checkpoints(options), cli.load_predictions(options)
    if not options.render_only:
        cli.check_labels(options, [*trained, *given])
        model = cli.load_model(options, trained)
    found = read_scans(options.data_dir, problems)
    corners = read_corners(options.data_dir)
    renderings = plan(found, options)
    folder = options.output_dir / "renders"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    with cli.progress("rendering", len(renderings)) as advance:
        for rendering in renderings:
            pictures.append(render(rendering, found[rendering.subject]))
            write_picture(folder / f"{rendering.key}.png", pictures[-1])
            advance(1)
    if options.render_only:
        cli.console.print(f"{len(renderings)} renderings in {folder}")
        return
    targets = {}
    for subject, scan in found.items():
        normals = shading.vertex_normals(scan.vertices.astype(np.float32), np.asarray(scan.triangles, np.int32))
        targets[subject] = icp.Target(scan.vertices, np.asarray(normals, np.float64))
    interocular = interocular_distances(targets, corners, model, options.face_radius, problems)
    shown: dict[str, str] = {}
    methods = {
        label: predict(label, one, renderings, pictures, options, shown, problems) for label, one in trained.items()
    }
    errors = {
        label: {nme_evaluation.RECONSTRUCTION: measure(p, renderings, targets, interocular, model, problems)}
        for label, p in (methods | given).items()
    }
    results = benchmark_output.Results(
        name=f"Florence (protocol {options.protocol}, {len(found)} subjects)",
        keys=[r.key for r in renderings],
        yaw_deg=np.array([r.yaw for r in renderings]),
        errors=errors,
        titles={nme_evaluation.RECONSTRUCTION: "reconstruction (ICP)"},
        about={nme_evaluation.RECONSTRUCTION: about(interocular)},
        published={},
        problems=problems,
        shown=shown,
        extra={
            "interocular": {
                s: {"distance": d if np.isfinite(d) else None, "from": source} for s, (d, source) in interocular.items()
            }
        },
    )
    cli.show_and_write(results, options.output_dir, "scripts.evaluate_florence", arguments)


if __name__ == "__main__":
    cli.run(lambda: evaluate(sys.argv[1:]))
