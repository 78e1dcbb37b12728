"""Reconstruction error on Florence (Fig. 7b): renders each scan in the protocol's poses, then measures.

    python -m scripts.evaluate_florence --data_dir=Florence --output_dir=out --checkpoint=runs/paper

The folder holds a folder for each subject with its mesh (.obj or .wrl, y up, facing +z). Renderings are
written to OUTPUT_DIR/renders as SUBJECT_pPITCH_yYAW.png; other methods run on them and hand in an .npz with
`name` and `vertices` (pixels of the rendering) or `alpha` with `roi_box`. An optional landmarks.csv in the
folder (subject, x36, y36, z36, x45, y45, z45) gives the outer eye corners; otherwise the scan's points
next to the aligned prediction's corners are taken.
"""

import argparse
import csv
import dataclasses
import pathlib
import sys

import numpy as np

from data_pipelines import scans
from data_pipelines.faces import SkipFace, SourceError
from scripts import benchmark_cli as cli
from twodal_jax import projection
from twodal_jax.evaluation import benchmark, benchmark_output, held_out, icp, scan_protocol
from twodal_jax.evaluation.predictions import Predictions, listed, unwhitened
from twodal_jax.images import crop_face
from twodal_jax.morphable_model import OUTER_EYE_CORNERS
from twodal_jax.reconstruction.outputs import write_picture
from twodal_jax.rendering import overlay, shading

CORNERS = ("x36", "y36", "z36", "x45", "y45", "z45")
ABOUT = (
    "normaliser: 3D outer interocular distance of the scan; ground truth: the scan, after rigid ICP;"
    " mean distance of the predicted vertices to their nearest scan points"
)


@dataclasses.dataclass(frozen=True)
class Rendering:
    """One picture of a subject."""

    key: str
    subject: str
    yaw: float
    camera: scan_protocol.Camera
    roi_box: np.ndarray


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evaluate_florence", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    cli.add_method_options(parser, "a folder for each subject, with its mesh")
    parser.add_argument(
        "--protocol", choices=tuple(scan_protocol.PROTOCOLS), default="paper",
        help="poses: the paper's text, or those of VRN's author (they differ)",
    )  # fmt: skip
    parser.add_argument(
        "--face_radius", type=float, default=scan_protocol.FACE_RADIUS_MM,
        help="of the face around the nose tip, in the scans' unit (millimetres)",
    )  # fmt: skip
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


def read_scans(folder: pathlib.Path, problems: list[str]) -> dict[str, scans.Scan]:
    """{subject: scan}; unreadable ones are named in `problems`."""
    found = {}
    for subject, path in scans.list_scans(folder).items():
        try:
            found[subject] = scans.read_scan(path)
        except SkipFace as skip:
            problems.append(f"{subject}: left out: {skip.reason} ({skip.detail})")
    if not found:
        raise SourceError(f"{folder}: no scan could be read.\n" + "\n".join(problems))
    return found


def plan(found: dict[str, scans.Scan], options) -> list[Rendering]:
    """Every picture of the protocol."""
    renderings = []
    for subject, scan in found.items():
        for pitch, yaw in scan_protocol.poses(options.protocol):
            camera = scan_protocol.make_camera(scan.vertices, pitch, yaw, options.face_radius)
            box = scan_protocol.roi_box(scan.vertices, camera, options.face_radius)
            renderings.append(Rendering(f"{subject}_p{pitch:+.0f}_y{yaw:+.0f}", subject, yaw, camera, box))
    return renderings


def render(rendering: Rendering, scan: scans.Scan) -> np.ndarray:
    """The picture, BGR uint8 [450, 450, 3], on grey."""
    points = rendering.camera.project(scan.vertices).astype(np.float32)
    size = scan_protocol.IMAGE_SIZE
    image, _ = shading.render(
        points, np.asarray(scan.triangles, np.int32), scan.colours, size, size,
        light=overlay.HEAD_LIGHT, background=np.full((size, size, 3), 0.5, np.float32),
    )  # fmt: skip
    return np.round(255.0 * image).astype(np.uint8)


def predict(label, trained, renderings, pictures, options) -> Predictions:
    """The coefficients a checkpoint's network gives the renderings, shown without landmarks."""
    boxes = np.stack([rendering.roi_box for rendering in renderings])
    crops = np.stack([crop_face(picture, box, margin=0) for picture, box in zip(pictures, boxes)])
    nothing = np.zeros((len(crops), 18, 2), np.float32), np.zeros((len(crops), 18), np.float32)
    with cli.progress(f"{label}: network", len(crops)) as advance:
        alpha = held_out.predict_alpha(trained, crops, *nothing, options.passes, advance)
    return Predictions(label, tuple(r.key for r in renderings), alpha=alpha, roi_box=boxes)


def meshes(predictions: Predictions, renderings, model, problems):
    """Yields (index of the rendering, vertices [M, 3] in its pixels)."""
    rows = predictions.rows_of([r.key for r in renderings], problems)
    if predictions.vertices is not None:
        place = {row: i for i, row in enumerate(rows) if row >= 0}
        for start, block in predictions.vertices.batches(benchmark.BATCH):
            for offset, vertices in enumerate(block):
                if start + offset in place:
                    yield place[start + offset], vertices.T
        return
    if predictions.alpha is None:
        raise cli.UsageError(f"{predictions.label}: Florence needs `vertices` or `alpha`.")
    alpha = unwhitened(predictions, model.alpha_mean, model.alpha_std)
    for i in np.flatnonzero(rows >= 0):
        own = predictions.roi_box
        box = renderings[i].roi_box if own is None else own[rows[i]]
        points = projection.vertices_crop(model, alpha[rows[i]][None])
        yield i, np.asarray(projection.crop_to_image(points, box[None]))[0]


def measure(predictions, renderings, targets, corners, model, problems) -> np.ndarray:
    """Error [n] in per cent; NaN where not measured."""
    errors = np.full(len(renderings), np.nan)
    outer = np.asarray(model.landmark_indices)[list(OUTER_EYE_CORNERS)]
    with cli.progress(f"{predictions.label}: ICP", len(renderings)) as advance:
        for i, vertices in meshes(predictions, renderings, model, problems):
            rendering = renderings[i]
            if np.isfinite(vertices).all():
                errors[i] = scan_protocol.reconstruction_error(
                    vertices, tuple(outer) if len(vertices) == model.num_vertices else None,
                    rendering.camera, targets[rendering.subject], corners.get(rendering.subject),
                )  # fmt: skip
            advance(1)
    missing = [r.key for r, error in zip(renderings, errors) if np.isnan(error)]
    if missing:
        problems.append(
            f"{predictions.label}: {listed(missing)}: not measured (no prediction, a value that is not"
            " finite, or no eye corners: give landmarks.csv for meshes of another topology)"
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
        normals = shading.vertex_normals(
            scan.vertices.astype(np.float32), np.asarray(scan.triangles, np.int32)
        )
        targets[subject] = icp.Target(scan.vertices, np.asarray(normals, np.float64))
    methods = {
        label: predict(label, one, renderings, pictures, options) for label, one in trained.items()
    }
    errors = {
        label: {benchmark.RECONSTRUCTION: measure(p, renderings, targets, corners, model, problems)}
        for label, p in (methods | given).items()
    }
    results = benchmark_output.Results(
        name=f"Florence (protocol {options.protocol}, {len(found)} subjects)",
        keys=[r.key for r in renderings], yaw_deg=np.array([r.yaw for r in renderings]), errors=errors,
        titles={benchmark.RECONSTRUCTION: "reconstruction (ICP)"}, about={benchmark.RECONSTRUCTION: ABOUT},
        published={}, problems=problems,
    )  # fmt: skip
    cli.show_and_write(results, options.output_dir, "scripts.evaluate_florence", arguments)


if __name__ == "__main__":
    cli.run(lambda: evaluate(sys.argv[1:]))
