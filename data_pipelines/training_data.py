"""Data sets of a training run: located, prepared if needed, and opened according to its config."""

import functools
import os
import pathlib
import sys
from typing import Any

import jax
import ml_collections
import numpy as np

from data_pipelines.loading import loader, oversampling, validation
from data_pipelines.sources.joined import split_folders
from data_pipelines.storage import prepared_dataset
from data_pipelines.storage.prepared_dataset import PreparedError, PreparedSet
from twodal_jax.evaluation.held_out import HeldOut
from twodal_jax.face_models.load import BUILTIN
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.train import TrainingData
from twodal_jax.training import builder
from twodal_jax.training.batch import JAW_FIELDS

SYNTHETIC = "synthetic"
KINDS = {"annotated": "annotated", "wild": "wild", "evaluation": "annotated"}
TRAINED_ON = {"annotated": ("image", "alpha"), "wild": ("image", "landmarks", "visible")}
# Added to a config's seed, so that the two streams use different orders even for equal sets.
ORDER_SEEDS = {"annotated": 0, "wild": 1}


class MissingData(ValueError):
    """Data of the config is missing; the message lists all of it, with what to do."""


def needed_sets(config: ml_collections.ConfigDict) -> list[str]:
    """Names of `config.data` that a run reads; the wild set only if a loss uses it."""
    wild = config.self_supervision or config.self_critic
    return ["annotated", *(["wild"] if wild else []), "evaluation"]


def check_present(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Raises MissingData with one message about everything that is missing; reads no large file."""
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
        if spec.make and all(map(os.path.exists, split_folders(spec.input))):
            continue
        problems.append(_how_to_prepare(config, name, spec, folder))
    if problems:
        raise MissingData(
            f"The config {config.name!r} needs data that is not here:\n"
            + "\n".join(problems)
            + "\nFolders are relative to $TWODAL_DATA_DIR"
            + (f" ({os.environ['TWODAL_DATA_DIR']})" if "TWODAL_DATA_DIR" in os.environ else " (not set: ./data)")
            + ".\nWithout any data: python -m twodal_jax.main --config=configs/demo.py --workdir=runs/demo"
        )


def _how_to_prepare(config, name: str, spec, folder: pathlib.Path) -> str:
    lines = [
        f"- {name} set: {folder} does not exist"
        + (f", nor does {spec.input}, from which it is made." if spec.make else ".")
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
    """Prepared folder of a set: that of the config, or by default one in the work directory."""
    folder = config.data[name].folder
    return pathlib.Path(folder) if folder else workdir / "data" / name


def _make(config: ml_collections.ConfigDict, name: str, folder: pathlib.Path) -> None:
    """Prepares a set into `folder`, with a progress bar."""
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
    for note in source.notes:
        print(f"{spec.input}: {note}", file=sys.stderr)
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
    opened = prepared_dataset.open_prepared(folder, kind=KINDS[name])
    _check_origin(config, name, opened)
    return opened


def _check_origin(config: ml_collections.ConfigDict, name: str, opened: PreparedSet) -> None:
    """Raises ConfigError if an earlier run made the set of its work directory for another config."""
    spec, manifest = config.data[name], opened.manifest
    if spec.folder:  # chosen by the user
        return
    there, here = manifest["source"], f"split {spec.split!r}"
    same = not (spec.make and spec.split) or spec.split in there.split(":")
    if spec.source == SYNTHETIC:
        there, here = f"{opened.count} faces of seed {manifest.get('seed')}", f"{spec.count} faces of seed {spec.seed}"
        same = there == here
    if not same:
        raise builder.ConfigError(
            f"{opened.folder}: was made for another config ({there}); this one asks for {here}. Remove it, or give"
            " another --workdir."
        )


def _held_out(opened: PreparedSet, rows: np.ndarray) -> HeldOut:
    faces = loader.read_rows(opened, rows)
    fields = HeldOut.__dataclass_fields__
    return HeldOut(**{name: np.asarray(faces[name]) for name in fields if name in faces})


def open_training_data(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, model: MorphableModel
) -> tuple[TrainingData, MorphableModel]:
    """Opens a run's data sets, and prepares them first if needed.

    Returns:
      The data, and the morphable model, which gets the annotated set's whitening if it has none.

    Raises:
      MissingData: see `check_present`.
      ConfigError: `config.yaw_oversampling_...` or `config.validation_faces` is invalid.
      PreparedError: a set is broken, or lacks the jaw points that `config.jaw_weight` needs; also SourceError.
    """
    check_present(config, workdir)
    sets = {name: _open(config, name, workdir) for name in needed_sets(config)}
    manifest = sets["annotated"].manifest
    if not model.has_whitening:
        model = model.with_whitening(manifest["alpha_mean"], manifest["alpha_std"])

    trained_on = fields_trained_on(config)
    if builder.uses_jaw(config):
        _check_jaw(sets["wild"])

    limited = {name: opened.first(config.data[name].limit) for name, opened in sets.items()}
    withheld = _validation_rows(config, limited["annotated"])
    validation_rows = validation.unturned(limited["annotated"], withheld)
    rows = {name: _epoch_rows(config, name, limited[name]) for name in sets if name in ORDER_SEEDS}
    rows["annotated"] = _without(rows["annotated"], withheld, limited["annotated"])

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
        validation=_held_out(limited["annotated"], validation_rows) if len(validation_rows) else None,
        description=_describe(limited, len(withheld), len(validation_rows)),
    )
    return data, model


def _epoch_rows(config: ml_collections.ConfigDict, name: str, opened: PreparedSet) -> np.ndarray | None:
    """Rows of one epoch of a training set; None: every face once."""
    photos = config.photo_oversampling if name == "annotated" else 1
    try:
        return oversampling.rows_by_yaw(opened, config[f"yaw_oversampling_{name}"], photos)
    except oversampling.OversamplingError as error:
        raise builder.ConfigError(f"config.yaw_oversampling_{name}: {error}") from None


def _validation_rows(config: ml_collections.ConfigDict, annotated: PreparedSet) -> np.ndarray:
    try:
        return validation.rows(annotated, config.validation_faces)
    except validation.ValidationError as error:
        raise builder.ConfigError(f"config.validation_faces: {error}.") from None


def _without(rows: np.ndarray | None, excluded: np.ndarray, annotated: PreparedSet) -> np.ndarray | None:
    """The rows of an epoch (None: every face once) without the excluded ones."""
    if not len(excluded):
        return rows
    rows = np.arange(annotated.count) if rows is None else rows
    rows = rows[~np.isin(rows, excluded)]
    if not len(rows):
        raise builder.ConfigError(
            "config.yaw_oversampling_annotated and config.validation_faces leave no face of"
            f" {annotated.folder} to train on."
        )
    return rows


def fields_trained_on(config) -> dict[str, tuple[str, ...]]:
    """{"annotated" or "wild": fields of the set (`storage.manifest`) that a step of this config reads}."""
    jaw = tuple(JAW_FIELDS.values()) if builder.uses_jaw(config) else ()
    return TRAINED_ON | {"wild": TRAINED_ON["wild"] + jaw}


def _check_jaw(wild: PreparedSet) -> None:
    missing = [name for name in JAW_FIELDS.values() if name not in wild.fields]
    if missing:
        raise PreparedError(
            f"{wild.folder}: has no {' and '.join(missing)}, which config.jaw_weight needs. Its source has no 21"
            " landmarks (with ears and chin): use another source, or train without: --config.jaw_weight=0"
        )


def _describe(sets: dict[str, PreparedSet], withheld: int, validation_faces: int) -> dict[str, dict[str, Any]]:
    """Description of each set; the validation part counts as a set of its own, not as part of the annotated one."""
    described = {
        name: {
            "source": opened.manifest["source"],
            "faces": opened.count,
            "skipped": opened.manifest.get("skipped", {}),
            "format": opened.format,
        }
        for name, opened in sets.items()
    }
    if validation_faces:
        described["annotated"]["faces"] -= withheld
        described["validation"] = {"source": described["annotated"]["source"], "faces": validation_faces}
    return described
