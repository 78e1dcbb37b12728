r"""Converts the authors' released PyTorch checkpoint to a run folder for this project's commands.

    python -m scripts.import_authors_checkpoint FILE.pth.tar --output_dir=runs/authors \
        --morphable_model=bfm_3ddfa

PyTorch is not needed, and no code of the file is executed. The output is a folder like that of a training run, for
--checkpoint. Its heatmap is the authors' (single pixels, their mouth centre). The network's output is in 3DDFA's
coordinates of a crop; the run's whitening converts them to ours, on average (`MEAN_OFFSET_OF_3DDFA`).
"""

import pathlib
import sys

import jax
import numpy as np

from configs import paper
from scripts import evaluation_cli as cli, terminal
from twodal_jax.checkpointing import authors_checkpoint, trained_model
from twodal_jax.checkpointing.authors_checkpoint import CheckpointFormatError
from twodal_jax.checkpointing.manager import Checkpoints
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry.morphable_model import digest, MorphableModel
from twodal_jax.io.pickle_arrays import PickleError
from twodal_jax.io.text import write_json
from twodal_jax.training import builder
from twodal_jax.training.state import create_train_state

# 3DDFA's coordinates of a crop are 0.5 + 0.5 / s larger than ours (`geometry.projection`), s = image pixels per crop
# pixel. A network does not know s, so all crops get one offset: the mean over the boxes of AFLW2000-3D (0.719).
MEAN_OFFSET_OF_3DDFA = 0.72
_T_X, _T_Y = 3, 7  # indices in alpha: the last column of the pose's first two rows; y is up


def parse(arguments):
    parser = cli.make_parser("scripts.import_authors_checkpoint", __doc__)
    parser.add_argument("file", type=pathlib.Path, help="the authors' .pth.tar")
    parser.add_argument("--output_dir", required=True, type=pathlib.Path, help="made if missing")
    parser.add_argument("--morphable_model", required=True, help="the 40 + 10 BFM with param_whitening.pkl, from 3DDFA")
    return parser.parse_args(arguments)


def authors_config(morphable_model: str):
    """paper.py with the authors' heatmap."""
    config = paper.get_config()
    config.name = "authors"
    config.morphable_model = morphable_model
    config.heatmap.kind = "points"
    config.validation_faces = 0  # there is one checkpoint, chosen by the authors
    return config


def in_our_frame(model: MorphableModel) -> MorphableModel:
    """The model with a whitening that maps the network's output to alpha in our frame of the crop."""
    mean = np.array(model.alpha_mean)
    mean[_T_X] -= MEAN_OFFSET_OF_3DDFA
    mean[_T_Y] += MEAN_OFFSET_OF_3DDFA
    return model.with_whitening(mean, model.alpha_std)


def import_checkpoint(arguments) -> None:
    options = parse(arguments)
    variables = authors_checkpoint.read(options.file)
    model = load_morphable_model(options.morphable_model)
    if not model.has_whitening:
        raise terminal.UsageError(f"{options.morphable_model}: lacks param_whitening.pkl, which the coefficients need.")
    model = in_our_frame(model)
    config = authors_config(options.morphable_model)
    spec = builder.build_stages(config)[-1].spec
    state = jax.tree.map(np.asarray, create_train_state(spec, 0))
    expected = jax.tree.structure(state.regressor.params)
    assert jax.tree.structure(variables["params"]) == expected, "the regressor's layout has changed"
    state = state.replace(
        regressor=state.regressor.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    )
    folder = options.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / trained_model.CONFIG,
        {
            "config": config.to_dict(),
            "whitening": trained_model.whitening_of(model),
            "data": {"imported_from": options.file.name},
        },
    )
    checkpoints = Checkpoints(folder / trained_model.LATEST, keep=1)
    checkpoints.save(state, builder.resume_fingerprint(config, digest(model), {}), wait=True)
    terminal.console.print(f"Written to {folder}; use it as --checkpoint={folder}")


if __name__ == "__main__":
    terminal.run(lambda: import_checkpoint(sys.argv[1:]), PickleError, CheckpointFormatError)
