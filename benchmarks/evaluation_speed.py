"""Time and memory of measuring 2,000 reconstructions of 53,215 vertices, with and without ICP.

    python -m benchmarks.evaluation_speed [--quick] [--images=2000] [--icp_images=200]

Uses the 40 + 10 BFM of $TWODAL_DATA_DIR where it is, else the built-in face with points of its surface added to as
many vertices.
ICP is timed on fewer images and told per 2,000; and against ICP whose every step looks at all vertices.
"""

import argparse
import time

import numpy as np

from benchmarks import models, timing
from benchmarks.timing import Row, in_turn, ratio
from twodal_jax.evaluation import benchmark, icp
from twodal_jax.evaluation.predictions import Predictions
from twodal_jax.morphable_model import OUTER_EYE_CORNERS


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


def evaluation_rows(model, count: int, with_icp: bool) -> list[Row]:
    """Seconds for 2,000 images, from a measurement of `count`."""
    truth, predictions = made_truth(model, count)
    benchmark.measure(predictions, truth, model, with_icp=False)  # compiles
    start = time.perf_counter()
    benchmark.measure(predictions, truth, model, with_icp=with_icp)
    seconds = (time.perf_counter() - start) * 2000 / count
    name = f"2,000 images, {'with' if with_icp else 'without'} ICP"
    return [Row(name, seconds, "s", note=f"measured on {count}; peak memory {timing.peak_memory_gb():.1f} GB")]


def icp_rows(model, faces: int) -> list[Row]:
    """ICP on a sample of the vertices against ICP on all of them, a face a round."""
    truth, predictions = made_truth(model, faces)
    corners = np.asarray(model.landmark_indices)[list(OUTER_EYE_CORNERS)]
    pairs = []
    for face in range(faces):
        here = slice(face, face + 1)
        true, predicted = (
            np.asarray(benchmark.vertices_image(model, alpha[here], truth.roi_box[here]))[0]
            for alpha in (truth.alpha, predictions.alpha)
        )
        left, right = true[corners]
        pairs.append((true, icp.Target(true).normals, predicted, float(np.linalg.norm(left - right))))
    errors: dict[str, list[float]] = {"sample": [], "all": []}

    def job(name, sample):
        def run():
            true, normals, predicted, interocular = pairs[len(errors[name])]
            target = icp.Target(true, normals)
            errors[name].append(icp.reconstruction_error(predicted, target, interocular, sample=sample))

        return run

    jobs = {"sample": job("sample", icp.SAMPLE), "all": job("all", model.num_vertices)}
    times = in_turn(jobs, faces)
    note = f"{icp.SAMPLE:,} of {model.num_vertices:,} vertices iterate, all are measured at the end"
    sample, full = (np.array(errors[name]) for name in ("sample", "all"))
    apart = 100 * abs(sample.mean() / full.mean() - 1)
    worst = 100 * np.abs(sample / full - 1).max()
    return [
        Row("ICP of one face", timing.median_ms(times["sample"]), "ms", note=note),
        Row("  time / all vertices in every step", ratio(times["sample"], times["all"]), "x", 0.1),
        Row("  difference of the result", apart, "%", 0.2, note=f"mean of {faces} faces; the worst {worst:.2f} %"),
    ]


def measure(options) -> list[Row]:
    """Whole evaluations, then one alignment."""
    model = models.full_size()
    images, icp_images = (200, 16) if options.quick else (options.images, options.icp_images)
    rows = evaluation_rows(model, images, False) + evaluation_rows(model, icp_images, True)
    return rows + icp_rows(model, 5)


def more_options(parser: argparse.ArgumentParser) -> None:
    """How many images are measured."""
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--icp_images", type=int, default=100)


if __name__ == "__main__":
    timing.run("Evaluation", __doc__, measure, more_options)
