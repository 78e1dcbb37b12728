"""The network `photos` of the package: drawn faces with coefficients, real photos with noisy landmarks.

    TWODAL_DATA_DIR=... python -m twodal_jax.main --config=configs/builtin.py --workdir=runs/photos

TWODAL_DATA_DIR holds `aflw_wild/` and `aflw_wild_more/`: 17,000 photos with 21 landmarks (as in configs/aflw.py). No 3D
annotation of a real face is used: 2DAL learns the shape from drawn faces, and from photos what faces look like. About
half an hour on two busy cores. docs/weights.md has the accuracy and the licence.
"""

import os

import ml_collections

from configs import demo, paper


def get_config() -> ml_collections.ConfigDict:
    """The config."""
    config = demo.get_config()
    config.name = "builtin"
    data = paper.data_dir()
    config.data.annotated = paper.data_set("", source="synthetic", count=8000, seed=1)
    config.data.wild = paper.data_set(
        "",
        source="wild_csv",
        input=",".join(os.path.join(data, name) for name in ("aflw_wild", "aflw_wild_more")),
        make=True,
        pixel_origin=0.7,  # as in configs/aflw.py
    )
    # The photos are crops of the exact box. On 250 training photos of AFLW2000-3D: 4.51 % of error, 4.64 % with 1.1.
    config.crop_looseness = 1.0
    config.stage1.steps, config.stage2.steps = 1_500, 6_000
    config.run.log_every, config.run.evaluate_every, config.run.checkpoint_every = 100, 1000, 1000
    return config
