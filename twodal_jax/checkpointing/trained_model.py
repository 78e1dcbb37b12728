"""A trained network with its config and morphable model, read from the folder of its run or from a weights file."""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from twodal_jax.checkpointing import BEST, LATEST, weights
from twodal_jax.checkpointing.restore import CheckpointError, read_newest
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry.morphable_model import digest, MorphableModel, without_mesh
from twodal_jax.models import fold_batch_norm
from twodal_jax.training import builder
from twodal_jax.training.state import create_train_state, NetState, TrainSpec

CONFIG = "config.json"
WHITENING = ("alpha_mean", "alpha_std")


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """The result of a run.

    Attributes:
      config: of the run.
      spec: of its last stage.
      model: the morphable model, with mesh and whitening.
      regressor: the network's parameters and batch statistics, on the host.
      step: number of training steps taken.
    """

    config: ml_collections.ConfigDict
    spec: TrainSpec
    model: MorphableModel
    regressor: NetState
    step: int

    @functools.cached_property
    def landmark_model(self) -> MorphableModel:
        """The morphable model's landmarks, with its `mirror_map` if predictions are averaged with mirrored ones."""
        if not self.spec.mirror_prediction:
            return without_mesh(self.model)
        from twodal_jax.geometry import symmetry  # SciPy's start takes 0.2 s

        return without_mesh(symmetry.with_mirror(self.model))

    def folded(self, images: int) -> "TrainedModel":
        """The same for inference on `images` images at a time, with batch normalisation folded into the convolutions
        (`models.fold_batch_norm`).
        """
        network, variables = fold_batch_norm.fold(self.spec.regressor, self.regressor.variables, images)
        spec = self.spec.replace(regressor=network)
        return dataclasses.replace(self, spec=spec, regressor=NetState(variables["params"], {}, ()))


class OtherModelError(CheckpointError):
    """The morphable model given is not that of the training."""


def whitening_of(model: MorphableModel) -> dict[str, list[float]]:
    """{"alpha_mean", "alpha_std"} for config.json, because a model's whitening may be measured on the training data."""
    return {name: np.asarray(getattr(model, name)).tolist() for name in WHITENING}


def load(
    checkpoint: os.PathLike | str = weights.NAMES[0],
    *,
    morphable_model: os.PathLike | str | None = None,
    which: str = LATEST,
    step: int | None = None,
) -> TrainedModel:
    """Reads the network of a run or of a weights file.

    Args:
      checkpoint: the folder given to `twodal_jax.main`, a weights file (.safetensors), or the name of a network of the
        package, one of `weights.NAMES`.
      morphable_model: path of the run's morphable model; default: the path in the run's config.
      which: "checkpoints", the latest, or "best", the best on the run's validation part.
      step: of a kept checkpoint; default: the newest intact one. Newer damaged ones are reported on stderr.

    Raises:
      CheckpointError: there is no run or no intact checkpoint, the run has no validation part to choose `best`, the
        morphable model differs from that of the training, or the weights file is damaged.
      AssetError: the morphable model cannot be read.
    """
    if path := weights.file_of(checkpoint):
        return _load_weights(path, morphable_model)
    workdir = pathlib.Path(checkpoint)
    path = workdir / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{workdir}: is not the --workdir of a run of twodal_jax.main ({CONFIG} is missing), no weights file"
            f" ({weights.SUFFIX}) and none of the package's networks, {' and '.join(weights.NAMES)}."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error}).") from None
    config = ml_collections.ConfigDict(content["config"])
    if which == BEST and not config.get("validation_faces") and not (workdir / BEST).is_dir():
        raise CheckpointError(
            f"{workdir}: has no best state, because the run had no validation part (config.validation_faces = 0). Its"
            " last state is the result: omit --best (in Python which='best')."
        )
    where = morphable_model or config.morphable_model
    model = load_morphable_model(where)
    if whitening := content.get("whitening"):
        model = model.with_whitening(*(np.array(whitening[name]) for name in WHITENING))
    spec = _spec_of(config, path)

    def check(_step: int, description: dict[str, Any]) -> None:
        if description.get("morphable_model_digest") != digest(model):
            raise OtherModelError(
                f"{workdir}: was trained with another morphable model than {where}; give the one it was trained with by"
                " --morphable_model."
            )

    shapes = jax.eval_shape(lambda: create_train_state(spec, 0))
    restored = read_newest(workdir.absolute() / which, shapes, check, step=step)
    return TrainedModel(config, spec, model, restored.state.regressor, restored.step)


def to_weights(trained: TrainedModel) -> bytes:
    """The content of a weights file (`checkpointing.weights`)."""
    return weights.pack(trained.config, whitening_of(trained.model), trained.regressor.variables, trained.step)


def _load_weights(path: pathlib.Path, morphable_model: os.PathLike | str | None) -> TrainedModel:
    about, arrays = weights.read(path)
    config = ml_collections.ConfigDict(about["config"])
    spec = _spec_of(config, path)
    variables = weights.variables_for(spec.regressor.clone(axis_name=None), arrays, path)
    model = load_morphable_model(morphable_model or config.morphable_model)
    model = model.with_whitening(*(np.array(about["whitening"][name], np.float32) for name in WHITENING))
    regressor = NetState(variables["params"], variables["batch_stats"], ())
    return TrainedModel(config, spec, model, regressor, about["step"])


def _spec_of(config: ml_collections.ConfigDict, path: pathlib.Path) -> TrainSpec:
    """The last stage's. Raises CheckpointError if the config of the file `path` is of another version."""
    try:
        return builder.build_stages(config)[-1].spec
    except (AttributeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: was written by another version of this program, or edited ({error}).") from None
