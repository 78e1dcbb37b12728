"""The command line of training: messages instead of tracebacks."""

import os

import helpers_fork
import helpers_model
import pytest
from helpers_run import run_python

from data_pipelines.sources import synthetic
from twodal_jax.face_models.load import save_morphable_model


@pytest.fixture
def environment(tmp_path):
    return {"TWODAL_DATA_DIR": str(tmp_path / "nowhere")}


@pytest.fixture
def refused(tmp_path, environment):
    """refused(*flags) -> standard error of a command that ends with an error and without a traceback."""

    def run(*flags):
        status, _, errors = helpers_fork.run_main([f"--workdir={tmp_path / 'run'}", *flags], environment, tmp_path)
        assert status == 1 and "Traceback" not in errors, errors[-3000:]
        return errors

    return run


def test_the_paper_config_without_data_names_each_missing_folder_quickly(tmp_path, environment):
    before, workdir = os.times(), tmp_path / "run"
    command = "-m", "twodal_jax.main", f"--workdir={workdir}", "--config=configs/paper.py"
    process = run_python(*command, env=environment)
    assert os.times().children_user - before.children_user < 30  # processor seconds; waiting does not count
    assert process.returncode == 1
    for folder in ("bfm_3ddfa", "prepared/300w_lp", "prepared/umdfaces", "prepared/aflw2000"):
        assert str(tmp_path / "nowhere" / folder) in process.stderr
    for source in ("300W-LP: from", "UMDFaces: no longer", "AFLW2000-3D: from"):
        assert f"Get {source}" in process.stderr
    assert process.stderr.count("scripts.prepare_data") == 3
    assert "Traceback" not in process.stderr and "bound method" not in process.stderr
    assert not workdir.exists()


def test_the_plain_variant_does_not_need_wild_faces(refused):
    message = refused("--config=configs/aflw.py:plain")
    assert "aflw2000" in message and "aflw_wild" not in message


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config=configs/paper.py", "--config.stage1.step=3"], 'Did you mean "steps"'),
        (["--config=configs/paper.py", "--config.regressor.nam=resnet18"], 'Did you mean "name"'),
        (["--config=configs/paper.py", "--config.sed=3"], 'Did you mean "seed"'),
        (["--config=configs/demo.py", "--config.stage1.steps=abc"], "--config.stage1.steps=abc: invalid literal"),
        (["--config=configs/demo.py", "--config.seed=2", "--config.self_critic=maybe"], "--config.self_critic=maybe"),
        (["--config=configs/demo.py", "--config.seed=2", "--nosuch=3"], "nosuch"),
        (
            ["--config=configs/demoo.py"],
            "--config=configs/demoo.py: no such file; there are aflw, builtin, demo, paper",
        ),
        (["--config=demo", "--config.sed=3"], 'Did you mean "seed"'),
        (["--config", "aflw:plain", "--config.sed=3"], 'Did you mean "seed"'),
        (["--config=elsewhere/demo.py", "--config.seed=2"], "--config=elsewhere/demo.py: no such file; there are aflw"),
    ],
)
def test_a_mistyped_field_value_flag_or_file_is_named_in_one_message(refused, flags, message):
    errors = refused(*flags)
    assert message in errors and "defined twice" not in errors
    assert len(errors.strip().splitlines()) <= 2


def test_an_unknown_variant_lists_the_known_ones(refused):
    assert refused("--config=configs/aflw.py:fulll").strip() == (
        "Unknown variant 'fulll'; expected one of full, ss, sc, plain, base+reproj, no-2d-con, no-3d-con, no-cyc,"
        " 3ddfa, defa, base, ss+sc, no-sc, with -no-extras appended for the same without extras."
    )


@pytest.mark.parametrize("flags, named", [([], "--config"), (["--config=configs/paper.py", "stray"], "stray")])
def test_a_missing_flag_and_an_extra_argument_are_usage_errors(refused, flags, named):
    assert named in refused(*flags)


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.regressor.name=resnet5", "Unknown network (config.regressor.name) 'resnet5'"),
        ("--config.batch_wild=0", "config.batch_wild (0)"),
        ("--config.augmentation.mirror_annotated=0.5", "not symmetric"),
    ],
)
def test_a_config_that_does_not_fit_the_model_or_the_devices_is_refused(tmp_path, refused, override, message):
    save_morphable_model(tmp_path / "model.npz", helpers_model.tiny_model())
    counts = [f"--config.data.{name}.count=4" for name in ("annotated", "wild", "evaluation")]
    model = f"--config.morphable_model={tmp_path / 'model.npz'}"
    unmirrored = "--config.augmentation.mirror_annotated=0.0"
    errors = refused("--config=configs/demo.py", *counts, unmirrored, model, override)
    assert "This config cannot be run." in errors and message in errors


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.run.log_every=0", "config.run.log_every must be at least 1, got 0"),
        ("--config.run.keep_checkpoints=0", "config.run.keep_checkpoints must be at least 1"),
        ("--config.landmark_mask=abc", "config.landmark_mask must be three numbers"),
        ("--config.stage2.final_learning_rate=0", "Use config.optimizer.decay=linear"),
        ("--config.optimizer.name=sgdd", "Unknown optimizer"),
        ("--config.regressor.pretrained=none.pth", "config.regressor.pretrained"),
    ],
)
def test_an_invalid_value_is_refused_before_data_is_made(tmp_path, refused, override, message):
    assert message in refused("--config=configs/demo.py", "--config.optimizer.decay=exponential", override)
    assert not list((tmp_path / "run").glob("*data*"))


def test_a_work_directory_that_is_a_file_is_refused(tmp_path, refused):
    (tmp_path / "run").write_text("a file")
    assert refused("--config=configs/demo.py").startswith(f"{tmp_path / 'run'}: could not be written")


def test_a_set_that_an_earlier_run_made_for_another_config_is_refused(tmp_path, refused):
    synthetic.generate(tmp_path / "run" / "data" / "annotated", "annotated", 2, seed=1, progress=False)
    errors = refused("--config=configs/demo.py", "--config.data.annotated.count=3")
    assert "was made for another config (2 faces of seed 1); this one asks for 3 faces of seed 1" in errors
