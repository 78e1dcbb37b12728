"""Reconstruction error on Florence (Fig. 7b): renders each scan in the protocol's poses, then measures.

    python -m scripts.evaluate_florence --data_dir=Florence --output_dir=out --checkpoint=runs/paper

The data folder has a folder for each subject with its mesh (.obj, .wrl, .ply, .stl, .off or .glb, y up, facing +z, in
millimetres, centimetres or metres). Renderings are written to OUTPUT_DIR/renders as SUBJECT_pPITCH_yYAW.png. Other
methods run on them and give an .npz with `name` and `vertices` (pixels of the rendering, any topology) or `alpha`
with `roi_box`. An optional landmarks.csv in the data folder (subject, x36, y36, z36, x45, y45, z45) gives the outer
eye corners. For other subjects they come from the morphable model fitted to the scan, once for all methods.
metrics.json has each subject's interocular distance and its origin.
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
from scripts import evaluation_cli as cli, terminal
from twodal_jax.evaluation import icp, nme_evaluation, scan_eyes, scan_protocol
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
BACKGROUND = 128
SMALLEST_SHARE = 0.08  # of a rendering that a head covers; a whole one covers 0.2 to 0.6
MARKED, FITTED = "landmarks.csv", "fitted morphable model"


@dataclasses.dataclass(frozen=True)
class Rendering:
    """One image of a subject."""

    key: str
    subject: str
    yaw: float
    camera: scan_protocol.Camera
    roi_box: np.ndarray


def positive(text: str) -> float:
    """Argparse type of a length."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {value}")
    return value


def parse(arguments):
    parser = cli.make_evaluation_parser(
        "scripts.evaluate_florence",
        __doc__,
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
        help="radius of the face around the nose tip, in the scans' unit; default: 95 mm, in the unit by which a scan"
        " has the size of a head",
    )
    parser.add_argument("--render_only", action="store_true", help="write the renderings and stop")
    return parser.parse_args(arguments)


def read_corners(folder: pathlib.Path) -> dict[str, float]:
    """Reads {subject: 3D outer interocular distance} from landmarks.csv; empty without the file."""
    path = folder / "landmarks.csv"
    if not path.is_file():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        points = {row["subject"]: np.array([float(row[name]) for name in CORNERS]) for row in rows}
    except (KeyError, ValueError, TypeError, csv.Error) as error:  # TypeError: a short line; ValueError: not UTF-8
        raise SourceError(f"{path}: needs the columns subject, {', '.join(CORNERS)} ({error})") from None
    return {subject: float(np.linalg.norm(p[:3] - p[3:])) for subject, p in points.items()}


def read_scans(
    folder: pathlib.Path, problems: list[str], radius: float | None = None
) -> tuple[dict[str, mesh_scans.Scan], dict[str, float]]:
    """Reads {subject: scan} and {subject: factor that its coordinates were multiplied by}.

    Scans become millimetres unless the radius of the face is given in their unit. Unreadable scans are named in
    `problems`.
    """
    scans, factors = {}, {}
    meshes, messages = mesh_scans.list_scans(folder)
    problems += messages
    for subject, path in meshes.items():
        try:
            scan = mesh_scans.read_scan(path)
            unit = "millimetres" if radius else mesh_scans.unit_of(scan)
            factors[subject] = mesh_scans.UNITS[unit]
            scans[subject] = scan._replace(vertices=scan.vertices * factors[subject])
            check_visible(scans[subject], radius or scan_protocol.FACE_RADIUS_MM)
        except SkipFace as skip:
            scans.pop(subject, None)
            problems.append(f"{subject}: left out: {skip.reason} ({skip.detail})")
            continue
        if factors[subject] != 1:
            problems.append(f"{subject}: its size is a head's in {unit}; converted to millimetres")
    if not scans:
        raise SourceError(f"{folder}: no scan could be read.\n" + "\n".join(problems))
    return scans, factors


def check_visible(scan: mesh_scans.Scan, radius: float) -> None:
    """Raises SkipFace if a frontal rendering shows hardly anything of the scan."""
    camera = scan_protocol.make_camera(scan.vertices, 0.0, 0.0, radius)
    image = render(Rendering("", "", 0.0, camera, np.zeros(4)), scan)
    share = (np.abs(image.astype(int) - BACKGROUND) > 2).any(axis=-1).mean()
    if share < SMALLEST_SHARE:
        raise SkipFace(
            "blank rendering",
            f"it covers {share:.1%} of its frontal rendering; expected a face that looks towards +z, y up, with a"
            f" radius of {radius:g}",
        )


def plan(scans: dict[str, mesh_scans.Scan], options) -> list[Rendering]:
    """All renderings of the protocol."""
    renderings = []
    for subject, scan in scans.items():
        for pitch, yaw in scan_protocol.poses(options.protocol):
            camera = scan_protocol.make_camera(scan.vertices, pitch, yaw, options.face_radius)
            box = scan_protocol.roi_box(scan.vertices, camera, options.face_radius)
            renderings.append(Rendering(f"{subject}_p{pitch:+.0f}_y{yaw:+.0f}", subject, yaw, camera, box))
    return renderings


def render(rendering: Rendering, scan: mesh_scans.Scan) -> np.ndarray:
    """Renders a scan on grey -> uint8 [450, 450, 3] BGR."""
    points = rendering.camera.project(scan.vertices).astype(np.float32)
    size = scan_protocol.IMAGE_SIZE
    triangles, grey = np.asarray(scan.triangles, np.int32), np.full((size, size, 3), BACKGROUND / 255, np.float32)
    image, _ = shading.render(points, triangles, scan.colours, size, size, light=overlay.HEAD_LIGHT, background=grey)
    return np.round(255.0 * image).astype(np.uint8)


def network_inputs(renderings, images, detected: pathlib.Path | None, authors_mouth: bool) -> CroppedFaces:
    """Inputs of a network: crops, and the landmarks of a detections file in pixels of the renderings."""
    boxes = np.stack([rendering.roi_box for rendering in renderings])
    crops = np.stack([crop_face(image, box, margin=0) for image, box in zip(images, boxes)])
    points = detections.landmarks_by_name(detected, [rendering.key for rendering in renderings])
    points = np.asarray(projection.image_to_crop(points, boxes))
    landmarks, visible = to_18_landmarks(points, np.isfinite(points).all(axis=-1), authors_mouth=authors_mouth)
    return CroppedFaces(np.arange(len(renderings)), crops, landmarks, visible)


def predict(label, trained, renderings, images, options, shown, problems) -> Predictions:
    """Alpha that a checkpoint's network predicts for the renderings."""
    faces = network_inputs(renderings, images, options.detections, trained.spec.heatmap.authors_mouth)
    source = options.detections and options.detections.name
    shown[label] = cli.describe_inputs(label, trained, faces, source, options, problems)
    boxes = np.stack([rendering.roi_box for rendering in renderings])
    return cli.predict_faces(label, trained, faces, [r.key for r in renderings], boxes, options.passes)


def interocular_distances(targets, corners, model, radius: float, problems) -> dict[str, tuple[float, str]]:
    """{subject: (3D outer interocular distance in the scan's unit, its origin)}, the same for all methods.

    The distance is NaN, with a message in `problems`, where the model could not be fitted.
    """
    distances = {}
    with terminal.progress("eye corners", len(targets)) as advance:
        for subject, target in targets.items():
            distance, source = corners.get(subject, 0.0), MARKED
            if not 0 < distance < np.inf:
                distance, source = scan_eyes.interocular_distance(model, target, radius), FITTED
            if not 0 < distance < np.inf:
                problems.append(
                    f"{subject}: not measured: no face could be fitted to the scan to locate its eye"
                    " corners; give them in landmarks.csv"
                )
                distance = np.nan
            distances[subject] = distance, source
            advance(1)
    return distances


def about(interocular: dict[str, tuple[float, str]]) -> str:
    """Description of the error, with the number of subjects for each origin of the normaliser."""
    counts = collections.Counter(source for _, source in interocular.values())
    origins = (f"{source} for {count} of {len(interocular)} subjects" for source, count in counts.items())
    return ABOUT.format(normaliser=", ".join(origins))


def meshes(predictions: Predictions, renderings, model, problems):
    """Yields (index of the rendering, vertices [M, 3] in its pixels)."""
    rows = predictions.rows_of([r.key for r in renderings], problems)
    if predictions.vertices is not None:
        rendering_of = {row: i for i, row in enumerate(rows) if row >= 0}
        for start, block in predictions.vertices.batches(nme_evaluation.BATCH):
            for offset, vertices in enumerate(block):
                if start + offset in rendering_of:
                    yield rendering_of[start + offset], vertices.T
        return
    if predictions.alpha is None:
        raise terminal.UsageError(f"{predictions.label}: Florence needs `vertices` or `alpha`.")
    for i in np.flatnonzero(rows >= 0):
        own = predictions.roi_box
        box = renderings[i].roi_box if own is None else own[rows[i]]
        alpha = crop_alpha(predictions, rows[i : i + 1], box[None], model.alpha_mean, model.alpha_std)
        yield i, np.asarray(nme_evaluation.vertices_image(model, alpha, box[None]))[0]


def measure(predictions, renderings, targets, interocular, model, problems) -> np.ndarray:
    """Errors [n] in per cent; NaN where not measured."""
    errors = np.full(len(renderings), np.nan)
    with terminal.progress(f"{predictions.label}: ICP", len(renderings)) as advance:
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
    scans, factors = read_scans(options.data_dir, problems, options.face_radius)
    options.face_radius = options.face_radius or scan_protocol.FACE_RADIUS_MM
    corners = read_corners(options.data_dir)
    corners = {subject: distance * factors.get(subject, 1.0) for subject, distance in corners.items()}
    renderings = plan(scans, options)
    folder = options.output_dir / "renders"
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    with terminal.progress("rendering", len(renderings)) as advance:
        for rendering in renderings:
            images.append(render(rendering, scans[rendering.subject]))
            write_picture(folder / f"{rendering.key}.png", images[-1])
            advance(1)
    if options.render_only:
        for problem in problems:
            terminal.console.print(problem, markup=False, highlight=False, soft_wrap=True)
        terminal.console.print(f"{len(renderings)} renderings in {folder}")
        return
    targets = {}
    for subject, scan in scans.items():
        normals = shading.vertex_normals(scan.vertices.astype(np.float32), np.asarray(scan.triangles, np.int32))
        targets[subject] = icp.Target(scan.vertices, np.asarray(normals, np.float64))
    interocular = interocular_distances(targets, corners, model, options.face_radius, problems)
    shown: dict[str, str] = {}
    methods = {
        label: predict(label, network, renderings, images, options, shown, problems)
        for label, network in trained.items()
    }
    errors = {
        label: {nme_evaluation.RECONSTRUCTION: measure(p, renderings, targets, interocular, model, problems)}
        for label, p in (methods | given).items()
    }
    results = benchmark_output.Results(
        name=f"Florence (protocol {options.protocol}, {len(scans)} subjects)",
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
                subject: {"distance": distance if np.isfinite(distance) else None, "from": source}
                for subject, (distance, source) in interocular.items()
            }
        },
    )
    cli.show_and_write(results, options.output_dir, "scripts.evaluate_florence", arguments)


if __name__ == "__main__":
    terminal.run(lambda: evaluate(sys.argv[1:]))
