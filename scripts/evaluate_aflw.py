"""NME by yaw on AFLW's 21 landmarks, for a folder of images with landmarks21.csv.

    python -m scripts.evaluate_aflw --data_dir=aflw_wild --output_dir=out --checkpoint=runs/aflw

What a file of predictions holds is told in `twodal_jax.evaluation.predictions`. A checkpoint's network
is shown an empty heatmap unless --detections gives landmarks: the annotated ones are the answer.
"""

import sys

from data_pipelines import sparse_benchmarks
from scripts import benchmark_cli as cli
from scripts import sparse_evaluation

if __name__ == "__main__":
    cli.run(
        lambda: sparse_evaluation.evaluate(
            sys.argv[1:], module="scripts.evaluate_aflw", description=__doc__,
            read=sparse_benchmarks.read_aflw, image_of=sparse_benchmarks.aflw_image,
            default_map="aflw21", count=sparse_benchmarks.AFLW_POINTS, published_measure=None,
        ),
        *sparse_evaluation.MENDABLE,
    )  # fmt: skip
