"""Time of drawing a face mesh: one at a time, and 32 in a batch.

    python -m benchmarks.rasterizer_speed [--morphable_model=PATH] [--faces=32] [--sizes=105,200,450]

The faces are those of the model's whitening, turned left and right, and fill the picture. A batch is measured
in turn with as many single calls, so that a busy machine slows both; the median of the rounds is told.
"""

import argparse
import statistics
import time

import numpy as np

from twodal_jax import assets, morphable_model
from twodal_jax.rendering import rasterizer


def made_faces(model: morphable_model.MorphableModel, count: int, size: int) -> np.ndarray:
    """[count, N, 3] vertices, pixels, y down: random shapes with yaw from -60 to 60 degrees."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((count, morphable_model.NUM_DIRECTIONS)).astype(np.float32)
    alpha = np.asarray(model.alpha_mean)[12:] + 0.5 * spread * np.asarray(model.alpha_std)[12:]
    shapes = np.einsum("bk,kcn->bnc", alpha, np.asarray(model.basis), optimize=True)
    shapes += np.asarray(model.mean).T
    for shape, yaw in zip(shapes, np.radians(np.linspace(-60, 60, count))):
        turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        shape[:] = shape @ turn.T.astype(np.float32) * np.float32([1, -1, 1])
        shape -= shape.min(axis=0)
        shape *= (size - 1) / shape[:, :2].max()
    return shapes


def median_ms(rounds: int, *jobs) -> list[float]:
    """Milliseconds of each job, measured in turn."""
    times = [[] for _ in jobs]
    for _ in range(rounds):
        for job, of_job in zip(jobs, times):
            start = time.perf_counter()
            job()
            of_job.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(of_job) for of_job in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--morphable_model", default="builtin")
    parser.add_argument("--faces", type=int, default=32)
    parser.add_argument("--sizes", default="105,200,450")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model = assets.load_morphable_model(options.morphable_model)
    triangles = np.asarray(model.triangles)
    print(f"{model.num_vertices:,} vertices, {len(triangles):,} triangles, {options.faces} faces; ms a face")
    print("size      one   in a batch   single / batch")
    for size in map(int, options.sizes.split(",")):
        faces = made_faces(model, options.faces, size)
        rasterizer.rasterize_batch(faces[:2], triangles, size, size)  # compiles
        one, batch = median_ms(
            options.rounds,
            lambda: [rasterizer.rasterize(face, triangles, size, size) for face in faces],
            lambda: rasterizer.rasterize_batch(faces, triangles, size, size),
        )
        print(f"{size:4d} {one / len(faces):8.2f} {batch / len(faces):12.2f} {one / batch:16.2f}")


if __name__ == "__main__":
    main()
