"""The variants of the paper's ablation (Section IV-D), as `--config=configs/NAME.py:VARIANT`."""

import ml_collections

# name -> (self-supervision, self-critic, heatmap)
VARIANTS = {
    "full": (True, True, True),  # 2DAL (ss+sc)
    "ss": (True, False, True),  # 2DAL (ss)
    "sc": (False, True, False),  # 2DAL (sc): image alone
    "plain": (False, False, False),  # 2DAL (base): image alone, annotated images alone
}


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """The same config with the ablation's switches set."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}.")
    config.self_supervision, config.self_critic, config.heatmap.enabled = VARIANTS[variant]
    if variant != "full":
        config.name = f"{config.name}:{variant}"
    return config
