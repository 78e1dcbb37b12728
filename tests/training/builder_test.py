"""From config to stages: switches, schedules and the description of a run. No network is run."""

import numpy as np
import optax
import pytest
from helpers_run import tiny_config

from configs import aflw, paper
from twodal_jax.distributed import sharding
from twodal_jax.training import builder
from twodal_jax.training.state import LOSS_NAMES


def weights(variant="full", **overrides):
    config = tiny_config(**overrides)
    if variant != "full":
        from configs.variants import apply_variant

        with config.unlocked():
            config = apply_variant(config, variant)
    return builder.build_stages(config)[0].spec.loss_weights


def test_stages_follow_each_other_and_share_all_but_the_losses():
    first, second = builder.build_stages(tiny_config())
    assert (first.start, first.end, second.start, second.end) == (0, 4, 4, 6)
    assert first.spec.regressor == second.spec.regressor
    assert first.spec.regressor_optimizer is second.spec.regressor_optimizer
    used = {name for name, weight in first.spec.loss_weights.items() if weight}
    assert used == set(LOSS_NAMES) - {"loss_vdc", "loss_pdc", "loss_contour"}
    assert {name for name, weight in second.spec.loss_weights.items() if weight} == {"loss_vdc"}


def test_a_stage_without_steps_is_left_out_and_two_of_them_are_an_error():
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
    found = weights(variant)
    baselines = {"loss_pdc", "loss_contour"}
    assert {name for name, weight in found.items() if not weight} == off | baselines | {"loss_vdc"}


def test_jaw_points_have_a_weight_where_wild_faces_are_compared_at_them():
    def landmark_weights(**changes):
        return builder.build_stages(tiny_config(**changes))[0].spec.landmark_weights

    assert len(landmark_weights()) == 18  # the paper's
    assert landmark_weights(jaw_weight=3.0) == (*landmark_weights(), 3.0, 3.0, 3.0)
    assert len(landmark_weights(jaw_weight=3.0, self_supervision=False)) == 18


def test_baselines_match_landmarks_of_wild_images_and_see_the_image_alone():
    for variant, own in (("3ddfa", {"loss_3d"}), ("defa", {"loss_pdc", "loss_contour"})):
        first, second = builder.build_stages(aflw.get_config(variant))
        assert first.spec.landmark_weights == (1.0,) * 21
        used = [{n for n, w in s.spec.loss_weights.items() if w} for s in (first, second)]
        assert used[0] == own | {"loss_2d_con"}
        assert used[1] == ({"loss_vdc"} if variant == "3ddfa" else own) | {"loss_2d_con"}
        assert not first.spec.heatmap.enabled and set(first.spec.landmark_weights) == {1.0}


def test_the_papers_names_of_variants_are_known():
    assert aflw.get_config("base") == aflw.get_config("plain")
    assert aflw.get_config("ss+sc") == aflw.get_config()


def test_papers_numbers_are_in_the_paper_config():
    config = paper.get_config()
    found = config.stage1.loss_weights
    assert [found[n] for n in ("loss_2d_con", "loss_3d_con", "loss_cyc", "loss_sc")] == [0.005, 0.005, 1.0, 0.005]
    assert config.stage1.learning_rate == 5e-5 and config.critic.learning_rate == 1e-4
    assert config.batch_annotated == config.batch_wild == 32
    assert config.regressor.name == "resnet50" and config.regressor.variant == "authors"
    assert tuple(config.landmark_mask) == (4, 2, 1)


def test_learning_rate_decays_exponentially_in_each_stage():
    config = tiny_config(
        **{"stage1.steps": 100, "stage2.steps": 50, "stage2.learning_rate": 2e-5, "stage2.final_learning_rate": 1e-5}
    )
    schedule = builder.learning_rate_schedule(config)
    found = [float(schedule(step)) for step in (0, 50, 100, 150)]
    np.testing.assert_allclose(found, [1e-3, 1e-3 * 0.1**0.5, 2e-5, 1e-5], rtol=1e-4)
    np.testing.assert_allclose(float(schedule(99)), 1e-3 * 0.1**0.99, rtol=1e-4)


def test_linear_decay_falls_by_the_same_amount_each_step_to_the_stages_last_rate():
    config = tiny_config(
        **{
            "stage1.steps": 100,
            "stage2.steps": 50,
            "stage2.learning_rate": 2e-5,
            "stage2.final_learning_rate": 0.0,
            "optimizer.decay": "linear",
        }
    )
    schedule = builder.learning_rate_schedule(config)
    found = [float(schedule(step)) for step in (0, 50, 100, 125, 150)]
    np.testing.assert_allclose(found, [1e-3, 0.55e-3, 2e-5, 1e-5, 0.0], rtol=1e-4)


def test_muon_moves_a_kernel_alike_in_all_directions_and_the_rest_as_adam_does():
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
    for at in (("norm", "scale"), ("head", "kernel")):
        np.testing.assert_allclose(muon[at[0]][at[1]], adam[at[0]][at[1]], rtol=1e-5)
    decayed = -1e-3 * 0.1 * params["conv"]["kernel"]
    step = np.asarray(muon["conv"]["kernel"] - decayed).reshape(72, 16)
    sizes = np.linalg.svd(step, compute_uv=False)
    assert sizes.max() < 2.0 * sizes.min()
    theirs = np.linalg.svd(gradients["conv"]["kernel"].reshape(72, 16), compute_uv=False)
    assert theirs.max() > 50.0 * theirs.min()
    # 0.2 of the learning rate, as Adam's after many steps (Liu et al. 2025).
    assert 0.14e-3 < np.sqrt(np.mean(step * step)) < 0.26e-3
    assert (step * gradients["conv"]["kernel"].reshape(72, 16)).sum() < 0.0


def test_warm_up_raises_the_rate_from_a_first_share():
    schedule = builder.learning_rate_schedule(tiny_config(**{"optimizer.warmup_steps": 10}))
    plain = builder.learning_rate_schedule(tiny_config())
    for step in (0, 1, 3):
        np.testing.assert_allclose(schedule(step), plain(step) * (step + 1) / 10, rtol=1e-5)


def test_every_config_makes_stages():
    for config, jaw in ((paper.get_config(), 0), (aflw.get_config(), 3), (aflw.get_config("plain"), 0)):
        stages = builder.build_stages(config)
        mask = builder.heatmap.weight_mask(*config.landmark_mask).tolist()
        assert stages[0].spec.landmark_weights == (*mask, *[config.jaw_weight] * jaw)
        assert stages[0].spec.axis_name == sharding.AXIS_NAME


def test_the_rate_scale_multiplies_every_rate():
    plain, scaled = (
        builder.learning_rate_schedule(tiny_config(**{"optimizer.rate_scale": scale})) for scale in (1.0, 20.0)
    )
    for step in (0, 1, 3, 5):
        np.testing.assert_allclose(scaled(step), 20 * plain(step), rtol=1e-5)


def test_unit_and_critic_of_the_config_reach_the_steps():
    config = tiny_config(**{"critic.alternate": False, "critic.label_smoothing": 0.2, "critic.coefficient_noise": 0.3})
    for stage in builder.build_stages(config):
        spec = stage.spec
        assert (spec.alternate, spec.label_smoothing, spec.coefficient_noise) == (False, 0.2, 0.3)
        assert spec.loss_scale["loss_2d_con"] == pytest.approx(1 / 120 / 28)  # of the crop's side, a mean of 4:2:1
    aflw_scale = builder.build_stages(aflw.get_config())[0].spec.loss_scale["loss_2d_con"]
    assert aflw_scale == pytest.approx(1 / 120 / (28 + 9))  # and three jaw points of weight 3
    pixels = tiny_config(loss_unit="pixel", loss_reduction="sum")
    assert builder.build_stages(pixels)[0].spec.loss_scale["loss_2d_con"] == 1.0


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="float16.*float32, bfloat16"):
        builder.build_stages(tiny_config(**{"regressor.dtype": "float16"}))
    with pytest.raises(ValueError, match="decay.*cosine.*exponential, linear"):
        builder.build_stages(tiny_config(**{"optimizer.decay": "cosine"}))
    with pytest.raises(ValueError, match="unit.*inch.*pixel, side"):
        builder.build_stages(tiny_config(loss_unit="inch"))
    with pytest.raises(ValueError, match="reduction.*median.*sum, mean"):
        builder.build_stages(tiny_config(loss_reduction="median"))
    with pytest.raises(ValueError, match="expected one of full, ss, sc, plain, base\\+reproj"):
        aflw.get_config("everything")


def test_description_has_every_field_but_those_of_how_a_run_is_kept():
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
