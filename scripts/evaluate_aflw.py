"""NME by yaw on AFLW's 21 landmarks, for a folder of images with landmarks21.csv.

    python -m scripts.evaluate_aflw --data_dir=aflw_wild --output_dir=out --checkpoint=runs/aflw

`twodal_jax.evaluation.predictions` describes prediction files. A checkpoint's network gets empty heatmaps unless
--detections gives landmarks: the annotated ones are the ground truth and must not be an input.
"""

import sys

from data_pipelines.test_sets import aflw_lfpa
from scripts import sparse_evaluation, terminal

if __name__ == "__main__":
    terminal.run(
        lambda: sparse_evaluation.evaluate(
            sys.argv[1:],
            module="scripts.evaluate_aflw",
            description=__doc__,
            read=aflw_lfpa.read_aflw,
            image_of=aflw_lfpa.aflw_image,
            default_map="aflw21",
            count=aflw_lfpa.AFLW_POINTS,
            published_measure=None,
        ),
        *sparse_evaluation.USER_ERRORS,
    )
