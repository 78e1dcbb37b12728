"""Time and memory of evaluating 2,000 reconstructions of 53,215 vertices, with and without ICP.

    python -m benchmarks.evaluation_speed [--quick] [--images=2000] [--icp_images=100]

Uses the 40 + 10 BFM of $TWODAL_DATA_DIR; without it, the built-in face with points of its surface added up to the
same number of vertices. ICP is timed on fewer images and scaled to 2,000. It is also compared with plain ICP: the
same steps without acceleration, with a nearest-neighbour search for all vertices in each step, to the same tolerance.
The difference of the result is taken from plain ICP that goes on to a tenth of that tolerance.
"""

import argparse
import time

import numpy as np

from benchmarks import models, timing
from benchmarks.timing import in_turn, ratio, Row
from twodal_jax.evaluation import icp, nme_evaluation
from twodal_jax.evaluation.predictions import Predictions
from twodal_jax.geometry.morphable_model import OUTER_EYE_CORNERS


def made_truth(model, count: int) -> tuple[nme_evaluation.GroundTruth, Predictions]:
    """Random faces, and predictions a little off."""
    rng = np.random.default_rng(0)
    whitened = rng.standard_normal((2, count, 62)).astype(np.float32)
    alpha = np.asarray(model.alpha_mean) + np.asarray(model.alpha_std) * ([[[0.3]], [[0.05]]] * whitened).cumsum(axis=0)
    alpha = alpha.astype(np.float32)
    boxes = np.tile(np.float32([100, 100, 340, 340]), (count, 1))
    landmarks = np.concatenate(
        [
            np.asarray(nme_evaluation.landmarks_image(model, alpha[0, i : i + 100], boxes[i : i + 100]))
            for i in range(0, count, 100)
        ]
    )
    keys = [f"face{i}" for i in range(count)]
    truth = nme_evaluation.GroundTruth(
        "made", keys, landmarks, landmarks[..., :2], rng.uniform(-90, 90, count), boxes, alpha[0]
    )
    return truth, Predictions("made", tuple(keys), alpha=alpha[1])


def evaluation_rows(model, count: int, with_icp: bool) -> list[Row]:
    """Seconds for 2,000 images, scaled from a measurement of `count`."""
    truth, predictions = made_truth(model, count)
    nme_evaluation.measure(predictions, truth, model, with_icp=False)  # compiles
    start = time.perf_counter()
    nme_evaluation.measure(predictions, truth, model, with_icp=with_icp)
    seconds = (time.perf_counter() - start) * 2000 / count
    name = f"2,000 images, {'with' if with_icp else 'without'} ICP"
    return [Row(name, seconds, "s", note=f"measured on {count}; peak memory {timing.peak_memory_gb():.1f} GB")]


def plain_icp(
    points: np.ndarray, target: icp.Target, motion: icp.RigidMotion, to_planes: bool, tolerance: float
) -> icp.RigidMotion:
    """Steps of one kind with all points, from `motion` until one moves less than `tolerance` of the target's size."""
    rotation, translation = motion.rotation, motion.translation
    for _ in range(2000):
        moved = points @ rotation.T + translation
        step = icp.robust_step(moved, target, *target.nearest(moved), to_planes)
        rotation, translation = step[0] @ rotation, step[0] @ translation + step[1]
        moved_by = np.linalg.norm(points @ rotation.T + translation - moved, axis=1).mean()
        if moved_by < tolerance * target.size:
            break
    return icp.RigidMotion(rotation, translation)


def made_pairs(model, faces: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """[(true vertices [N, 3], their normals, predicted vertices [N, 3], interocular distance), ...]."""
    truth, predictions = made_truth(model, faces)
    corners = np.asarray(model.landmark_indices)[list(OUTER_EYE_CORNERS)]
    pairs = []
    for face in range(faces):
        here = slice(face, face + 1)
        true, predicted = (
            np.asarray(nme_evaluation.vertices_image(model, alpha[here], truth.roi_box[here]), np.float64)[0]
            for alpha in (truth.alpha, predictions.alpha)
        )
        left, right = true[corners]
        pairs.append((true, icp.Target(true).normals, predicted, float(np.linalg.norm(left - right))))
    return pairs


def icp_rows(model, faces: int) -> list[Row]:
    """ICP against plain ICP, one face per round."""
    pairs = made_pairs(model, faces)
    found, stopped, converged, motions = [], [], [], []

    def ours():
        true, normals, predicted, interocular = pairs[len(found)]
        found.append(icp.reconstruction_error(predicted, icp.Target(true, normals), interocular))

    def plain():
        true, normals, predicted, interocular = pairs[len(stopped)]
        target = icp.Target(true, normals)
        motion = icp.RigidMotion(np.eye(3), np.zeros(3))
        for to_planes in (True, False):
            motion = plain_icp(predicted, target, motion, to_planes, icp.TOLERANCE)
        motions.append(motion)
        stopped.append(icp.error_after(motion, predicted, target, interocular))

    times = in_turn({"ours": ours, "plain": plain}, faces)
    for motion, (true, normals, predicted, interocular) in zip(motions, pairs):
        target = icp.Target(true, normals)
        motion = plain_icp(predicted, target, motion, False, icp.TOLERANCE / 10)
        converged.append(icp.error_after(motion, predicted, target, interocular))
    apart, early = (100 * abs(np.mean(errors) / np.mean(converged) - 1) for errors in (found, stopped))
    worst = 100 * np.abs(np.divide(found, converged) - 1).max()
    return [
        Row(
            "ICP of one face",
            timing.median_ms(times["ours"]),
            "ms",
            note=f"{icp.SAMPLE:,} of {model.num_vertices:,} vertices decide, all are measured at the end",
        ),
        Row(
            "  time / plain ICP",
            ratio(times["ours"], times["plain"]),
            "x",
            0.1,
            note=f"plain {timing.median_ms(times['plain']) / 1e3:.1f} s, to the same tolerance",
        ),
        Row(
            "  difference from plain ICP, converged",
            apart,
            "%",
            0.2,
            note=f"mean of {faces} faces, the worst {worst:.2f} %; plain ICP at the same tolerance {early:.3f} %",
        ),
    ]


def measure(options) -> list[Row]:
    """The rows of whole evaluations, then those of one alignment."""
    model = models.full_size()
    images, icp_images = (200, 16) if options.quick else (options.images, options.icp_images)
    rows = evaluation_rows(model, images, False) + evaluation_rows(model, icp_images, True)
    return rows + icp_rows(model, 10 if options.quick else 20)


def more_options(parser: argparse.ArgumentParser) -> None:
    """Adds --images and --icp_images, the numbers of images."""
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--icp_images", type=int, default=100)


if __name__ == "__main__":
    timing.run("Evaluation", __doc__, measure, more_options)
