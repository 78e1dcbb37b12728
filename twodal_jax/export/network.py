"""Export of the network to files that run without this program.

StableHLO through `jax.export`, ONNX through jax2onnx. StableHLO contains for each platform the layers' form that is
fast there (`distributed.platforms.by_platform`), wherever it was exported. Both have the inputs and outputs of
`portable.PortableNetwork`, with any batch size, and contain the weights. NAME.json beside each file describes them.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import export as jax_export

from twodal_jax.distributed.platforms import default_forms
from twodal_jax.export.files import write_together
from twodal_jax.export.portable import INPUTS, NetworkFileError, OUTPUTS, PortableNetwork
from twodal_jax.geometry.projection import CROP_SIZE

PLATFORMS = ("cpu", "cuda", "tpu")
# Largest difference between a file and the network: alpha in its standard deviations, landmarks in crop sides.
TOLERANCE = 1e-4
_OPSET = 23  # of ONNX; jax2onnx's default


def export_stablehlo(
    network: PortableNetwork, path: os.PathLike | str, *, platforms: Sequence[str] = PLATFORMS
) -> list[pathlib.Path]:
    """Writes the network as StableHLO, serialised by `jax.export`, and its JSON.

    Later releases of JAX read such a file for at least six months (guarantee of `jax.export`).

    Returns:
      The files written.
    """
    path = pathlib.Path(path)
    (batch,) = jax_export.symbolic_shape("b")
    shapes = network.input_shapes(batch)
    exported = jax_export.export(jax.jit(network.__call__), platforms=tuple(platforms))(*shapes.values())
    content = bytes(exported.serialize())
    about = network.describe(
        format="StableHLO in the container of jax.export",
        read_with="jax.export.deserialize(bytearray(open(FILE, 'rb').read())).call",
        platforms=list(exported.platforms),
        jax=jax.__version__,
    )
    return _write(path, content, about)


@dataclasses.dataclass(frozen=True)
class LoadedNetwork:
    """A network from a file; a call returns (alpha [b, 62], landmarks68 [b, 68, 3]).

    Attributes:
      platforms: of the exported programs.
      run: the compiled function; `__call__` checks its arguments first.
    """

    platforms: tuple[str, ...]
    run: Callable

    def __call__(self, images, landmarks, visible) -> tuple[jax.Array, jax.Array]:
        """Runs a batch: images [b, 120, 120, 3] uint8, landmarks [b, 18, 2], visible [b, 18]; see `portable`.

        Raises:
          ValueError: an argument has another shape or type; the message names it.
        """
        images, landmarks, visible = np.asarray(images), np.float32(landmarks), np.float32(visible)
        if images.dtype != np.uint8:
            raise ValueError(f"Expected `images` as uint8 (BGR, 0 to 255), got {images.dtype}.")
        count = len(images)
        if not count:
            raise ValueError("Expected at least 1 face in `images`, got a batch of 0.")
        for name, array, shape in (
            ("images", images, (count, CROP_SIZE, CROP_SIZE, 3)),
            ("landmarks", landmarks, (count, 18, 2)),
            ("visible", visible, (count, 18)),
        ):
            if array.shape != shape:
                raise ValueError(f"Expected `{name}` of shape {shape}, got {array.shape}.")
        return self.run(images, landmarks, visible)


def load_stablehlo(path: os.PathLike | str) -> LoadedNetwork:
    """Reads a file of `export_stablehlo`; running it needs no other code of this program.

    Raises:
      NetworkFileError: the file is missing or damaged, has other content, or is of a JAX too new or too old.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise NetworkFileError(f"{path}: no such file.") from None
    # The reader of JAX does not detect every missing byte.
    _check_digest(pathlib.Path(path), content)
    try:
        exported = jax_export.deserialize(bytearray(content))
    except Exception as error:  # flatbuffers and MLIR raise many types
        raise NetworkFileError(
            f"{path}: not a network that jax.export of JAX {jax.__version__} can read ({error}); export it again."
        ) from None
    names = len(INPUTS), len(OUTPUTS)
    if (len(exported.in_avals), len(exported.out_avals)) != names:
        raise NetworkFileError(f"{path}: contains another function than a network of this program; export it again.")
    return LoadedNetwork(tuple(exported.platforms), jax.jit(exported.call))


def export_onnx(network: PortableNetwork, path: os.PathLike | str) -> list[pathlib.Path]:
    """Writes the network as ONNX, and its JSON; needs jax2onnx, which has its own environment.

    Returns:
      The files written.

    Raises:
      ImportError: jax2onnx is not installed.
    """
    import jax2onnx
    import onnx

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it logs shapes that it leaves out of the file
    shapes = network.input_shapes("b")
    with default_forms():  # ONNX's runtimes choose their own form of a convolution
        model = jax2onnx.to_onnx(
            network.__call__,
            inputs=list(shapes.values()),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            model_name="twodal_jax",
            opset=_OPSET,
        )
    onnx.checker.check_model(model)
    about = network.describe(format=f"ONNX, opset {_OPSET}", read_with="onnxruntime", jax=jax.__version__)
    return _write(pathlib.Path(path), model.SerializeToString(), about)


def check_onnx(network: PortableNetwork, path: os.PathLike | str, *, seed: int = 0) -> dict[str, float]:
    """Compares a file in onnxruntime with the network, on random input of batch sizes 1 and 3.

    Returns:
      {"alpha": largest difference in standard deviations, "landmarks68": in crop sides}.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    worst = np.zeros(2)
    call = jax.jit(network.__call__)
    for count in (1, 3):
        batch = (
            rng.integers(0, 256, (count, CROP_SIZE, CROP_SIZE, 3), np.uint8),
            rng.uniform(0, CROP_SIZE, (count, 18, 2)).astype(np.float32),
            rng.integers(0, 2, (count, 18)).astype(np.float32),
        )
        found = session.run(list(OUTPUTS), dict(zip(INPUTS, batch)))
        scales = network.arrays["alpha_std"], CROP_SIZE
        for i, (own, other, scale) in enumerate(zip(call(*batch), found, scales)):
            worst[i] = max(worst[i], (np.abs(np.asarray(own) - other) / scale).max())
    return dict(zip(OUTPUTS, worst.tolist()))


def _write(path: pathlib.Path, content: bytes, about: dict) -> list[pathlib.Path]:
    about = about | {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    beside = _description_of(path)
    write_together({beside: (json.dumps(about, indent=2) + "\n").encode(), path: content})
    return [path, beside]


def _description_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.json")


def _check_digest(path: pathlib.Path, content: bytes) -> None:
    """Raises NetworkFileError if the SHA-256 differs from the one in the JSON beside the file, if there is one."""
    beside = _description_of(path)
    if not beside.is_file():
        return
    try:
        expected = json.loads(beside.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise NetworkFileError(f"{beside}: not readable ({error}); delete it or export again.") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise NetworkFileError(
            f"{path}: truncated or changed (its SHA-256 is not that in {beside.name}); export it again."
        )
