"""Time and memory of measuring 2,000 reconstructions of 53,215 vertices, with and without ICP.

    python -m benchmarks.evaluation_speed [--images=2000] [--icp_images=200]

Uses the 40 + 10 BFM of $TWODAL_DATA_DIR where it is, else the built-in face repeated to as many vertices.
ICP is timed on fewer images and told per image.
"""

import argparse
import os
import pathlib
import resource
import time

import numpy as np

from twodal_jax import assets, morphable_model
from twodal_jax.evaluation import benchmark
from twodal_jax.evaluation.predictions import Predictions

NUM_VERTICES = 53_215


def load_model() -> morphable_model.MorphableModel:
    """BFM, or the built-in face with its vertices repeated."""
    path = pathlib.Path(os.environ.get("TWODAL_DATA_DIR", "nowhere"), "bfm_3ddfa")
    if path.exists():
        return assets.load_morphable_model(path)
    small = assets.load_morphable_model("builtin")
    places = np.arange(NUM_VERTICES) % small.num_vertices
    return morphable_model.create(
        np.asarray(small.mean)[:, places], np.asarray(small.basis)[:, :, places], small.triangles,
        small.landmark_indices, small.alpha_mean, small.alpha_std,
    )  # fmt: skip


def made_truth(model, count: int) -> tuple[benchmark.GroundTruth, Predictions]:
    """Random faces, and predictions a little off."""
    rng = np.random.default_rng(0)
    whitened = rng.standard_normal((2, count, 62)).astype(np.float32)
    alpha = np.asarray(model.alpha_mean) + np.asarray(model.alpha_std) * (
        [[[0.3]], [[0.05]]] * whitened
    ).cumsum(axis=0)
    alpha = alpha.astype(np.float32)
    boxes = np.tile(np.float32([100, 100, 340, 340]), (count, 1))
    landmarks = np.concatenate([
        np.asarray(benchmark.landmarks_image(model, alpha[0, i : i + 100], boxes[i : i + 100]))
        for i in range(0, count, 100)
    ])  # fmt: skip
    keys = [f"face{i}" for i in range(count)]
    truth = benchmark.GroundTruth(
        "made", keys, landmarks, landmarks[..., :2], rng.uniform(-90, 90, count), boxes, alpha[0]
    )
    return truth, Predictions("made", tuple(keys), alpha=alpha[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--icp_images", type=int, default=200)
    options = parser.parse_args()
    model = load_model()
    print(f"{model.num_vertices:,} vertices, {os.cpu_count()} cores")
    for count, with_icp in ((options.images, False), (options.icp_images, True)):
        truth, predictions = made_truth(model, count)
        benchmark.measure(predictions, truth, model, with_icp=False)  # compiles
        start = time.perf_counter()
        benchmark.measure(predictions, truth, model, with_icp=with_icp)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{count:5d} images, {'with' if with_icp else 'without'} ICP: {seconds:6.1f} s,"
            f" {2000 * seconds / count:6.1f} s for 2,000; peak memory {peak:.1f} GB"
        )


if __name__ == "__main__":
    main()
