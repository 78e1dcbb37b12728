"""Which error chooses a run's best state, and which errors of a run are not of the paper's protocol."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from twodal_jax.evaluation.held_out import HeldOut

VALIDATION = "validation/"  # before the protocol, in what a run logs


def chosen_by(validation: HeldOut) -> str:
    """The name that the error choosing the best state is logged by: detected landmarks where the part has them, else
    an empty heatmap.
    """
    return VALIDATION + validation.protocols[0]


def best(history: Iterable[Mapping[str, Any]], name: str) -> tuple[int, float] | None:
    """(step, error) of the lowest error logged by `name` after step 0; None where there is none.

    The error is the mean of the yaw bins in per cent. history: see `metric_logger.read_history`.
    """
    found = [
        (entry[f"{name}/mean_of_bins"], entry["step"])
        for entry in history
        if entry["kind"] == "evaluation" and entry["step"] and entry.get(f"{name}/mean_of_bins") is not None
    ]
    if not found:
        return None
    error, step = min(found)
    return step, error


def lowest_error(history: Iterable[Mapping[str, Any]], validation: HeldOut | None) -> float:
    """The error a state must stay below to be the best; infinite before the first, and without a validation part."""
    found = None if validation is None else best(history, chosen_by(validation))
    return float("inf") if found is None else found[1]


def without_detections(config: ml_collections.ConfigDict, held_out: HeldOut, validation: HeldOut | None) -> list[str]:
    """One line for each set that has no detected landmarks where the method shows them to the network."""
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
            f" of the image alone, with an empty heatmap, not of the paper's protocol.{untrained} To have detections:"
            f" python -m scripts.prepare_data mat --input={spec.input or 'FOLDER'} --output=NEW_FOLDER{split}"
            f" --morphable_model={config.morphable_model} --detect=face-alignment, then train with"
            f" --config.data.{name}.folder=NEW_FOLDER."
        )
    return lines
