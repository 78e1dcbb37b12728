"""The benchmarks follow the code they time: each can be imported, and the pieces of a step fit the step."""

import functools
import importlib
import pkgutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from helpers_run import ROOT

import benchmarks
from benchmarks import timing

NAMES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("torch_")])
def test_a_benchmark_can_be_imported_without_torch(name):
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("stage, expected", [(0, 6), (1, 4)])
def test_every_piece_of_a_step_can_be_traced(stage, expected):
    from benchmarks import two_dal_step

    config = two_dal_step.load_config("aflw", 2)
    config.regressor.width = config.critic.width = 0.125
    pieces = two_dal_step.pieces(*two_dal_step.prepared(config, stage))
    assert len(pieces) == expected
    for name, (function, arguments) in pieces.items():
        shapes = jax.tree.leaves(jax.eval_shape(function, *arguments))
        assert shapes, name


def test_all_tables_of_the_one_command_exist():
    from benchmarks.all import TABLES

    assert set(TABLES) <= set(NAMES)


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    from benchmarks.timing import ratio

    assert np.isclose(ratio([2.0, 9.0, 4.0], [1.0, 3.0, 8.0]), 2.0)


def test_a_steps_time_at_two_batch_sizes_tells_what_it_costs_before_the_first_image():
    from benchmarks.accelerator import limit_rows

    before, each = limit_rows((32, 3.0 + 32 * 0.01), (256, 3.0 + 256 * 0.01))
    assert np.isclose(before.value, 3.0) and np.isclose(each.value, 10.0)


@pytest.mark.parametrize("kind", ["arrays", "array_record"])
def test_the_input_pipelines_batches_fit_the_step_that_waits_for_them(tmp_path, kind):
    from benchmarks import input_pipeline, two_dal_step
    from data_pipelines.preparation import prepare
    from data_pipelines.storage import prepared_dataset
    from twodal_jax.training import step as train_step

    config = two_dal_step.load_config("aflw", 2)
    spec, state, batch, model = two_dal_step.prepared(config, 1)
    prepare.prepare(input_pipeline.MadeFaces(4), tmp_path / kind, format=kind, shards=2)
    batches = input_pipeline.wild_batches(prepared_dataset.open_prepared(tmp_path / kind), config)
    batch["wild"] = next(batches)
    batches.close()
    step = functools.partial(train_step.train_step, spec=spec)
    assert jax.eval_shape(step, state, batch, model)


@pytest.mark.parametrize("installed", [True, False])
def test_the_rasterisers_bar_is_against_sim3dr_itself_where_it_can_be_imported(monkeypatch, installed):
    from benchmarks import dense_faces
    from twodal_jax.face_models.load import load_morphable_model

    calls = []
    stand_in = types.SimpleNamespace(
        rasterize_triangles=lambda *arguments: calls.append(arguments), rasterize=lambda *arguments: None
    )
    monkeypatch.setitem(sys.modules, "Sim3DR_Cython", stand_in if installed else None)
    rows = dense_faces.raster_rows(load_morphable_model("builtin"), (105,), rounds=1)
    (bar,) = [row for row in rows if row.bar]
    assert ("another server" in bar.name) is not installed
    assert len(calls) == (dense_faces.BATCH if installed else 0)
    for vertices, triangles, depth, index, weights, *_ in calls:
        assert (vertices.dtype, triangles.dtype, index.dtype) == (np.float32, np.int32, np.int32)
        assert depth.shape == index.shape == (105, 105) and weights.shape == (105, 3 * 105)


def test_a_process_tells_its_own_peak_memory_not_that_of_the_one_that_started_it():
    held = np.ones(50_000_000)  # 0.4 GB
    code = "from benchmarks import timing; print(timing.peak_memory_gb())"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < float(told.stdout) < 0.2
    assert timing.peak_memory_gb() > held.nbytes / 2**30


def test_jobs_in_turn_are_run_before_they_are_timed_and_alternate():
    calls = []
    jobs = {name: functools.partial(calls.append, name) for name in "ab"}
    times = timing.in_turn(jobs, rounds=2, warm_ups=1)
    assert "".join(calls) == "aabb" + "bbaa"
    assert [len(found) for found in times.values()] == [2, 2]
