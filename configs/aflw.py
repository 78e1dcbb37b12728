"""2DAL on a small set of real faces: 999 annotated ones, 10,000 wild ones, 199 to measure on.

    TWODAL_DATA_DIR=... python -m twodal_jax.main --config=configs/aflw.py --workdir=runs/aflw

TWODAL_DATA_DIR holds `aflw2000/` (images with .mat files, annotations.npz with splits `train` and `val`,
fan_landmarks.csv), `aflw_wild/` (120-pixel crops, landmarks21.csv) and `bfm_3ddfa/`. The sets are made
ready in the work directory at the first start (about a minute).

For a GPU: --config.regressor.name=resnet50 --config.regressor.width=1.0
The plain variant (image alone, annotated images alone): --config=configs/aflw.py:plain
"""

import ml_collections

from configs import paper
from configs.variants import apply_variant


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    config = paper.get_config()
    config.name = "aflw"
    data = paper.data_dir()
    config.data.annotated = paper.data_set(
        "", source="mat", input=f"{data}/aflw2000", split="train", make=True
    )
    config.data.wild = paper.data_set(
        "", source="wild_csv", input=f"{data}/aflw_wild", make=True
    )
    config.data.evaluation = paper.data_set(
        "", source="mat", input=f"{data}/aflw2000", split="val", make=True
    )

    config.regressor.name = "resnet18"
    config.regressor.variant = "standard"
    config.regressor.width = 0.25
    config.critic.width = 0.25

    return apply_variant(config, variant)
