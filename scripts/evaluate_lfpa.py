"""NME on AFLW-LFPA's 34 visible landmarks (Table I), for a checkpoint or anybody's predictions.

    python -m scripts.evaluate_lfpa --data_dir=AFLW-LFPA --output_dir=out --checkpoint=runs/paper

The folder holds TestImages/, Landmark.mat and BoundingBox.mat. Where the 34 landmarks lie on a face
model was never published: --landmark_map replaces our guess. What a file of predictions holds is told
in `twodal_jax.evaluation.predictions`.
"""

import sys

from data_pipelines.test_sets import aflw_lfpa
from scripts import evaluation_cli as cli, sparse_evaluation

if __name__ == "__main__":
    cli.run(
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
        *sparse_evaluation.MENDABLE,
    )
