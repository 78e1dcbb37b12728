"""The training loop on the host: steps on all devices, logs, evaluations, checkpoints and the report.

Batches come from any iterators of dicts of NumPy arrays (`TrainingData`); TensorFlow is not needed. The same call on
the same folder resumes an interrupted run, with the result, bit for bit, of one that was never interrupted.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np

from twodal_jax.checkpointing import BEST, LATEST, pretrained, run_checkpoints, trained_model
from twodal_jax.checkpointing.manager import Checkpoints
from twodal_jax.checkpointing.run_checkpoints import RunCheckpoints
from twodal_jax.distributed import broadcast, cluster, sharding
from twodal_jax.evaluation import checkpoint_choice, held_out as held_out_module
from twodal_jax.evaluation.held_out import HeldOut
from twodal_jax.geometry import symmetry
from twodal_jax.geometry.morphable_model import digest, MorphableModel, without_mesh
from twodal_jax.io.text import write_json, writing
from twodal_jax.models.layers import check_choice
from twodal_jax.reporting import training_report
from twodal_jax.runtime import preemption
from twodal_jax.runtime.preemption import Stopped
from twodal_jax.runtime.run_lock import only_run_of_group
from twodal_jax.training import builder, metric_logger, stage_batches, step as train_step
from twodal_jax.training.state import create_train_state, num_parameters, TrainState


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Attributes:
      annotated: step -> iterator of this host's part of the batches from that step on; fields as in `training.step`.
      wild: the same of wild faces, called only for stages with a loss on them; None: there are no such stages.
      held_out: the test set; its error is logged and chooses nothing.
      description: of the sets, for config.json and the report.
      validation: faces that are not trained on, whose error chooses `best/`; None: there is no `best/`, and the
        last state is the result.
    """

    annotated: Callable[[int], Iterator[dict[str, np.ndarray]]]
    wild: Callable[[int], Iterator[dict[str, np.ndarray]]] | None
    held_out: HeldOut
    description: dict[str, Any]
    validation: HeldOut | None = None


class NotFinite(Exception):
    """Too many consecutive steps had a loss or gradient that was not finite."""


@dataclasses.dataclass
class _Run:
    """The state of the training loop.

    Attributes:
      state: after `step` steps; a step donates its buffers.
      best_error: the lowest validation error so far.
      skipped_before: number of consecutive skipped steps before those of `pending_metrics`.
      pending_metrics: of the steps that `_check_finite` has not checked yet.
    """

    config: ml_collections.ConfigDict
    model: MorphableModel
    data: TrainingData
    stages: list[builder.Stage]
    state: TrainState
    step: int
    saves: RunCheckpoints
    log: metric_logger.RunLog
    best_error: float = float("inf")
    skipped_before: int = 0
    pending_metrics: list[dict[str, jax.Array]] = dataclasses.field(default_factory=list)

    def advance(self, step_fn: Callable, batch: Any) -> dict[str, jax.Array]:
        """Takes one step; returns its metrics."""
        self.state, metrics = step_fn(self.state, batch, self.model)
        if not sharding.runs_ahead():
            jax.block_until_ready(self.state)
        self.step += 1
        return metrics

    def evaluate(self, stage: builder.Stage, step: int) -> None:
        """Measures and logs the errors; saves the state as the best if its validation error is the lowest so far."""
        better = False
        if jax.process_index() == 0:  # the others wait for its decision
            measure = functools.partial(
                held_out_module.evaluate,
                sharding.host_copy(self.state.regressor),
                model=self.model,
                spec=stage.spec,
                batch_size=self.config.run.evaluation_batch,
            )
            results = measure(self.data.held_out)
            if (validation := self.data.validation) is not None:
                protocol = validation.protocols[0]
                chosen_by = checkpoint_choice.chosen_by(validation)
                results[chosen_by] = measure(validation, protocols=(protocol,))[protocol]
                error = results[chosen_by]["mean_of_bins"]
                better = bool(step) and error is not None and error < self.best_error
                self.best_error = error if better else self.best_error
            self.log.evaluation(stage.name, step, results)
        if broadcast.broadcast_from_primary(np.bool_(better)):
            self.saves.save_best(self.state)


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | str, data: TrainingData, model: MorphableModel
) -> TrainState:
    """Trains the stages of a config, from the last checkpoint if there is one, and writes the report.

    In a group of processes all of them return together.

    Args:
      config: see `configs/paper.py`.
      workdir: the run's folder, created if missing.
      data: see `TrainingData`.
      model: the morphable model, with whitening.

    Returns:
      The final state, on the host.

    Raises:
      ConfigError: a value cannot be used; e.g. the batch does not divide among the devices.
      CheckpointError: the folder holds a run of another config, or damaged checkpoints only.
      SaveError: a checkpoint cannot be written, see `run.on_failed_save`.
      WriteError: the folder cannot be written, or another run is at work in it.
      Stopped: a signal came, or step `run.stop_after`; the state is saved.
      NotFinite: see the config's `run.max_skipped_in_a_row`.
    """
    workdir = pathlib.Path(workdir).absolute()
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    stages = _checked_stages(config, data)
    if config.augmentation.mirror_annotated or stages[-1].spec.mirror_prediction:
        with builder.config_errors():
            model = symmetry.with_mirror(model)
    small_model = without_mesh(model)
    faces = {name: part.get("faces") for name, part in data.description.items()}
    description = builder.resume_fingerprint(config, digest(model), faces)
    is_primary = jax.process_index() == 0
    _check_group(config, description)
    with (
        only_run_of_group(workdir),
        Checkpoints(workdir / LATEST, keep=config.run.keep_checkpoints) as checkpoints,
        contextlib.nullcontext() if data.validation is None else Checkpoints(workdir / BEST, keep=1) as best,
    ):
        spec = stages[0].spec
        backbone = pretrained.for_new_run(config, workdir / LATEST, spec.regressor)
        state = checkpoints.resume(create_train_state(spec, config.seed, backbone), description)
        state, small_model = sharding.replicated((state, small_model))
        start = int(state.step)
        if is_primary:
            whitening = trained_model.whitening_of(model)
            content = {"config": config.to_dict(), "whitening": whitening, "data": data.description}
            with writing(workdir / trained_model.CONFIG):
                write_json(workdir / trained_model.CONFIG, content)
        began = time.monotonic()
        saves = RunCheckpoints(checkpoints, best, description, config.run.on_failed_save)
        must_write = config.run.on_failed_save == run_checkpoints.STOP
        with metric_logger.RunLog(
            workdir, start, stages[-1].end, config.batch_annotated, is_primary, must_write=must_write
        ) as log:
            saves.report = log.say
            parameters = num_parameters(state.regressor.params)
            log.say(
                f"{config.name}: {config.regressor.name} with {parameters / 1e6:.2f} M parameters, steps"
                f" {start} to {stages[-1].end} on {jax.device_count()} {jax.default_backend()} device(s)"
            )
            for line in checkpoint_choice.without_detections(config, data.held_out, data.validation):
                log.say(line)
            evaluations = [entry for entry in metric_logger.read_history(workdir) if entry["kind"] == "evaluation"]
            evaluated = any(entry["step"] == start for entry in evaluations)
            evaluated = bool(broadcast.broadcast_from_primary(np.bool_(evaluated)))
            best_error = checkpoint_choice.lowest_error(evaluations, data.validation)
            skipped = int(sharding.host_copy(state.skipped_in_a_row))
            run = _Run(config, small_model, data, stages, state, start, saves, log, best_error, skipped)
            with preemption.stop_requests(config.run.grace_seconds, checkpoints.latest_step) as requests:
                _train(run, requests, evaluated)
                saves.save_last(run.state, run.step)
    final = sharding.host_copy(run.state)
    if is_primary:
        seconds = time.monotonic() - began
        with writing(workdir):
            training_report.write(workdir, config, model, data, stages[-1].spec, final, seconds=seconds)
    cluster.wait_for_all("finished")  # the primary process may still be writing
    return final


@builder.config_errors()
def _checked_stages(config: ml_collections.ConfigDict, data: TrainingData) -> list[builder.Stage]:
    """The stages of a run. Raises ConfigError for values that no run, or none with this data, can have."""
    stages = builder.build_stages(config)
    sharding.check_divisible("config.batch_annotated", config.batch_annotated, config.accumulate)
    sharding.check_divisible("config.batch_wild", config.batch_wild, config.accumulate)
    check_choice("config.run.on_failed_save", config.run.on_failed_save, run_checkpoints.ON_FAILED)
    if config.validation_faces and data.validation is None:
        raise builder.ConfigError(
            f"config.validation_faces is {config.validation_faces}, but TrainingData.validation is None. Supply"
            " validation faces, or set config.validation_faces to 0: then the last state is the result."
        )
    return stages


def _check_group(config: ml_collections.ConfigDict, description: dict[str, Any]) -> None:
    """Raises ConfigError where processes of a group were started with different commands."""
    fields = description | builder.flatten({"run": config.run.to_dict(), "jax": jax.__version__})
    others, lines = broadcast.differing_from_primary(fields)
    if others:
        shown = "\n".join(f"  {line}" for line in lines) or f"  see the messages of the {others} that differ."
        raise builder.ConfigError(
            f"The processes of this group were started with different configs (there: the primary one's):\n{shown}\n"
            "Start all of them with the same command, except for config.distributed."
        )


def _train(run: _Run, requests: preemption.Preemption, evaluated: bool) -> None:
    """Takes all remaining steps, stage by stage.

    Args:
      run: at the step to resume from.
      requests: tells when to stop.
      evaluated: whether the step to resume from was evaluated. A signal may have prevented it.
    """
    start = run.step
    stage = next(stage for stage in run.stages if start <= stage.end)
    if not evaluated and (start in (0, stage.end) or start % run.config.run.evaluate_every == 0):
        run.evaluate(stage, start)
    if requests.due(start):  # before the first step, whose compilation may take longer than the grace period
        _stop(run, requests.code)
    wild = stage_batches.wild_batches(run.stages, run.data.wild, start)
    batches = sharding.prefetched(sharding.paired(run.data.annotated(start), wild))
    for stage in run.stages:
        run.log.images_per_step = run.config.batch_annotated + run.config.batch_wild * stage_batches.uses_wild(stage)
        step_fn = train_step.mapped_train_step(stage.spec)
        window: list[dict[str, jax.Array]] = []
        for step in range(max(start, stage.start) + 1, stage.end + 1):
            batch = next(batches)
            metrics = run.advance(step_fn, batch)
            window.append(metrics)
            run.pending_metrics.append(metrics)
            run.log.advance(stage.name, step)
            run.saves.check()
            _log_step(run, stage, step, window)
            # Before an evaluation, which may take longer than the grace period. A resumed run evaluates this step.
            if (asked := requests.due(step)) or step == run.config.run.stop_after:
                _stop(run, requests.code if asked else 0)
            _evaluate_and_save(run, stage, step)


def _stop(run: _Run, code: int) -> NoReturn:
    """Saves the state and raises Stopped."""
    run.saves.save_last(run.state, run.step)
    raise Stopped(run.step, code)


def _log_step(run: _Run, stage: builder.Stage, step: int, window: list) -> None:
    """Checks that steps are finite and logs `window`, the metrics since the last log, each when due."""
    settings, last = run.config.run, step == stage.end
    # Not at every step: reading metrics waits for the device.
    if last or step % settings.log_every == 0 or step % settings.max_skipped_in_a_row == 0:
        _check_finite(run, step)
    if last or step % settings.log_every == 0:
        values = {name: _mean_of_finite(window, name) for name in window[0]}
        schedule = builder.learning_rate_schedule(run.config)
        values["learning_rate"] = float(schedule(step - 1))
        values |= {f"weight_{k}": v for k, v in stage.spec.loss_weights.items() if v}
        run.log.train(stage.name, step, values)
        window.clear()


def _evaluate_and_save(run: _Run, stage: builder.Stage, step: int) -> None:
    """Evaluates and writes a checkpoint, each when due."""
    settings, last = run.config.run, step == stage.end
    if last or step % settings.evaluate_every == 0:
        run.evaluate(stage, step)
    if last or step % settings.checkpoint_every == 0:
        run.saves.save(run.state)


def _mean_of_finite(window: list[dict[str, jax.Array]], name: str) -> float | None:
    """Mean over the steps that were not skipped; None if all were."""
    values = np.array([float(metrics[name]) for metrics in window])
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _skipped_in_a_row(before: int, window: list[dict[str, jax.Array]]) -> tuple[int, int]:
    """(number of consecutive skipped steps at the window's end, the most in it); `before`: the number at its start."""
    current, most = before, 0
    for metrics in window:
        current = current + 1 if float(metrics["skipped"]) else 0
        most = max(most, current)
    return current, most


def _check_finite(run: _Run, step: int) -> None:
    run.skipped_before, skipped = _skipped_in_a_row(run.skipped_before, run.pending_metrics)
    run.pending_metrics.clear()
    limit = run.config.run.max_skipped_in_a_row
    if skipped >= limit:
        run.saves.save_last(run.state, run.step)
        raise NotFinite(
            f"Stopped at step {step}: the loss or a gradient was not finite in {skipped} steps in a row"
            f" (config.run.max_skipped_in_a_row = {limit}). The weights of the last finite step are saved; the same"
            " command resumes from there. To train with a lower config.stage1.learning_rate, or with"
            " config.optimizer.clip_norm, use another --workdir."
        )
