"""Stages, schedules, optimisers and resume fingerprint of a config. No network is run."""

import numpy as np
import optax
import pytest
from helpers_run import tiny_config

from configs import aflw, paper
from configs.variants import apply_variant
from twodal_jax.distributed import sharding
from twodal_jax.training import builder
from twodal_jax.training.state import LOSS_NAMES


def used_losses(stage):
    return {name for name, weight in stage.spec.loss_weights.items() if weight}


def rates(steps, **overrides):
    schedule = builder.learning_rate_schedule(tiny_config(**overrides))
    return [float(schedule(step)) for step in steps]


def test_stages_are_consecutive_and_share_everything_except_the_losses():
    first, second = builder.build_stages(tiny_config())
    assert (first.start, first.end, second.start, second.end) == (0, 4, 4, 6)
    assert first.spec.regressor == second.spec.regressor
    assert first.spec.regressor_optimizer is second.spec.regressor_optimizer
    assert used_losses(first) == set(LOSS_NAMES) - {"loss_vdc", "loss_pdc", "loss_contour"}
    assert used_losses(second) == {"loss_vdc"}


def test_a_stage_without_steps_is_omitted_and_two_raise_an_error():
    (only,) = builder.build_stages(tiny_config(**{"stage1.steps": 0}))
    assert (only.name, only.start, only.end) == ("stage2", 0, 2)
    with pytest.raises(ValueError, match="stage1.steps.*stage2.steps"):
        builder.build_stages(tiny_config(**{"stage1.steps": 0, "stage2.steps": 0}))


@pytest.mark.parametrize(
    "variant, off",
    [
        ("full", set()),
        ("ss", {"loss_sc"}),
        ("sc", {"loss_2d_con", "loss_3d_con", "loss_cyc"}),
        ("plain", {"loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc"}),
    ],
)
def test_switches_of_the_ablation_remove_their_losses(variant, off):
    config = tiny_config()
    with config.unlocked():
        config = apply_variant(config, variant)
    baselines = {"loss_pdc", "loss_contour"}
    assert used_losses(builder.build_stages(config)[0]) == set(LOSS_NAMES) - off - baselines - {"loss_vdc"}


def test_jaw_points_have_a_weight_only_with_self_supervision():
    def landmark_weights(**changes):
        return builder.build_stages(tiny_config(**changes))[0].spec.landmark_weights

    assert len(landmark_weights()) == 18  # the paper's
    assert landmark_weights(jaw_weight=3.0) == (*landmark_weights(), 3.0, 3.0, 3.0)
    assert len(landmark_weights(jaw_weight=3.0, self_supervision=False)) == 18


def test_baselines_use_wild_landmarks_with_equal_weights_and_no_heatmap():
    for variant, own in (("3ddfa", {"loss_3d"}), ("defa", {"loss_pdc", "loss_contour"})):
        first, second = builder.build_stages(aflw.get_config(variant))
        assert first.spec.landmark_weights == (1.0,) * 21
        assert used_losses(first) == own | {"loss_2d_con"}
        assert used_losses(second) == ({"loss_vdc"} if variant == "3ddfa" else own) | {"loss_2d_con"}
        assert not first.spec.heatmap.enabled


def test_the_papers_names_of_variants_are_aliases():
    assert aflw.get_config("base") == aflw.get_config("plain")
    assert aflw.get_config("ss+sc") == aflw.get_config()


def test_the_paper_config_has_the_papers_numbers():
    config = paper.get_config()
    found = config.stage1.loss_weights
    assert [found[n] for n in ("loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc")] == [0.005, 0.005, 1.0, 0.005]
    assert config.stage1.learning_rate == 5e-5 and config.critic.learning_rate == 1e-4
    assert config.batch_annotated == config.batch_wild == 32
    assert config.regressor.name == "resnet50" and config.regressor.variant == "authors"
    assert tuple(config.landmark_mask) == (4, 2, 1)


TWO_STAGES = {"stage1.steps": 100, "stage2.steps": 50, "stage2.learning_rate": 2e-5}


def test_exponential_decay_has_a_constant_factor_in_each_stage():
    found = rates((0, 50, 99, 100, 150), **TWO_STAGES, **{"stage2.final_learning_rate": 1e-5})
    np.testing.assert_allclose(found, [1e-3, 1e-3 * 0.1**0.5, 1e-3 * 0.1**0.99, 2e-5, 1e-5], rtol=1e-4)


def test_linear_decay_has_a_constant_difference_in_each_stage():
    linear = {"stage2.final_learning_rate": 0.0, "optimizer.decay": "linear"}
    found = rates((0, 50, 100, 125, 150), **TWO_STAGES, **linear)
    np.testing.assert_allclose(found, [1e-3, 0.55e-3, 2e-5, 1e-5, 0.0], rtol=1e-4)


def test_warm_up_and_rate_scale_multiply_the_rates():
    plain = rates((0, 1, 3, 5))
    np.testing.assert_allclose(
        rates((0, 1, 3), **{"optimizer.warmup_steps": 10}), np.array([1, 2, 4]) / 10 * plain[:3], rtol=1e-5
    )
    np.testing.assert_allclose(rates((0, 1, 3, 5), **{"optimizer.rate_scale": 20.0}), 20 * np.array(plain), rtol=1e-5)


def test_muon_updates_kernels_orthogonally_and_other_parameters_as_adam_does():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    params = {"conv": {"kernel": draw(3, 3, 8, 16)}, "norm": {"scale": draw(16)}, "head": {"kernel": draw(16, 62)}}
    gradients = {
        "conv": {"kernel": draw(3, 3, 8, 16) * np.geomspace(1.0, 100.0, 16, dtype=np.float32)},
        "norm": {"scale": draw(16)},
        "head": {"kernel": draw(16, 62)},
    }

    def updates(optimizer):
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    config = tiny_config(**{"optimizer.name": "muon", "optimizer.weight_decay": 0.1})
    muon = updates(builder.regressor_optimizer(config))
    adam = updates(optax.nadamw(1e-3, weight_decay=0.1))
    for layer, name in (("norm", "scale"), ("head", "kernel")):
        np.testing.assert_allclose(muon[layer][name], adam[layer][name], rtol=1e-5)
    decayed = -1e-3 * 0.1 * params["conv"]["kernel"]
    step = np.asarray(muon["conv"]["kernel"] - decayed).reshape(72, 16)
    sizes = np.linalg.svd(step, compute_uv=False)
    assert sizes.max() < 2.0 * sizes.min()
    of_gradient = np.linalg.svd(gradients["conv"]["kernel"].reshape(72, 16), compute_uv=False)
    assert of_gradient.max() > 50.0 * of_gradient.min()
    # Adam's update size after many steps is 0.2 of the learning rate (Liu et al. 2025).
    assert 0.14e-3 < np.sqrt(np.mean(step * step)) < 0.26e-3
    assert (step * gradients["conv"]["kernel"].reshape(72, 16)).sum() < 0.0


def test_every_config_builds_stages():
    for config, jaw in ((paper.get_config(), 0), (aflw.get_config(), 3), (aflw.get_config("plain"), 0)):
        stages = builder.build_stages(config)
        mask = builder.heatmap.weight_mask(*config.landmark_mask).tolist()
        assert stages[0].spec.landmark_weights == (*mask, *[config.jaw_weight] * jaw)
        assert stages[0].spec.axis_name == sharding.AXIS_NAME


def test_settings_of_the_losses_reach_the_spec():
    config = tiny_config(**{"critic.alternate": False, "critic.label_smoothing": 0.2, "critic.coefficient_noise": 0.3})
    for stage in builder.build_stages(config):
        spec = stage.spec
        assert (spec.alternate, spec.label_smoothing, spec.coefficient_noise) == (False, 0.2, 0.3)
        assert spec.loss_scale["loss_2d_con"] == pytest.approx(1 / 120 / 28)  # in crop sides, mean over the mask 4:2:1
    aflw_scale = builder.build_stages(aflw.get_config())[0].spec.loss_scale["loss_2d_con"]
    assert aflw_scale == pytest.approx(1 / 120 / (28 + 9))  # with three jaw points of weight 3
    pixels = tiny_config(loss_unit="pixel", loss_reduction="sum")
    assert builder.build_stages(pixels)[0].spec.loss_scale["loss_2d_con"] == 1.0


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"regressor.dtype": "float16"}, "float16.*float32, bfloat16"),
        ({"optimizer.decay": "cosine"}, "decay.*cosine.*exponential, linear"),
        ({"loss_unit": "inch"}, "unit.*inch.*pixel, side"),
        ({"loss_reduction": "median"}, "reduction.*median.*sum, mean"),
    ],
)
def test_unknown_names_raise_an_error_with_the_choices(overrides, message):
    with pytest.raises(ValueError, match=message):
        builder.build_stages(tiny_config(**overrides))
    with pytest.raises(ValueError, match="expected one of full, ss, sc, plain, base\\+reproj"):
        aflw.get_config("everything")


def test_resume_fingerprint_has_all_fields_except_execution_and_locations():
    config = tiny_config()
    found = builder.resume_fingerprint(config, "abc", {"annotated": 5})
    assert found["data.annotated.faces"] == 5
    assert found["morphable_model_digest"] == "abc"
    assert found["stage1.loss_weights.loss_cyc"] == 1.0 and found["landmark_mask"] == [4.0, 2.0, 1.0]
    assert not any(name.startswith("run.") for name in found)
    moved = {"run.log_every": 77, "data.annotated.folder": "/elsewhere", "morphable_model": "/there"}
    assert builder.resume_fingerprint(tiny_config(**moved), "abc", {"annotated": 5}) == found
    assert builder.resume_fingerprint(tiny_config(**{"seed": 5}), "abc", {"annotated": 5}) != found
    assert builder.resume_fingerprint(config, "abc", {"annotated": 6}) != found


def test_flatten_joins_names_with_dots():
    assert builder.flatten({"a": {"b": (1, 2), "c": {}}, "d": None}) == {"a.b": [1, 2], "d": None}
