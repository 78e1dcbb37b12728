"""The variants of the paper's ablation (Section IV-D), as `--config=configs/NAME.py:VARIANT`.

  full     2DAL (ss+sc): everything. Also: ss+sc
  ss       2DAL (ss): self-supervision without the self-critic
  sc       2DAL (sc): the image alone, with the self-critic
  plain    2DAL (base): the image alone, annotated images alone. Also: base
  3ddfa    Table II's baseline: the image alone, weighted coefficients, then VDC; wild images by matching
           their 2D landmarks
  defa     Table II's other baseline: the image alone, unweighted coefficients and the contour constraint;
           wild images by matching their 2D landmarks

The paper contradicts itself about L_2d-con's weights: it defines (base) and (sc) without self-supervision, to which
L_2d-con belongs, and in Fig. 10 runs them with and without its weights. The definition is followed here: these two
have no L_2d-con, and other weights make no other run of them.
"""

import ml_collections

# name -> (self-supervision, self-critic, heatmap)
VARIANTS = {
    "full": (True, True, True),
    "ss": (True, False, True),
    "sc": (False, True, False),
    "plain": (False, False, False),
    "3ddfa": (True, False, False),
    "defa": (True, False, False),
}
ALIASES = {"base": "plain", "ss+sc": "full"}


def canonical(variant: str) -> str:
    """The one name of a variant."""
    return ALIASES.get(variant, variant)


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """The same config with the ablation's switches set."""
    name = canonical(variant)
    if name not in VARIANTS:
        known = ", ".join((*VARIANTS, *ALIASES))
        raise ValueError(f"Unknown variant {variant!r}; expected one of {known}.")
    config.self_supervision, config.self_critic, config.heatmap.enabled = VARIANTS[name]
    if name in ("3ddfa", "defa"):
        _match_landmarks_only(config)
    if name == "defa":
        _defa_losses(config)
    if name != "full":
        config.name = f"{config.name}:{name}"
    return config


def _match_landmarks_only(config: ml_collections.ConfigDict) -> None:
    """Wild images serve by their 2D landmarks alone, all of one weight, in both stages."""
    config.landmark_mask = (1.0, 1.0, 1.0)
    config.jaw_weight = float(config.jaw_weight > 0)
    for stage in (config.stage1, config.stage2):
        stage.loss_weights.loss_2d_con = config.stage1.loss_weights.loss_2d_con
        stage.loss_weights.loss_3d_con = 0.0
        stage.loss_weights.loss_cyc = 0.0


def _defa_losses(config: ml_collections.ConfigDict) -> None:
    """Coefficients without weights, and the jaw's contour; no VDC."""
    weight = config.stage1.loss_weights.loss_3d
    for stage in (config.stage1, config.stage2):
        stage.loss_weights.loss_3d = 0.0
        stage.loss_weights.loss_vdc = 0.0
        stage.loss_weights.loss_parameters = weight
        # A pixel of the outline weighs as much as a pixel of all 18 landmarks.
        stage.loss_weights.loss_contour = 18.0 * stage.loss_weights.loss_2d_con
