"""Final evaluation of a training run: `metrics.json`, `report.html` and `examples.jpg`."""

import os
import pathlib
import platform
from typing import Any

import cv2
import jax
import ml_collections
import numpy as np

from twodal_jax.evaluation import checkpoint_choice, held_out as held_out_module, metrics
from twodal_jax.evaluation.held_out import HeldOut
from twodal_jax.forward import trim_margin
from twodal_jax.geometry import heatmap, projection
from twodal_jax.geometry.morphable_model import MorphableModel
from twodal_jax.io.text import write_json
from twodal_jax.rendering import drawing, overlay
from twodal_jax.reporting import html_report
from twodal_jax.training import builder, metric_logger, stage_batches
from twodal_jax.training.state import num_parameters, TrainSpec, TrainState

NO_DETECTIONS = "Image alone (no detections in the set)"
LOSS_UNITS = {
    "loss_2d_con": "weighted crop pixels",
    "loss_cyc": "weighted crop pixels",
    "loss_3d_con": "crop pixels",
    "loss_vdc": "crop pixels squared",
}


def _titles(held_out: HeldOut) -> dict[str, str]:
    """{protocol: title in the report} of a set."""
    if held_out_module.DETECTED not in held_out.protocols:
        return {held_out_module.EMPTY: NO_DETECTIONS}
    return {held_out_module.DETECTED: "Detected landmarks", held_out_module.EMPTY: "Empty heatmap (image alone)"}


def _all_titles(data: Any) -> dict[str, str]:
    """{name in the log: title} of the test set's protocols and of the validation part."""
    titles = _titles(data.held_out)
    if data.validation is not None:
        title = _titles(data.validation)[data.validation.protocols[0]]
        titles[checkpoint_choice.chosen_by(data.validation)] = f"Validation part, {title[0].lower()}{title[1:]}"
    return titles


def _stage_ends(config: ml_collections.ConfigDict) -> dict[str, int]:
    """{stage of the weights: step}, before training and after each stage."""
    ends, step = {"before training": 0}, 0
    for name, stage in builder.stage_configs(config).items():
        step += stage.steps
        ends[f"after {name.replace('stage', 'stage ')}"] = step
    return ends


def _summaries(history: list[dict], step: int) -> dict[str, dict[str, Any]]:
    """{protocol: summary} of the evaluation logged at `step`; the validation part is "validation/PROTOCOL"."""
    for entry in history:
        if entry["kind"] == "evaluation" and entry["step"] == step:
            split = [(*name.rsplit("/", 1), value) for name, value in entry.items() if "/" in name]
            protocols = dict.fromkeys(protocol for protocol, _, _ in split)
            return {p: {key: value for q, key, value in split if q == p} for p in protocols}
    return {}


def _histories(history: list[dict], kind: str, chosen) -> dict[str, list[tuple[int, float]]]:
    """{name: [(step, value), ...]} of the log entries of a kind whose name `chosen` accepts."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        if entry["kind"] != kind:
            continue
        for name, value in entry.items():
            if chosen(name) and value is not None:
                curves.setdefault(name, []).append((entry["step"], value))
    return curves


def _examples(
    held_out: HeldOut, model: MorphableModel, spec: TrainSpec, protocol: str, alphas, points, errors, count
) -> list[html_report.Example]:
    """`count` faces from best to worst, each with four pictures."""
    chosen = metrics.best_to_worst(errors, count)
    visible = held_out.detected_visible * float(protocol == held_out_module.DETECTED and spec.heatmap.enabled)
    examples = []
    for index, rank in zip(chosen, metrics.rank_names(len(chosen))):
        channel = heatmap.heatmap(
            held_out.detected[index], visible[index], sigma=spec.heatmap.sigma, kind=spec.heatmap.kind
        )
        pictures = overlay.example_pictures(
            trim_margin(held_out.image[index]),
            np.asarray(channel),
            points[index],
            np.asarray(projection.vertices_crop(model, alphas[index])),
            model.triangles,
            landmarks_true=held_out.landmarks68[index],
        )
        examples.append(
            html_report.Example(
                name=str(held_out.name[index]),
                nme=float(errors[index]),
                yaw_deg=float(held_out.yaw_deg[index]),
                pictures=pictures,
                rank=rank,
            )
        )
    return examples


def write(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    model: MorphableModel,
    data: Any,
    spec: TrainSpec,
    state: TrainState,
    *,
    seconds: float,
) -> None:
    """Evaluates the final state and writes metrics.json, report.html and examples.jpg into `workdir`.

    data: the run's `train.TrainingData`. seconds: wall time that this process trained for.
    """
    held_out = data.held_out
    predictions = {}
    for protocol in held_out.protocols:
        alphas, points = held_out_module.predict(
            state.regressor, held_out, model, spec, protocol, batch_size=config.run.evaluation_batch
        )
        predictions[protocol] = alphas, points, held_out_module.nme_2d_68(points, held_out)
    history = metric_logger.read_history(workdir)
    results = {stage: _summaries(history, step) for stage, step in _stage_ends(config).items()}
    final = {p: metrics.summarize(e, held_out.yaw_deg) for p, (_, _, e) in predictions.items()}
    results[list(results)[-1]] |= final
    titles, best = _all_titles(data), None
    if data.validation is not None:
        best = checkpoint_choice.best(history, checkpoint_choice.chosen_by(data.validation))
    dense = {}
    if held_out.alpha is not None:
        for protocol, (alphas, _, _) in predictions.items():
            errors = held_out_module.nme_3d_dense(alphas, held_out, model)
            dense[protocol] = metrics.summarize(errors, held_out.yaw_deg)
    write_json(workdir / "metrics.json", _metrics_json(config, data, state, results, dense, best))
    rates = [entry["images_per_second"] for entry in history if entry["kind"] == "train"]
    losses = _histories(history, "train", lambda name: name.startswith("loss"))
    curves = _histories(history, "evaluation", lambda name: name.endswith("/mean_of_bins"))
    curves = {name.rsplit("/", 1)[0]: curve for name, curve in curves.items()}
    stages = list(_stage_ends(config).items())
    skipped = int(state.skipped)
    first = held_out.protocols[0]
    page = html_report.ReportData(
        title=f"2DAL training run: {config.name}",
        lede=_lede(config, data),
        headlines={f"NME, {titles[p].lower()}": _percent(summary["mean_of_bins"]) for p, summary in final.items()},
        summary={
            "regressor": f"{config.regressor.name} ({config.regressor.variant}), width"
            f" {config.regressor.width:g}, {num_parameters(state.regressor.params) / 1e6:.2f} M parameters",
            "encoder and critic": f"{num_parameters(state.critic.params) / 1e6:.2f} M parameters",
            "morphable model": f"{config.morphable_model}, {model.num_vertices:,} vertices",
            "steps": f"{int(state.step):,} of {config.batch_annotated} annotated images{_wild_images(config)}",
            "best state": _best_state(best, data),
            "this process trained for": f"{seconds / 60:.1f} min",
            "median rate": f"{np.median(rates):.0f} images/s" if rates else "",
            "machine": f"{jax.device_count()} {jax.default_backend()} device(s), {os.cpu_count()} cores,"
            f" {platform.machine()}",
            "seed": config.seed,
        },
        losses=losses,
        loss_units=LOSS_UNITS,
        nme_curves={titles[name]: curve for name, curve in curves.items() if name in titles},
        stage_starts=[(step, f"stage {i + 1}") for i, (_, step) in enumerate(stages[:-1]) if i],
        results=[
            html_report.Result(titles[p], stage, summary)
            for p in titles
            for stage, summaries in results.items()
            if (summary := summaries.get(p))
        ],
        notes=[f"{skipped} step(s) were skipped: a loss or gradient was not finite."] if skipped else [],
        error_distributions={titles[p]: errors for p, (_, _, errors) in predictions.items()},
        num_images_by_bin=metrics.count_by_bin(held_out.yaw_deg),
        examples=_examples(held_out, model, spec, first, *predictions[first], config.run.report_faces),
    )
    html_report.write_report(workdir / "report.html", page)
    _write_picture(workdir / "examples.jpg", page.examples)


def _write_picture(path: pathlib.Path, examples: list[html_report.Example], rows: int = 4) -> None:
    """Writes up to `rows` faces of the gallery, from best to worst, as one picture with a row for each face."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(rows, len(examples))).astype(int))
    sheet = drawing.panels(
        [[drawing.caption(picture, text) for text, picture in examples[index].pictures.items()] for index in chosen]
    )
    temporary = path.with_name(f".tmp.{path.name}")
    cv2.imwrite(str(temporary), sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
    os.replace(temporary, path)


def _percent(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.2f} %"


def _wild_images(config: ml_collections.ConfigDict) -> str:
    """Text on the wild images in a batch and the stages that use them."""
    stages = builder.build_stages(config)
    names = [stage.name.replace("stage", "stage ") for stage in stages if stage_batches.uses_wild(stage)]
    where = "" if len(names) == len(stages) else f" in {names[0]}" if names else ""
    return f" + {config.batch_wild} wild ones{where}" if names else ""


def _best_state(best: tuple[int, float] | None, data: Any) -> str:
    if data.validation is None:
        return "not chosen: no validation part (config.validation_faces = 0); the last state is the result"
    if best is None:
        return "none: no finite error on the validation part"
    return f"step {best[0]:,}, {best[1]:.2f} % on the validation part ({len(data.validation):,} faces)"


def _lede(config: ml_collections.ConfigDict, data: Any) -> str:
    sets = data.description
    wild = f" and {sets['wild']['faces']:,} faces with landmarks alone" if "wild" in sets else ""
    return (
        f"Trained on {sets['annotated']['faces']:,} annotated faces{wild};"
        + (f" {len(data.validation):,} more annotated faces chose the best state;" if data.validation else "")
        + f" measured on {len(data.held_out):,} held-out faces."
    )


def _metrics_json(config, data, state, results, dense, best) -> dict[str, Any]:
    by_stage = _by_stage(results, lambda name: not name.startswith(checkpoint_choice.VALIDATION))
    last = by_stage[list(by_stage)[-1]]
    for protocol, summary in dense.items():
        last[protocol]["nme_3d_dense"] = summary
    return {
        "config": config.name,
        "step": int(state.step),
        "skipped_steps": int(state.skipped),
        "measure": "nme_2d_68: mean distance of the 68 landmarks in 2D, per cent of sqrt(w h) of the box"
        " around the true ones; nme_3d_dense: the same of all vertices in 3D, at the end only",
        "faces": len(data.held_out),
        "final": last,
        "by_stage": by_stage,
        "validation": None
        if data.validation is None
        else {
            "faces": len(data.validation),
            "best_step": None if best is None else best[0],
            "by_stage": _by_stage(results, lambda name: name.startswith(checkpoint_choice.VALIDATION)),
        },
    }


def _by_stage(results: dict, chosen) -> dict[str, dict]:
    """{stage: {protocol: {measure: summary}}} of the names `chosen` accepts."""
    return {
        stage: {
            name.removeprefix(checkpoint_choice.VALIDATION): {"nme_2d_68": summary}
            for name, summary in summaries.items()
            if chosen(name)
        }
        for stage, summaries in results.items()
    }
