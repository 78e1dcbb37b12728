"""From a config to what the trainer is fed: finds, makes and opens the data sets of a run."""

from __future__ import annotations

import functools
import os
import pathlib
import sys
from typing import Any

import jax
import ml_collections
import numpy as np

from data_pipelines.loading import loader, oversampling, validation
from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError, PreparedSet
from twodal_jax.evaluation.held_out import HeldOut
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.train import TrainingData
from twodal_jax.training import builder
from twodal_jax.training.batch import JAW_FIELDS

BUILTIN = "builtin"
SYNTHETIC = "synthetic"
KINDS = {"annotated": "annotated", "wild": "wild", "evaluation": "annotated"}
TRAINED_ON = {"annotated": ("image", "alpha"), "wild": ("image", "landmarks", "visible")}
# A part of a config's seed for each stream, so that equal sets are not walked in the same order.
ORDER_SEEDS = {"annotated": 0, "wild": 1}


class MissingData(ValueError):
    """Data the config names is not there; the message lists all of it with what to do."""


def needed_sets(config: ml_collections.ConfigDict) -> list[str]:
    """The names of `config.data` a run reads: the wild set only where a loss looks at it."""
    wild = config.self_supervision or config.self_critic
    return ["annotated", *(["wild"] if wild else []), "evaluation"]


def check_present(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Raises MissingData with one message for everything that is missing; reads nothing large."""
    problems = []
    model = config.morphable_model
    if model != BUILTIN and not os.path.exists(model):
        problems.append(
            f"- morphable model: {model} does not exist.\n"
            "    Get the 40 + 10 model of 3DDFA (its folder `train.configs`, with tri.mat) or one of the\n"
            "    other formats the README lists, and set --config.morphable_model=PATH\n"
            "    (--config.morphable_model=builtin is the built-in one, for synthetic data)."
        )
    for name in needed_sets(config):
        spec, folder = config.data[name], set_folder(config, name, workdir)
        if (folder / prepared_dataset.MANIFEST).is_file() or spec.source == SYNTHETIC:
            continue
        if spec.make and os.path.exists(spec.input):
            continue
        problems.append(_how_to_prepare(config, name, spec, folder))
    if problems:
        raise MissingData(
            f"The config {config.name!r} needs data that is not here:\n"
            + "\n".join(problems)
            + "\nFolders are looked for in $TWODAL_DATA_DIR"
            + (f" ({os.environ['TWODAL_DATA_DIR']})" if "TWODAL_DATA_DIR" in os.environ else " (not set: ./data)")
            + ".\nWithout any data: python -m twodal_jax.main --config=configs/demo.py --workdir=runs/demo"
        )


def _how_to_prepare(config, name: str, spec, folder: pathlib.Path) -> str:
    lines = [
        f"- {name} set: {folder} does not exist"
        + (f", and neither does {spec.input}, which it is made from." if spec.make else ".")
    ]
    if spec.how_to_get:
        lines.append(f"    Get {spec.how_to_get}.")
    if spec.make:
        lines.append(f"    Put it at {spec.input}, or set --config.data.{name}.input=FOLDER.")
        return "\n".join(lines)
    split = f" --split={spec.split}" if spec.split else ""
    model = f" --morphable_model={config.morphable_model}" if spec.source == "mat" else ""
    lines += [
        "    Prepare it:  python -m scripts.prepare_data"
        f" {spec.source} --input={spec.input} --output={folder}{split}{model}",
        f"    or point to a prepared folder: --config.data.{name}.folder=FOLDER",
    ]
    return "\n".join(lines)


def set_folder(config: ml_collections.ConfigDict, name: str, workdir: pathlib.Path) -> pathlib.Path:
    """Where a set lies prepared: as the config says, else in the work directory."""
    folder = config.data[name].folder
    return pathlib.Path(folder) if folder else workdir / "data" / name


def _make(config: ml_collections.ConfigDict, name: str, folder: pathlib.Path) -> None:
    """Prepares a small set into `folder`, with a progress bar."""
    spec = config.data[name]
    if spec.source == SYNTHETIC:
        from data_pipelines.sources import synthetic

        synthetic.generate(folder, KINDS[name], spec.count, spec.seed)
        return
    from data_pipelines.preparation import prepare, progress_bar
    from data_pipelines.sources import registry

    source = registry.open_source(
        spec.source,
        spec.input,
        split=spec.split or None,
        pixel_origin=spec.pixel_origin,
        morphable_model=None if config.morphable_model == BUILTIN else config.morphable_model,
    )
    with progress_bar.preparing(f"{spec.input} -> {folder}") as show:
        summary = prepare.prepare(source, folder, format="arrays", progress=show)
    print(f"{folder}: {summary.count} faces, {len(summary.skips)} skipped", file=sys.stderr)


def _open(config: ml_collections.ConfigDict, name: str, workdir: pathlib.Path) -> PreparedSet:
    folder = set_folder(config, name, workdir)
    if not (folder / prepared_dataset.MANIFEST).is_file() and jax.process_index() == 0:
        _make(config, name, folder)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"data set {name}")
    found = prepared_dataset.open_prepared(folder, kind=KINDS[name])
    _check_made_of(config, name, found)
    return found


def _check_made_of(config: ml_collections.ConfigDict, name: str, found: PreparedSet) -> None:
    """Raises ConfigError if a set that an earlier run made in its folder is not the one this config asks for."""
    spec, manifest = config.data[name], found.manifest
    if spec.folder:  # somebody's choice
        return
    there, here = manifest["source"], f"split {spec.split!r}"
    same = not (spec.make and spec.split) or there.endswith(f":{spec.split}")
    if spec.source == SYNTHETIC:
        there, here = f"{found.count} faces of seed {manifest.get('seed')}", f"{spec.count} faces of seed {spec.seed}"
        same = there == here
    if not same:
        raise builder.ConfigError(
            f"{found.folder}: was made for another config ({there}); this one asks for {here}. Remove it, or give"
            " another --workdir."
        )


def _held_out(found: PreparedSet, rows: np.ndarray) -> HeldOut:
    faces = loader.read_rows(found, rows)
    fields = HeldOut.__dataclass_fields__
    return HeldOut(**{name: np.asarray(faces[name]) for name in fields if name in faces})


def open_training_data(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, model: MorphableModel
) -> tuple[TrainingData, MorphableModel]:
    """Opens (or first makes) a run's data sets.

    Returns:
      The data, and the morphable model: with the annotated set's whitening if it brought none.

    Raises:
      MissingData: see `check_present`. ConfigError: `config.yaw_oversampling_...` or `config.validation_faces` is not what it
        should be.
      PreparedError, SourceError: a set is broken, or lacks the jaw points that `config.jaw_weight` asks for.
    """
    check_present(config, workdir)
    sets = {name: _open(config, name, workdir) for name in needed_sets(config)}
    manifest = sets["annotated"].manifest
    if not model.has_whitening:
        model = model.with_whitening(manifest["alpha_mean"], manifest["alpha_std"])

    trained_on = fields_trained_on(config)
    if builder.uses_jaw(config):
        _check_jaw(sets["wild"])

    limited = {name: found.first(config.data[name].limit) for name, found in sets.items()}
    held_back = _validation_rows(config, limited["annotated"])
    rows = {name: _rows(config, name, limited[name]) for name in sets if name in ORDER_SEEDS}
    rows["annotated"] = _without(rows["annotated"], held_back, limited["annotated"])

    def stream(name: str, start_step: int):
        return loader.batches(
            limited[name],
            batch_size=config[f"batch_{name}"],
            seed=2 * config.seed + ORDER_SEEDS[name],
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            fields=trained_on[name],
            rows=rows[name],
            as_decoded=True,
        )

    data = TrainingData(
        annotated=functools.partial(stream, "annotated"),
        wild=functools.partial(stream, "wild") if "wild" in sets else None,
        held_out=_held_out(limited["evaluation"], np.arange(limited["evaluation"].count)),
        validation=_held_out(limited["annotated"], held_back) if len(held_back) else None,
        description=_describe_all(limited, len(held_back)),
    )
    return data, model


def _rows(config: ml_collections.ConfigDict, name: str, found: PreparedSet) -> np.ndarray | None:
    """The faces of one epoch of a set that is trained on; None: each of them once."""
    try:
        return oversampling.rows_by_yaw(found, config[f"yaw_oversampling_{name}"])
    except oversampling.RepeatsError as error:
        raise builder.ConfigError(f"config.yaw_oversampling_{name}: {error}") from None


def _validation_rows(config: ml_collections.ConfigDict, annotated: PreparedSet) -> np.ndarray:
    try:
        return validation.rows(annotated, config.validation_faces)
    except validation.ValidationError as error:
        raise builder.ConfigError(f"config.validation_faces: {error}.") from None


def _without(rows: np.ndarray | None, held_back: np.ndarray, annotated: PreparedSet) -> np.ndarray | None:
    """The rows of an epoch (None: each face once) but those held back."""
    if not len(held_back):
        return rows
    rows = np.arange(annotated.count) if rows is None else rows
    rows = rows[~np.isin(rows, held_back)]
    if not len(rows):
        raise builder.ConfigError(
            f"config.yaw_oversampling_annotated and config.validation_faces leave no face of {annotated.folder} to train on."
        )
    return rows


def fields_trained_on(config) -> dict[str, tuple[str, ...]]:
    """{"annotated", "wild": the fields of a set (`manifest.py`) that a step of this config takes}."""
    jaw = tuple(JAW_FIELDS.values()) if builder.uses_jaw(config) else ()
    return TRAINED_ON | {"wild": TRAINED_ON["wild"] + jaw}


def _check_jaw(wild: PreparedSet) -> None:
    missing = [name for name in JAW_FIELDS.values() if name not in wild.fields]
    if missing:
        raise PreparedError(
            f"{wild.folder}: has no {' and '.join(missing)}, which config.jaw_weight asks for. Its source marks"
            " fewer than 21 points (no ears and chin), or it was prepared before they were kept: prepare it again,"
            " or train without: --config.jaw_weight=0"
        )


def _describe_all(sets: dict[str, PreparedSet], held_back: int) -> dict[str, dict[str, Any]]:
    """Of each set; of the annotated one the faces trained on, and those held back as a set of their own."""
    described = {name: _describe(found) for name, found in sets.items()}
    if held_back:
        described["annotated"]["faces"] -= held_back
        described["validation"] = {"source": described["annotated"]["source"], "faces": held_back}
    return described


def _describe(found: PreparedSet) -> dict[str, Any]:
    return {
        "source": found.manifest["source"],
        "faces": found.count,
        "skipped": found.manifest.get("skipped", {}),
        "format": found.format,
    }
