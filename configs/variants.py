"""The rows of the ablation (Section IV-D), as `--config=configs/NAME.py:VARIANT`.

  full         2DAL (ss+sc): all losses. Alias: ss+sc
  ss           2DAL (ss): L_2d-con, L_3d-con and L_cyc, without the self-critic. Alias: no-sc
  sc           2DAL (sc): the self-critic alone; the network sees the image alone
  plain        2DAL (base): annotated images only; the network sees the image alone. Alias: base
  base+reproj  base, and L_2d-con on wild images [ours]; the network sees the image alone
  no-2d-con, no-3d-con, no-cyc   full without this one loss [ours]
  3ddfa        Table II's baseline: L_3d, then VDC; L_2d-con on wild images with equal weights; image alone
  defa         Table II's baseline: unweighted coefficients and the contour; L_2d-con on wild images with equal
               weights; image alone

The heatmap is off in the variants that the paper trains on the image alone. `scripts.run_ablation` turns it on in all
of them, so that the rows of one table differ in their losses only (docs/ablation.md).

VARIANT-no-extras, such as `ss-no-extras`, is the same without this project's additions to the paper (EXTRAS_OFF).

The paper contradicts itself about the weights of L_2d-con. It defines (base) and (sc) without self-supervision, to
which L_2d-con belongs; in Fig. 10 it trains them with and without these weights. The rows here follow the definition:
they have no L_2d-con, and the weights do not change them.
"""

import dataclasses

import ml_collections


@dataclasses.dataclass(frozen=True)
class Variant:
    """The switches of one row.

    Attributes:
      title: of the row in tables.
      self_supervision: whether L_2d-con, L_3d-con and L_cyc are used.
      self_critic: whether L_sc is used.
      heatmap: False shows the network the image alone, as the paper defines the row.
      without: losses of `config.stageN.loss_weights` that get weight 0.
      equal_weights: whether the 18 landmarks have equal weights, and L_2d-con has a weight in stage 2 too.
    """

    title: str
    self_supervision: bool = True
    self_critic: bool = True
    heatmap: bool = True
    without: tuple[str, ...] = ()
    equal_weights: bool = False


_SECOND_PASS = ("loss_3d_con", "loss_cyc")
_REPROJECTION = dict(self_critic=False, heatmap=False, without=_SECOND_PASS)
VARIANTS = {
    "full": Variant("ss+sc (2DAL)"),
    "ss": Variant("ss (ss+sc without L_sc)", self_critic=False),
    "sc": Variant("sc", self_supervision=False, heatmap=False),
    "plain": Variant("base", self_supervision=False, self_critic=False, heatmap=False),
    "base+reproj": Variant("base + L_2d-con", **_REPROJECTION),
    "no-2d-con": Variant("ss+sc without L_2d-con", without=("loss_2d_con",)),
    "no-3d-con": Variant("ss+sc without L_3d-con", without=("loss_3d_con",)),
    "no-cyc": Variant("ss+sc without L_cyc", without=("loss_cyc",)),
    "3ddfa": Variant("3DDFA-style", equal_weights=True, **_REPROJECTION),
    "defa": Variant("DeFA-style", equal_weights=True, **_REPROJECTION),
}
ALIASES = {"base": "plain", "ss+sc": "full", "no-sc": "ss"}
WITHOUT_EXTRAS = "-no-extras"
# The paper's settings of the fields that configs/aflw.py changes. The weight decay is paper.py's, for SGD; aflw.py's
# 0.05 is Muon's decoupled one.
EXTRAS_OFF = {
    "learn_landmark_offsets": False,
    "jaw_weight": 0.0,
    "yaw_oversampling_annotated": (1, 1, 1),
    "yaw_oversampling_wild": (1, 1, 1),
    "normalize_by_visibility": False,
    "regressor.variant": "standard",
    "optimizer.name": "sgd",
    "optimizer.weight_decay": 5e-4,
}


def canonical(variant: str) -> str:
    """The name of a variant without aliases and without `WITHOUT_EXTRAS`."""
    name = variant.removesuffix(WITHOUT_EXTRAS)
    return ALIASES.get(name, name)


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Sets a variant's switches in a config; returns it.

    Raises:
      ValueError: there is no such variant.
    """
    name = canonical(variant)
    if name not in VARIANTS:
        known = ", ".join((*VARIANTS, *ALIASES))
        raise ValueError(
            f"Unknown variant {variant!r}; expected one of {known}, with {WITHOUT_EXTRAS} appended for the same"
            " without extras."
        )
    chosen = VARIANTS[name]
    config.self_supervision, config.self_critic = chosen.self_supervision, chosen.self_critic
    config.heatmap.enabled = chosen.heatmap
    if variant.endswith(WITHOUT_EXTRAS):
        config.update_from_flattened_dict(EXTRAS_OFF)
        name += WITHOUT_EXTRAS
    if chosen.equal_weights:
        config.landmark_mask = (1.0, 1.0, 1.0)
        config.jaw_weight = float(config.jaw_weight > 0)
        weights = config.stage2.loss_weights
        weights.loss_2d_con = weights.loss_2d_con or config.stage1.loss_weights.loss_2d_con
    for stage in (config.stage1, config.stage2):
        stage.loss_weights.update(dict.fromkeys(chosen.without, 0.0))
    if canonical(variant) == "defa":
        _defa_losses(config)
    if name != "full":
        config.name = f"{config.name}:{name}"
    return config


def _defa_losses(config: ml_collections.ConfigDict) -> None:
    """Sets the losses of DeFA in both stages: unweighted coefficients and the jaw's contour, without VDC."""
    weight = config.stage1.loss_weights.loss_3d
    for stage in (config.stage1, config.stage2):
        stage.loss_weights.loss_3d = 0.0
        stage.loss_weights.loss_vdc = 0.0
        stage.loss_weights.loss_pdc = weight
        # One pixel at the contour has the weight of one pixel at all 18 landmarks.
        landmarks = 18.0 if config.loss_reduction == "sum" else 1.0
        stage.loss_weights.loss_contour = landmarks * stage.loss_weights.loss_2d_con
