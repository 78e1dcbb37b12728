"""The command line: messages instead of tracebacks."""

import time

import pytest
from helpers_run import run_python


def command(tmp_path, *arguments, env=None):
    started = time.monotonic()
    process = run_python(
        "-m",
        "twodal_jax.main",
        f"--workdir={tmp_path / 'run'}",
        *arguments,
        env={"TWODAL_DATA_DIR": str(tmp_path / "nowhere")} | (env or {}),
    )
    return process, time.monotonic() - started


def test_paper_config_without_data_names_each_missing_folder_quickly(tmp_path):
    process, seconds = command(tmp_path, "--config=configs/paper.py")
    assert seconds < 30  # 15 on a machine with nothing else to do
    assert process.returncode not in (0, None)
    message = process.stderr
    for folder in ("bfm_3ddfa", "prepared/300w_lp", "prepared/umdfaces", "prepared/aflw2000"):
        assert str(tmp_path / "nowhere" / folder) in message
    for source in ("300W-LP: from", "UMDFaces: no longer", "AFLW2000-3D: from"):
        assert f"Get {source}" in message
    assert message.count("scripts.prepare_data") == 3
    assert "Traceback" not in message and "bound method" not in message
    assert not (tmp_path / "run").exists()


def test_plain_variant_does_not_ask_for_wild_faces(tmp_path):
    process, _ = command(tmp_path, "--config=configs/aflw.py:plain")
    assert process.returncode != 0
    assert "aflw2000" in process.stderr and "aflw_wild" not in process.stderr


@pytest.mark.parametrize(
    "override, suggestion",
    [("--config.stage1.step=3", "steps"), ("--config.regressor.nam=resnet18", "name"), ("--config.sed=3", "seed")],
)
def test_a_mistyped_override_suggests_the_right_name(tmp_path, override, suggestion):
    process, _ = command(tmp_path, "--config=configs/paper.py", override)
    assert process.returncode != 0
    assert f'Did you mean "{suggestion}"' in process.stderr
    assert "Traceback" not in process.stderr


def test_an_unknown_variant_lists_the_known_ones(tmp_path):
    process, _ = command(tmp_path, "--config=configs/aflw.py:fulll")
    assert process.returncode != 0
    assert process.stderr.strip() == (
        "Unknown variant 'fulll'; expected one of full, ss, sc, plain, base+reproj, no-2d-con, no-3d-con, no-cyc, 3ddfa,"
        " defa, base, ss+sc, no-sc, with -no-extras at its end for the same without extras."
    )


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.regressor.name=resnet5", "Unknown network (config.regressor.name) 'resnet5'"),
        ("--config.batch_wild=0", "config.batch_wild (0)"),
        ("--config.augmentation.mirror_annotated=0.5", "not symmetric"),
    ],
)
def test_a_config_that_cannot_be_run_is_one_message(tmp_path, override, message):
    import helpers_model

    from twodal_jax.face_models.load import save_morphable_model

    save_morphable_model(tmp_path / "model.npz", helpers_model.tiny_model())
    process, _ = command(
        tmp_path,
        "--config=configs/demo.py",
        "--config.data.annotated.count=4",
        "--config.data.wild.count=4",
        "--config.data.evaluation.count=2",
        "--config.augmentation.mirror_annotated=0.0",
        f"--config.morphable_model={tmp_path / 'model.npz'}",
        override,
    )
    assert process.returncode == 1
    assert "This config cannot be run." in process.stderr and message in process.stderr
    assert "Traceback" not in process.stderr


def test_a_missing_flag_and_a_stray_argument_are_usage_errors(tmp_path):
    process, _ = command(tmp_path)
    assert process.returncode != 0 and "--config" in process.stderr
    process, _ = command(tmp_path, "--config=configs/paper.py", "stray")
    assert process.returncode != 0 and "stray" in process.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=configs/demo.py", "--config.stage1.steps=abc"], "--config.stage1.steps=abc: invalid literal"),
        (["--config=configs/demo.py", "--config.seed=2", "--config.self_critic=maybe"], "--config.self_critic=maybe"),
        (["--config=configs/demo.py", "--config.seed=2", "--nosuch=3"], "nosuch"),
        (["--config=configs/demoo.py"], "--config=configs/demoo.py: no such file; there are configs/aflw.py"),
        (["--config=demo", "--config.seed=2"], "--config=demo: no such file; there are configs/aflw.py"),
    ],
)
def test_a_mistyped_value_flag_or_file_is_named_in_one_message(tmp_path, arguments, message):
    process, _ = command(tmp_path, *arguments)
    assert process.returncode == 1
    assert message in process.stderr and "defined twice" not in process.stderr
    assert "Traceback" not in process.stderr and len(process.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.run.log_every=0", "config.run.log_every must be at least 1, got 0"),
        ("--config.run.keep_checkpoints=0", "config.run.keep_checkpoints must be at least 1"),
        ("--config.landmark_mask=abc", "config.landmark_mask must be three numbers"),
        ("--config.stage2.final_learning_rate=0", "config.optimizer.decay=linear does"),
        ("--config.optimizer.name=sgdd", "Unknown optimizer"),
    ],
)
def test_a_value_no_run_can_have_is_told_before_any_data_is_made(tmp_path, override, message):
    process, _ = command(tmp_path, "--config=configs/demo.py", "--config.optimizer.decay=exponential", override)
    assert process.returncode == 1
    assert process.stderr.startswith("This config cannot be run. ") and message in process.stderr
    assert not (tmp_path / "run" / "data").exists()


def test_a_work_directory_that_is_a_file_is_one_message(tmp_path):
    (tmp_path / "run").write_text("words")
    process, _ = command(tmp_path, "--config=configs/demo.py")
    assert process.returncode == 1
    assert process.stderr.startswith(f"{tmp_path / 'run'}: could not be written")


def test_a_set_an_earlier_run_made_for_another_config_is_not_taken(tmp_path):
    from data_pipelines.sources import synthetic

    synthetic.generate(tmp_path / "run" / "data" / "annotated", "annotated", 2, seed=1, progress=False)
    process, _ = command(tmp_path, "--config=configs/demo.py", "--config.data.annotated.count=3")
    assert process.returncode == 1
    assert "was made for another config (2 faces of seed 1); this one asks for 3 faces of seed 1" in process.stderr
