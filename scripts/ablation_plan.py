"""Rows of the ablation, and the command line of each of its training runs.

Rules of a table (docs/ablation.md): all rows have equal steps, equal images a step, the same augmentation and the same
input; every loss of a row acts in both stages; the learning rate is chosen on validation faces.
"""

import dataclasses
import importlib.util
import itertools
from collections.abc import Sequence

import ml_collections

from configs.variants import VARIANTS, WITHOUT_EXTRAS
from twodal_jax.training import builder
from twodal_jax.training.state import WILD_LOSSES

VALIDATION_FACES = 100
HEATMAP_DROPOUT = 0.5  # rows are evaluated with detected landmarks and with the image alone, so they train on both
TUNING_EVALUATION_FACES = 50  # faces of the training set that a tuning run evaluates instead of the test set
NEVER = 1_000_000_000  # steps


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: a variant with or without extras.

    Attributes:
      variant: a key of `configs.variants.VARIANTS`.
      extras: whether the row has this project's additions to the paper.
      weights: the landmark mask "red:pink:yellow"; "": the config's.
      num_wild: number of wild images; 0: all.
    """

    variant: str
    extras: bool
    weights: str = ""
    num_wild: int = 0

    @property
    def config_variant(self) -> str:
        """The variant as in `--config=FILE:VARIANT`."""
        return self.variant + ("" if self.extras else WITHOUT_EXTRAS)

    @property
    def folder(self) -> str:
        """First part of the names of its runs' folders."""
        mask = f"_w{self.weights.replace(':', '-')}" if self.weights else ""
        return self.config_variant + mask + (f"_n{self.num_wild}" if self.num_wild else "")

    @property
    def title(self) -> str:
        """Name of the row in tables."""
        mask = f", weights {self.weights}" if self.weights else ""
        wild = f", {self.num_wild:,} wild images" if self.num_wild else ""
        return VARIANTS[self.variant].title + mask + wild


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run of a row.

    Attributes:
      row: the row.
      seed: `config.seed`.
      steps: of both stages.
      factor: multiplies the config's learning rates.
      tuning: whether the run holds out validation faces, to choose a learning rate.
    """

    row: Row
    seed: int
    steps: int
    factor: float = 1.0
    tuning: bool = False

    @property
    def folder(self) -> str:
        """Name of its folder below the ablation's work directory."""
        kind = f"tune{self.steps}_" if self.tuning else ""
        return f"{kind}{self.row.folder}_lr{self.factor:.3g}_s{self.seed}"


def planned_rows(
    variants: Sequence[str], extras: Sequence[bool], weights: Sequence[str], num_wild: Sequence[int]
) -> list[Row]:
    """Every combination, each once.

    The mask has no effect without L_2d-con and L_cyc, and in 3DDFA- and DeFA-style rows, which have equal weights by
    definition. The number of wild images has none without losses on them.
    """
    rows = []
    for with_extras, variant, mask, wild in itertools.product(extras, variants, weights, num_wild):
        chosen = VARIANTS[variant]
        uses_mask = chosen.self_supervision and not chosen.equal_weights
        uses_wild = chosen.self_supervision or chosen.self_critic
        row = Row(variant, with_extras, mask if uses_mask else "", wild if uses_wild else 0)
        if row not in rows:
            rows.append(row)
    return rows


def load_config(path: str, variant: str) -> ml_collections.ConfigDict:
    """The config that `--config=PATH:VARIANT` gives a run."""
    spec = importlib.util.spec_from_file_location("ablation_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def total_steps(config: ml_collections.ConfigDict) -> int:
    """Number of steps of both stages."""
    return config.stage1.steps + config.stage2.steps


def stage_steps(config: ml_collections.ConfigDict, steps: int) -> tuple[int, int]:
    """`steps` divided between the stages in the config's ratio; a stage with steps keeps at least one."""
    first, second = config.stage1.steps, config.stage2.steps
    if not first or not second:
        return (steps, 0) if first else (0, steps)
    share = min(max(round(steps * first / (first + second)), 1), steps - 1)
    return share, steps - share


def learning_rate(config: ml_collections.ConfigDict, factor: float) -> float:
    """The highest rate of a run's schedule."""
    stages = builder.stage_configs(config).values()
    return max(stage.learning_rate for stage in stages) * config.optimizer.rate_scale * factor


def images_a_step(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """(annotated, wild) images of a step. A row without losses on wild images sees annotated ones instead."""
    if config.self_supervision or config.self_critic:
        return config.batch_annotated, config.batch_wild
    return config.batch_annotated + config.batch_wild, 0


def _both_stages(config: ml_collections.ConfigDict) -> list[str]:
    """Flags that give losses on wild images the weight of stage 1 where stage 2 has none.

    Otherwise rows would differ in stage 1 only, and would see fewer images in stage 2.
    """
    first, second = (builder.loss_weights(config, config[stage]) for stage in ("stage1", "stage2"))
    return [
        f"--config.stage2.loss_weights.{name}={first[name]}" for name in WILD_LOSSES if first[name] and not second[name]
    ]


def run_arguments(
    run: Run, config_path: str, full: ml_collections.ConfigDict, workdir: str, *, same_input: bool, extra: Sequence[str]
) -> list[str]:
    """The command line of `twodal_jax.main` for a run, without the interpreter.

    Args:
      run: the run.
      config_path: the config file.
      full: the config of the variant `full`, whose steps and images a step all rows have.
      workdir: of the ablation. Data sets without a folder are prepared in it once, for all runs.
      same_input: whether all rows see the heatmap; otherwise each row sees what the paper defines.
      extra: further flags, put last.
    """
    row = run.row
    config = load_config(config_path, row.config_variant)
    config.batch_annotated, config.batch_wild = full.batch_annotated, full.batch_wild
    annotated, wild = images_a_step(config)
    first, second = stage_steps(full, run.steps)
    settings = {
        "seed": run.seed,
        "batch_annotated": annotated,
        "batch_wild": wild or full.batch_wild,
        "stage1.steps": first,
        "stage2.steps": second,
        "optimizer.rate_scale": config.optimizer.rate_scale * run.factor,
        "run.evaluate_every": NEVER,  # each stage's end is evaluated anyway
    }
    if row.weights:
        settings["landmark_mask"] = tuple(float(part) for part in row.weights.split(":"))
    if row.num_wild:
        settings["data.wild.limit"] = row.num_wild
    if same_input:
        settings |= {"heatmap.enabled": True, "augmentation.heatmap_dropout": HEATMAP_DROPOUT}
    folders = {name: config.data[name].folder or f"{workdir}/data/{name}" for name in config.data}
    if run.tuning:
        settings["data.evaluation.limit"] = TUNING_EVALUATION_FACES
        folders["evaluation"] = folders["annotated"]
        settings["run.max_skipped_in_a_row"] = NEVER  # a diverging rate gives a high error, not an exception
    settings |= {f"data.{name}.folder": folder for name, folder in folders.items()}
    settings["validation_faces"] = VALIDATION_FACES if run.tuning else 0
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    return [
        "-m",
        "twodal_jax.main",
        f"--config={config_path}:{row.config_variant}",
        f"--workdir={workdir}/{run.folder}",
        *flags,
        *_both_stages(config),
        *extra,
    ]
