"""The picture of docs/reconstruct.jpg: drawn faces that no network was trained on, reconstructed.

    python -m benchmarks.pictures --output=docs/reconstruct.jpg [--checkpoint=free]

docs/demo.jpg is examples.jpg of `make demo`.
"""

import argparse
import pathlib
import tempfile

import cv2
import numpy as np

import twodal_jax
from data_pipelines.sources import synthetic, synthetic_drawing
from twodal_jax.face_models import cc0_head, sampling
from twodal_jax.geometry import morphable_model
from twodal_jax.reconstruction import outputs
from twodal_jax.reconstruction.scene import Scene, Surface

SEEDS = (4, 12, 17, 19)
SIZE, MARGIN, TILE = 640, 20, 320


def drawn_face(seed: int) -> np.ndarray:
    """A drawn person, uint8 [SIZE, SIZE, 3] BGR."""
    rng, head = np.random.default_rng([99, seed]), cc0_head.load()
    alpha = sampling.sample_alpha(rng, head, max_yaw=55.0)
    vertices = np.asarray(morphable_model.vertices_model(head.model, alpha))
    scale = SIZE / (120 + 2 * MARGIN)

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return (synthetic.project(points, alpha) + [MARGIN, MARGIN, 0]) * scale

    return synthetic_drawing.draw(rng, head, vertices, to_pixels, SIZE, False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--checkpoint", default="free")
    options = parser.parse_args()
    model = twodal_jax.load(options.checkpoint)
    surface, columns = Surface(model.morphable_model), []
    for seed in SEEDS:
        image = drawn_face(seed)
        faces = model.reconstruct(image)[:1]
        with tempfile.TemporaryDirectory() as folder:
            outputs.write(Scene("face", image, faces, surface), pathlib.Path(folder), ("landmarks", "mesh", "pncc"))
            files = ("landmarks.jpg", "mesh.jpg", "pncc.png")
            rows = [cv2.imread(str(pathlib.Path(folder, name)))[..., :3] for name in files]
        columns.append(np.vstack([cv2.resize(row, (TILE, TILE), interpolation=cv2.INTER_AREA) for row in rows]))
    cv2.imwrite(options.output, np.hstack(columns), [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
