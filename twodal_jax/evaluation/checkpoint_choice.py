"""Choice of a run's best checkpoint by its validation error, and warnings about sets without detections."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from twodal_jax.evaluation.held_out import HeldOut

VALIDATION = "validation/"  # prefix of the protocol in a run's log


def chosen_by(validation: HeldOut) -> str:
    """Log name of the error that chooses the best checkpoint.

    Its heatmaps show detected landmarks if the validation part has any, and are empty otherwise.
    """
    return VALIDATION + validation.protocols[0]


def best(history: Iterable[Mapping[str, Any]], name: str) -> tuple[int, float] | None:
    """(step, error) of the lowest error logged under `name` after step 0; None if there is none.

    The error is the mean of the yaw bins in per cent; history as from `metric_logger.read_history`.
    """
    errors = [
        (entry[f"{name}/mean_of_bins"], entry["step"])
        for entry in history
        if entry["kind"] == "evaluation" and entry["step"] and entry.get(f"{name}/mean_of_bins") is not None
    ]
    if not errors:
        return None
    error, step = min(errors)
    return step, error


def lowest_error(history: Iterable[Mapping[str, Any]], validation: HeldOut | None) -> float:
    """Lowest validation error so far; infinite before the first evaluation and without a validation part."""
    lowest = None if validation is None else best(history, chosen_by(validation))
    return float("inf") if lowest is None else lowest[1]


def without_detections(config: ml_collections.ConfigDict, held_out: HeldOut, validation: HeldOut | None) -> list[str]:
    """One warning for each set without detected landmarks, if the method's heatmaps need them."""
    if not config.heatmap.enabled:
        return []
    lines = []
    for name, part in (("evaluation", held_out), ("annotated", validation)):
        if part is None or part.detected_visible.any():
            continue
        spec = config.data[name]
        split = f" --split={spec.split}" if spec.split else ""
        untrained = (
            " Training never shows the network an empty heatmap (config.augmentation.heatmap_dropout is 0)."
            if not config.augmentation.heatmap_dropout
            else ""
        )
        lines.append(
            f"WARNING: the {name} set has no detected landmarks. Its errors{' (validation)' * (part is validation)} are"
            f" measured with an empty heatmap, which is not the paper's protocol.{untrained} To add detections:"
            f" python -m scripts.prepare_data mat --input={spec.input or 'FOLDER'} --output=NEW_FOLDER{split}"
            f" --morphable_model={config.morphable_model} --detect=face-alignment, then train with"
            f" --config.data.{name}.folder=NEW_FOLDER."
        )
    return lines
