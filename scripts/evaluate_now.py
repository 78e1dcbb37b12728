"""Errors on the NoW challenge: distances of scans from reconstructed neutral faces, in millimetres.

    python -m scripts.evaluate_now --data_dir=NoW_Evaluation/dataset --output_dir=results/now --checkpoint=photos
    python -m scripts.evaluate_now ... --predictions=mine:meshes/ --metrical --unit=mm

The data folder is that of the challenge: imagepathsvalidation.txt, scans/SUBJECT/*.obj, scans_lmks_onlypp/SUBJECT/*.pp,
and for --checkpoint NoW_Dataset/final_release_version/iphone_pictures/. Predictions are meshes as the challenge asks
for: FOLDER/SUBJECT/CHALLENGE/IMAGE.obj or .ply, and seven landmarks in IMAGE.npy or .txt. A network of this project
gives its neutral shape. Writes now.json, the errors of each image (images.csv) and the cumulative curve
(cumulative.csv).
"""

import argparse
import collections
import concurrent.futures
import csv
import io
import json
import pathlib
import re

import numpy as np
import rich.table

from scripts import terminal

UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
STEPS_MM = np.arange(0, 7.01, 0.05)  # of the cumulative curve
PICTURES = pathlib.PurePath("NoW_Dataset", "final_release_version", "iphone_pictures")
# Median, mean and standard deviation, mm, non-metrical, of the test part, as of 2021. Source: Li et al., To Fit or Not
# to Fit, github.com/unibas-gravis/Occlusion-Robust-MoFA, README. This program's figures are of the validation part.
PUBLISHED = {
    "FOCUS": (1.04, 1.30, 1.10),
    "DECA": (1.09, 1.38, 1.18),
    "Deep3DFace PyTorch": (1.11, 1.41, 1.21),
    "RingNet": (1.21, 1.53, 1.31),
    "Deep3DFace": (1.23, 1.54, 1.29),
    "3DDFA-V2": (1.23, 1.57, 1.39),
    "MGCNet": (1.31, 1.87, 2.63),
    "PRNet": (1.50, 1.98, 1.88),
}
_POINT = re.compile(r"<point\b[^>]*>")
_COORDINATE = re.compile(r"\b([xyz])=\"([^\"]+)\"")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evaluate_now", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_dir", type=pathlib.Path, required=True, help="the challenge's data set")
    add("--output_dir", type=pathlib.Path, required=True, help="made if missing")
    add("--predictions", action="append", default=[], metavar="[LABEL:]FOLDER", help="meshes; several times to compare")
    add("--checkpoint", action="append", default=[], metavar="[LABEL:]NAME", help="photos, free, or a --workdir")
    add("--list", default="imagepathsvalidation.txt", help="the list of images (default imagepathsvalidation.txt)")
    add("--metrical", action="store_true", help="keep the size of the predictions")
    add("--unit", choices=tuple(UNITS), default="mm", help="of the predictions, for --metrical (default mm)")
    return parser.parse_args(arguments)


def read_picked_points(path: pathlib.Path) -> np.ndarray:
    """The points [7, 3] of a .pp file of MeshLab, in its order. Raises UsageError."""
    points = [dict(_COORDINATE.findall(point)) for point in _POINT.findall(path.read_text(encoding="utf-8"))]
    try:
        return np.array([[float(point[axis]) for axis in "xyz"] for point in points]).reshape(7, 3)
    except (KeyError, ValueError):
        raise terminal.UsageError(f"{path}: expected seven points with x, y and z, found {len(points)}") from None


def read_mesh(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [N, 3] and triangles [T, 3] of an .obj or .ply."""
    from twodal_jax.face_models.formats import read_obj

    if path.suffix == ".obj":
        return read_obj(path)
    import trimesh

    mesh = trimesh.load(path, process=False, force="mesh")
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def predicted(folder: pathlib.Path, image: pathlib.PurePath) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, triangles and seven landmarks that a folder holds for an image. Raises UsageError."""
    stem = folder / image.parent / image.stem
    mesh = next((path for path in map(stem.with_suffix, (".obj", ".ply")) if path.is_file()), None)
    points = next((path for path in map(stem.with_suffix, (".npy", ".txt")) if path.is_file()), None)
    if mesh is None or points is None:
        raise terminal.UsageError(f"no {'mesh' if mesh is None else 'landmarks'} {stem}.*")
    landmarks = np.load(points, allow_pickle=False) if points.suffix == ".npy" else np.loadtxt(points)
    if landmarks.shape != (7, 3):
        raise terminal.UsageError(f"{points}: expected landmarks [7, 3], found {list(landmarks.shape)}")
    return *read_mesh(mesh), landmarks


def reconstructed(model, data_dir: pathlib.Path, image: pathlib.PurePath) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The neutral shape that a network gives the largest face of an image, in millimetres. Raises UsageError."""
    from twodal_jax.evaluation.now_protocol import LANDMARKS
    from twodal_jax.face_models.load import BUILTIN
    from twodal_jax.geometry import coefficients, morphable_model

    faces = model.reconstruct(data_dir / PICTURES / image)
    if not faces:
        raise terminal.UsageError(f"no face found in {image}")
    face = max(faces, key=lambda found: found.roi_box[2] - found.roi_box[0])
    alpha = face.alpha.copy()
    alpha[-coefficients.NUM_EXPRESSION :] = 0
    # The built-in head is in metres, BFM in micrometres.
    unit = 1000.0 if model.trained.config.morphable_model == BUILTIN else 1e-3
    vertices = unit * np.asarray(morphable_model.vertices_model(model.morphable_model, alpha))
    points = vertices[np.asarray(model.morphable_model.landmark_indices)[list(LANDMARKS)]]
    return vertices, np.asarray(model.morphable_model.triangles), points


def measure(label: str, mesh_of, images, scans, options, problems: list[str]) -> dict[pathlib.PurePath, np.ndarray]:
    """{image: distances [P] in mm}; what failed is named in `problems`."""
    from twodal_jax.evaluation import now_protocol
    from twodal_jax.rendering.rasterizer import usable_cores

    def errors_of(image: pathlib.PurePath) -> np.ndarray | str:
        try:
            scan, scan_landmarks = scans[image.parts[0]]
            vertices, triangles, landmarks = mesh_of(image)
            size = UNITS[options.unit] if options.metrical and label not in options.own else 1.0
            found = now_protocol.scan_errors(
                scan, scan_landmarks, size * vertices, triangles, size * landmarks, metrical=options.metrical
            )
            return found.astype(np.float32)
        except (terminal.UsageError, ValueError, OSError) as error:
            return f"{label}, {image}: {error}"

    results = {}
    with (
        terminal.progress(label, len(images)) as advance,
        concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool,
    ):
        for image, found in zip(images, pool.map(errors_of, images)):
            if isinstance(found, str):
                problems.append(found)
            else:
                results[image] = found
            advance(1)
    return results


def summary(errors: list[np.ndarray]) -> dict[str, float]:
    """Median, mean and standard deviation of all points of all images, mm."""
    joined = np.concatenate(errors)
    return {"median": float(np.median(joined)), "mean": float(joined.mean()), "std": float(joined.std())}


def read_scans(data_dir: pathlib.Path, subjects: set[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{subject: (vertices of the scan [S, 3], seven landmarks [7, 3])}. Raises UsageError."""
    scans = {}
    for subject in sorted(subjects):
        meshes = sorted((data_dir / "scans" / subject).glob("*.obj"))
        marks = sorted((data_dir / "scans_lmks_onlypp" / subject).glob("*.pp"))
        if not meshes or not marks:
            raise terminal.UsageError(f"{data_dir}: lacks scans/{subject}/*.obj or scans_lmks_onlypp/{subject}/*.pp")
        scans[subject] = read_mesh(meshes[0])[0], read_picked_points(marks[0])
    return scans


def evaluate(options: argparse.Namespace) -> None:
    """Runs the command."""
    import twodal_jax
    from twodal_jax.export.files import write_together

    listed = options.data_dir / options.list
    if not listed.is_file():
        raise terminal.UsageError(f"{listed}: no such list of images; it is part of the challenge's downloads")
    lines = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    images = [pathlib.PurePath(*pathlib.PurePath(line).parts[-3:]) for line in lines]
    if not images or any(len(image.parts) != 3 for image in images):
        raise terminal.UsageError(f"{listed}: expected lines SUBJECT/CHALLENGE/IMAGE")
    scans = read_scans(options.data_dir, {image.parts[0] for image in images})
    methods, options.own = {}, set()
    for text in options.predictions:
        label, _, folder = text.rpartition(":")
        methods[label or folder] = lambda image, folder=pathlib.Path(folder): predicted(folder, image)
    for text in options.checkpoint:
        label, _, name = text.rpartition(":")
        model = twodal_jax.load(name)
        options.own.add(label or name)
        methods[label or name] = lambda image, model=model: reconstructed(model, options.data_dir, image)
    if not methods:
        raise terminal.UsageError("Give --checkpoint or --predictions: there is nothing to evaluate.")

    problems: list[str] = []
    found = {label: measure(label, of, images, scans, options, problems) for label, of in methods.items()}
    if not any(found.values()):
        raise terminal.UsageError("No image could be measured.\n" + "\n".join(problems[:10]))
    results = {}
    for label, errors in found.items():
        if errors:
            parts = collections.defaultdict(list)
            for image, values in errors.items():
                parts[image.parts[1]].append(values)
            by_challenge = {name: summary(values) for name, values in sorted(parts.items())}
            results[label] = {"all": summary(list(errors.values())), **by_challenge, "images": len(errors)}
    show(results, len(images), options.metrical)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    about = {"metrical": options.metrical, "images": len(images), "results": results, "problems": problems}
    write_together(
        {
            options.output_dir / "now.json": json.dumps(about, indent=1).encode(),
            options.output_dir / "images.csv": _images_csv(found),
            options.output_dir / "cumulative.csv": _cumulative_csv(found),
        }
    )
    for problem in problems[:20]:
        terminal.console.print(problem, markup=False, highlight=False)
    if problems:
        terminal.console.print(f"{len(problems)} image(s) could not be measured: the figures are not comparable")
    terminal.console.print(f"Written to {options.output_dir}", markup=False)


def _csv(rows) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _images_csv(found) -> bytes:
    rows = [("method", "image", "median_mm", "mean_mm", "std_mm", "points")]
    for label, errors in found.items():
        for image, values in errors.items():
            rows.append((label, image.as_posix(), *(f"{v:.6f}" for v in summary([values]).values()), len(values)))
    return _csv(rows)


def _cumulative_csv(found) -> bytes:
    """Share of points, per cent, within each distance."""
    joined = {label: np.sort(np.concatenate(list(errors.values()))) for label, errors in found.items() if errors}
    shares = [100 * np.searchsorted(values, STEPS_MM, side="right") / len(values) for values in joined.values()]
    return _csv(
        [("mm", *joined), *((f"{mm:.2f}", *(f"{share[i]:.4f}" for share in shares)) for i, mm in enumerate(STEPS_MM))]
    )


def show(results: dict, count: int, metrical: bool) -> None:
    """Prints the table, with published rows below."""
    kind = "metrical" if metrical else "non-metrical"
    table = rich.table.Table("method", "images", "median", "mean", "std", title=f"NoW, {kind}, mm")
    for label, result in results.items():
        table.add_row(
            label, f"{result['images']}/{count}", *(f"{result['all'][key]:.2f}" for key in ("median", "mean", "std"))
        )
    if not metrical:
        table.add_section()
        for label, values in PUBLISHED.items():
            table.add_row(f"{label} (published, test part)", "", *(f"{value:.2f}" for value in values))
    terminal.console.print(table)


def main() -> None:
    """Runs the command."""
    options = parse()
    terminal.run(lambda: evaluate(options))


if __name__ == "__main__":
    main()
