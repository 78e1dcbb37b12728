"""The networks in the package: drawn faces with coefficients, real photos with noisy landmarks.

    TWODAL_DATA_DIR=... python -m twodal_jax.main --config=configs/builtin.py --workdir=runs/photos
    python -m twodal_jax.main --config=configs/builtin.py:free --workdir=runs/free

`photos`: the wild images are photos with 21 landmarks (`aflw_wild/` and `aflw_wild_more/` in TWODAL_DATA_DIR, as in
configs/aflw.py). `free`: both sets are drawn, and no data is needed. Neither sees a 3D annotation of a real face.
docs/weights.md has both networks' accuracy and licences.
"""

import os

import ml_collections

from configs import demo, paper


def get_config(variant: str = "photos") -> ml_collections.ConfigDict:
    """The config of `photos` or `free`."""
    if variant not in ("photos", "free"):
        raise ValueError(f"Unknown variant {variant!r}; expected photos or free.")
    config = demo.get_config()
    config.name = f"builtin:{variant}"
    config.data.annotated = paper.data_set("", source="synthetic", count=8000, seed=1)
    config.run.log_every, config.run.evaluate_every, config.run.checkpoint_every = 100, 1000, 1000
    if variant == "photos":
        data = paper.data_dir()
        config.data.wild = paper.data_set(
            "",
            source="wild_csv",
            input=",".join(os.path.join(data, name) for name in ("aflw_wild", "aflw_wild_more")),
            make=True,
            pixel_origin=0.7,  # as in configs/aflw.py
        )
        config.stage1.steps, config.stage2.steps = 1_500, 6_000
    else:
        config.data.wild = paper.data_set("", source="synthetic", count=8000, seed=2)
        config.stage1.steps, config.stage2.steps = 500, 4_500
    return config
