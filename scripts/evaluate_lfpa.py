"""NME on AFLW-LFPA's 34 landmarks, if visible (Table I), for a checkpoint or predictions of any method.

    python -m scripts.evaluate_lfpa --data_dir=AFLW-LFPA --output_dir=out --checkpoint=runs/paper

The folder holds TestImages/, Landmark.mat and BoundingBox.mat. The places of the 34 landmarks on a face model were
never published: --landmark_map replaces our estimate. `twodal_jax.evaluation.predictions` describes prediction files.
"""

import sys

from data_pipelines.test_sets import aflw_lfpa
from scripts import sparse_evaluation, terminal

if __name__ == "__main__":
    terminal.run(
        lambda: sparse_evaluation.evaluate(
            sys.argv[1:],
            module="scripts.evaluate_lfpa",
            description=__doc__,
            read=aflw_lfpa.read_lfpa,
            image_of=aflw_lfpa.lfpa_image,
            default_map="lfpa34",
            count=aflw_lfpa.LFPA_POINTS,
            published_measure="nme_lfpa",
        ),
        *sparse_evaluation.USER_ERRORS,
    )
