"""Converts a face model of another project to this project's .npz.

    python -m scripts.convert_model BFM_model_front.mat --output=models/deep3d.npz --picture=models/deep3d.png
    python -m scripts.convert_model generic_model.pkl --output=models/flame.npz --shape=100 --expression=50

Reads Deep3DFaceRecon's BFM_model_front.mat, the Basel Face Model 2017 and 2019 (.h5), FLAME 2020 and 2023 (.pkl),
ICT-FaceKit (folder FaceXModel) and the Surrey Face Model of eos (.bin). More directions than 40 + 10 are for other
programs; this one uses the first 40 + 10. The 68 landmarks are those that the file states; the others are placed by
alignment with the built-in head, some millimetres off: look at the picture, or give --landmarks.
"""

import argparse
import pathlib

from scripts import terminal
from scripts.option_types import at_least_one

SIZE, MARGIN = 480, 0.06


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.convert_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=pathlib.Path, help="file or folder of the model")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the .npz to write")
    parser.add_argument("--shape", type=at_least_one, default=40, help="number of shape directions (default 40)")
    parser.add_argument("--expression", type=at_least_one, default=10, help="of expression directions (default 10)")
    parser.add_argument("--landmarks", help="text: 68 vertices, eos's ibug_to_*.txt; or FLAME's embedding (.npz, .pkl)")
    parser.add_argument("--picture", type=pathlib.Path, help="draw the mean face and its landmarks there (.png)")
    return parser.parse_args(arguments)


def convert(options: argparse.Namespace) -> None:
    """Runs the command."""
    from twodal_jax.face_models import load

    raw = load.read_raw(options.model, options.landmarks)
    if raw is None:
        load.load_morphable_model(options.model)  # its message, if it cannot be read
        raise terminal.UsageError(f"{options.model}: can be used as it is; it needs no conversion.")
    fields = load.raw_fields(options.model, raw, options.shape, options.expression)
    load.save_fields(options.output, fields)
    if options.picture:
        draw(options.picture, fields)
    found = min(len(raw.shape), options.shape), min(len(raw.expression), options.expression)
    terminal.console.print(
        f"{options.output}: {len(raw.mean)} vertices, {found[0]} shape and {found[1]} expression directions",
        markup=False,
    )


def draw(path: pathlib.Path, fields: dict) -> None:
    """Draws the mean face from the front with its landmarks."""
    import numpy as np

    from twodal_jax.reconstruction.outputs import write_picture
    from twodal_jax.rendering import landmarks, overlay

    mean = fields["mean"].T.astype(np.float64)
    low, high = mean.min(axis=0), mean.max(axis=0)
    scale = SIZE * (1 - 2 * MARGIN) / (high - low)[:2].max()
    points = ((mean - (low + high) / 2) * [1, -1, 1] * scale + [SIZE / 2, SIZE / 2, 0]).astype(np.float32)
    picture = overlay.draw_mesh(
        np.full((SIZE, SIZE, 3), 235, np.uint8), points, fields["triangles"], scale=1, opacity=1
    )
    write_picture(path, landmarks.draw_face_landmarks(picture, points[fields["landmark_indices"]]))


def main() -> None:
    """Runs the command."""
    options = parse()
    terminal.run(lambda: convert(options))


if __name__ == "__main__":
    main()
