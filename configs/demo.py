"""2DAL on faces of the built-in face model, without downloads: the config of `make demo`.

    python -m twodal_jax.main --config=configs/demo.py --workdir=runs/demo

Renders faces, trains both stages and evaluates; at most 10 minutes on two CPU cores, with 6 GB of memory.
"""

import ml_collections

from configs import aflw, paper
from configs.variants import apply_variant, canonical


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """The config of a variant of `configs.variants`."""
    config = aflw.get_config()
    config.name = "demo"
    config.morphable_model = "builtin"
    config.crop_looseness = 1.1  # rendered crops are as loose as a detector's (`face_models.sampling`)
    config.data.annotated = paper.data_set("", source="synthetic", count=2000, seed=1)
    config.data.wild = paper.data_set("", source="synthetic", count=2000, seed=2)
    config.data.evaluation = paper.data_set("", source="synthetic", count=300, seed=3)

    config.mirror_prediction = True  # on 199 photos, image alone: 6.26 % instead of 6.90 %
    config.validation_faces = 0  # the last state is the result

    config.stage1.steps = 300
    config.stage2.steps = 2_200
    config.stage2.final_learning_rate = 5e-5

    config.run.log_every = 50
    config.run.evaluate_every = 500
    config.run.checkpoint_every = 500
    if canonical(variant) == "plain":  # as in aflw.py
        config.stage1.steps *= 3
        config.stage2.steps *= 3
    return apply_variant(config, variant)
