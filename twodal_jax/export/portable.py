"""A trained network as a few arrays and a description, without its training state.

`PortableNetwork` needs JAX and Flax only: no optimiser, no checkpoints, no mesh. It is saved as an .npz without
pickles, so that an environment with other versions, such as the one that writes ONNX, can use it:

    images [b, 120, 120, 3] uint8 BGR, landmarks [b, 18, 2], visible [b, 18]
        -> alpha [b, 62] raw, landmarks68 [b, 68, 3]         everything in crop pixels, y down
"""

import dataclasses
import functools
import io
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twodal_jax import __version__, forward
from twodal_jax.export.files import write_together
from twodal_jax.geometry import coefficients, heatmap
from twodal_jax.geometry.morphable_model import digest, MorphableModel, NUM_DIRECTIONS, NUM_LANDMARKS
from twodal_jax.geometry.projection import CROP_SIZE
from twodal_jax.io import npy
from twodal_jax.models.resnet import Regressor

FORMAT = "twodal_jax network 1"
_DESCRIPTION = "description"
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_MODEL_SHAPES = {
    "alpha_mean": (coefficients.NUM_COEFFICIENTS,),
    "alpha_std": (coefficients.NUM_COEFFICIENTS,),
    "landmark_mean": (3, NUM_LANDMARKS),
    "landmark_basis": (NUM_DIRECTIONS, 3, NUM_LANDMARKS),
}
INPUTS = {
    "images": "the 120-pixel crops, BGR, 0 to 255; at least one (onnxruntime ends the process for a batch of 0)",
    "landmarks": "the 18 landmarks of the heatmap in crop pixels (x right, y down, the first pixel's centre"
    " at (0, 0)), in this order: " + ", ".join(heatmap.LANDMARK_NAMES),
    "visible": "1 where a landmark is known, 0 where not (its place is then ignored); all 0: the network sees"
    " the image alone",
}
OUTPUTS = {
    "alpha": "raw coefficients: pose 12 (3 x 4 matrix row by row, from the morphable model's frame to crop"
    " pixels with y up, y_up = 121 - y), shape 40, expression 10",
    "landmarks68": "the 68 landmarks (iBUG order) in crop pixels, y down; z towards the viewer, same unit",
}


class NetworkFileError(ValueError):
    """A network's file cannot be read or made; the message says what is wrong."""


@dataclasses.dataclass(frozen=True)
class PortableNetwork:
    """A network for inference; see the module's docstring.

    Attributes:
      regressor: the Flax module.
      variables: its {"params", "batch_stats"}, float32, on the host.
      heatmap: settings of the heatmap.
      arrays: of the morphable model, {"alpha_mean", "alpha_std", "landmark_mean", "landmark_basis"}.
      passes: number of passes (`forward.forward_passes`).
      about: its origin, JSON.
    """

    regressor: Regressor
    variables: dict[str, Any]
    heatmap: forward.HeatmapSettings
    arrays: dict[str, np.ndarray]
    passes: int = 1
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, images: jax.Array, landmarks: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs one batch, see the module's docstring; pure, for any batch size, also a symbolic one."""
        result = forward.forward_passes(
            functools.partial(self.regressor.apply, self.variables),
            images.astype(jnp.float32),
            landmarks,
            visible,
            _morphable_model(self.arrays),
            self.heatmap,
            passes=self.passes,
        )
        return result.alpha, result.landmarks

    def input_shapes(self, batch) -> dict[str, jax.ShapeDtypeStruct]:
        """{input: shape and type} for a batch size, which may be symbolic."""
        return {
            "images": jax.ShapeDtypeStruct((batch, CROP_SIZE, CROP_SIZE, 3), jnp.uint8),
            "landmarks": jax.ShapeDtypeStruct((batch, heatmap.NUM_LANDMARKS, 2), jnp.float32),
            "visible": jax.ShapeDtypeStruct((batch, heatmap.NUM_LANDMARKS), jnp.float32),
        }

    def describe(self, **more) -> dict[str, Any]:
        """The inputs, outputs, settings and origin of an exported file, for JSON."""
        outputs = {"alpha": (coefficients.NUM_COEFFICIENTS,), "landmarks68": (NUM_LANDMARKS, 3)}
        shapes = self.input_shapes("b") | {
            name: jax.ShapeDtypeStruct(("b", *shape), jnp.float32) for name, shape in outputs.items()
        }

        def fields(meanings: dict[str, str]) -> list[dict[str, Any]]:
            return [
                {"name": name, "shape": list(shapes[name].shape), "dtype": str(shapes[name].dtype), "meaning": meaning}
                for name, meaning in meanings.items()
            ]

        return {
            "program": f"twodal_jax {__version__}",
            "inputs": fields(INPUTS),
            "outputs": fields(OUTPUTS),
            "network": _settings(self),
            "about": self.about,
            **more,
        }


def from_trained(trained, *, passes: int = 1) -> PortableNetwork:
    """The network of a `trained_model.TrainedModel`.

    Raises:
      NetworkFileError: fewer than one pass.
    """
    if passes < 1:
        raise NetworkFileError(f"Expected at least 1 pass, got {passes}.")
    variables = {"params": trained.regressor.params, "batch_stats": trained.regressor.batch_stats}
    return PortableNetwork(
        # Only training shares the statistics between devices.
        regressor=trained.spec.regressor.clone(axis_name=None),
        variables=jax.tree.map(np.asarray, variables),
        heatmap=trained.spec.heatmap,
        arrays={name: np.asarray(getattr(trained.model, name)) for name in _MODEL_SHAPES},
        passes=passes,
        about={"step": trained.step, "morphable_model_digest": digest(trained.model)},
    )


def in_float32(network: PortableNetwork) -> PortableNetwork:
    """The same network in float32, because few ONNX runtimes support bfloat16."""
    return dataclasses.replace(network, regressor=network.regressor.clone(dtype=jnp.float32))


def save_npz(path: os.PathLike | str, network: PortableNetwork) -> pathlib.Path:
    """Writes the network atomically as an .npz without pickles."""
    flat, _ = jax.tree_util.tree_flatten_with_path(network.variables)
    arrays = {"/".join(key.key for key in keys): np.asarray(leaf) for keys, leaf in flat}
    description = {"format": FORMAT, "network": _settings(network), "about": network.about}
    with io.BytesIO() as file:
        np.savez(file, **{_DESCRIPTION: np.array(json.dumps(description))}, **network.arrays, **arrays)
        write_together({pathlib.Path(path): file.getvalue()})
    return pathlib.Path(path)


def load_npz(path: os.PathLike | str) -> PortableNetwork:
    """Reads a file of `save_npz`.

    Raises:
      NetworkFileError: the file is missing, damaged or has other content.
    """
    if not pathlib.Path(path).exists():
        raise NetworkFileError(f"{path}: no such file.")
    try:
        arrays = npy.read_npz(path)
        description = json.loads(str(arrays.pop(_DESCRIPTION)))
        if description["format"] != FORMAT:
            raise NetworkFileError(f"{path}: of another version ({description['format']}); export it again.")
        model = {name: arrays.pop(name) for name in _MODEL_SHAPES}
        for name, shape in _MODEL_SHAPES.items():
            if model[name].shape != shape:
                raise NetworkFileError(f"{path}: {name} has shape {model[name].shape}, expected {shape}.")
        settings = _from_settings(description["network"])
        return PortableNetwork(variables=_nest(arrays), arrays=model, about=description["about"], **settings)
    except NetworkFileError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise NetworkFileError(f"{path}: not a network that this program wrote ({error}).") from None


def _settings(network: PortableNetwork) -> dict[str, Any]:
    module = network.regressor
    return {
        "regressor": {
            "arch": module.arch,
            "variant": module.variant,
            "width": float(module.width),
            "dtype": jnp.dtype(module.dtype).name,
            "heatmap_mlp_width": module.heatmap_mlp_width,
        },
        "heatmap": dataclasses.asdict(network.heatmap),
        "passes": network.passes,
    }


def _from_settings(settings: dict[str, Any]) -> dict[str, Any]:
    fields = dict(settings["regressor"])
    return {
        "regressor": Regressor(**fields | {"dtype": _DTYPES[fields["dtype"]]}),
        "heatmap": forward.HeatmapSettings(**settings["heatmap"]),
        "passes": int(settings["passes"]),
    }


def _nest(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """{"params/a/b": array} -> {"params": {"a": {"b": array}}, "batch_stats": {}}."""
    nested: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return nested


def _morphable_model(arrays: dict[str, np.ndarray]) -> MorphableModel:
    """A morphable model with landmarks and whitening only."""
    return MorphableModel(
        mean=np.zeros((3, 0), np.float32),
        basis=np.zeros((NUM_DIRECTIONS, 3, 0), np.float32),
        triangles=np.zeros((0, 3), np.int32),
        landmark_indices=np.zeros(NUM_LANDMARKS, np.int32),
        vertex_factor=np.zeros((0, 0), np.float32),
        mirror_map=np.zeros((0, 51), np.float32),
        **{name: jnp.asarray(array) for name, array in arrays.items()},
    )
