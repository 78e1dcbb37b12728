"""The benchmarks follow the code they time: each can be imported, and the pieces of a step fit the step."""

import importlib
import pkgutil

import benchmarks
import jax
import numpy as np
import pytest

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
