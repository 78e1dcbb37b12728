"""A trained network with all it needs to be used, read from the folder of its run."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from twodal_jax.checkpointing import restore as checkpoint_restore
from twodal_jax.checkpointing.restore import CheckpointError
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry.morphable_model import digest, MorphableModel
from twodal_jax.models import fold_batch_norm
from twodal_jax.training import builder
from twodal_jax.training.state import create_train_state, NetState, TrainSpec

CONFIG = "config.json"
WHITENING = ("alpha_mean", "alpha_std")
LATEST, BEST = "checkpoints", "best"


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """What a run left behind.

    Attributes:
      config: of the run. spec: of its last stage.
      model: the morphable model, with mesh and whitening.
      regressor: the network's parameters and statistics, on the host. step: after how many steps.
    """

    config: ml_collections.ConfigDict
    spec: TrainSpec
    model: MorphableModel
    regressor: NetState
    step: int

    def folded(self, images: int) -> "TrainedModel":
        """The same for inference alone, of so many images at a time: batch normalisation is part of the convolutions
        (`models.folding`).
        """
        network, variables = fold_batch_norm.fold(self.spec.regressor, self.regressor.variables, images)
        spec = self.spec.replace(regressor=network)
        return dataclasses.replace(self, spec=spec, regressor=NetState(variables["params"], {}, ()))


def whitening_of(model: MorphableModel) -> dict[str, list[float]]:
    """What config.json keeps of a morphable model: its whitening, which may come from the data."""
    return {name: np.asarray(getattr(model, name)).tolist() for name in WHITENING}


def load(
    workdir: os.PathLike | str,
    *,
    morphable_model: os.PathLike | str | None = None,
    which: str = LATEST,
    step: int | None = None,
) -> TrainedModel:
    """Reads the network of a run.

    Args:
      workdir: the folder given to `twodal_jax.main`.
      morphable_model: where the run's morphable model lies now; default: where it lay then.
      which: "checkpoints", the latest, or "best", the best on the run's validation part.
      step: one of the checkpoints kept; default: the newest.

    Raises:
      CheckpointError: no run, no checkpoint that is whole, `best` of a run without a validation part, or another
        morphable model than the one trained with. A damaged checkpoint is passed by with a warning if there is one
        before it.
      AssetError: the morphable model cannot be read.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{workdir}: no run of twodal_jax.main ({CONFIG} is missing); give its --workdir."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error}).") from None
    config = ml_collections.ConfigDict(content["config"])
    if which == BEST and not config.get("validation_faces") and not (workdir / BEST).is_dir():
        raise CheckpointError(
            f"{workdir}: has no best state. The run had no validation part (config.validation_faces = 0) to choose one"
            " by; its last state is the result: leave --best (in Python which='best') away."
        )
    where = morphable_model or config.morphable_model
    model = load_morphable_model(where)
    whitening = content.get("whitening")
    if whitening:
        model = model.with_whitening(*(np.array(whitening[name]) for name in WHITENING))
    try:
        spec = builder.build_stages(config)[-1].spec
    except (AttributeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: was written by another version of this program, or changed by hand ({error})."
        ) from None

    def check(_step: int, description: dict[str, Any]) -> None:
        if description.get("morphable_model_digest") != digest(model):
            raise CheckpointError(
                f"{workdir}: was trained with another morphable model than {where}; give the right one"
                " with --morphable_model."
            )

    # Only the shapes are needed; nothing is computed.
    like = jax.eval_shape(lambda: create_train_state(spec, 0))
    found = checkpoint_restore.find(workdir.absolute() / which, like, check, step=step)
    return TrainedModel(config, spec, model, found.state.regressor, found.step)
