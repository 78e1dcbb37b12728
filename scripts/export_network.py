"""Exports the network of a run as one file that runs without this program.

    python -m scripts.export_network --checkpoint=runs/demo --output_dir=exported --format=stablehlo
    python -m scripts.export_network --checkpoint=runs/demo --output_dir=exported --format=onnx
    python -m scripts.export_network --checkpoint=runs/demo --output_dir=exported --format=weights

The file's inputs are images [b, 120, 120, 3] (uint8, BGR crops), landmarks [b, 18, 2] and visible [b, 18]; its outputs
are alpha [b, 62] and landmarks68 [b, 68, 3]. The batch size b is free. A JSON beside it has the details.

The format "weights" is this program's own: network.safetensors, float16, for --checkpoint of other commands.

ONNX is written by jax2onnx, which needs an older orbax-checkpoint than training does and therefore a separate
environment. If it is missing, the command writes the weights (network.npz) and prints how to continue.
"""

import argparse
import importlib.util
import pathlib
import shlex
import sys

NAME = "network"
FORMATS = ("stablehlo", "onnx", "weights")


class UsageError(ValueError):
    """The options do not fit together, or something is missing; the message names the remedy."""


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.export_network",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="the --workdir of a run, a weights file, photos or free")
    source.add_argument("--weights", type=pathlib.Path, help=f"{NAME}.npz that this command wrote")
    parser.add_argument("--output_dir", required=True, type=pathlib.Path, help="made if missing")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--morphable_model", help="the 3DMM's folder or file, or builtin; default: the run's")
    parser.add_argument("--best", action="store_true", help="the run's best checkpoint, not its last")
    parser.add_argument(
        "--passes",
        type=int,
        help="forward passes, each with the landmarks of the one before (default 1; with --weights: the number they"
        " were written with)",
    )
    options = parser.parse_args(arguments)
    if options.weights and (options.best or options.morphable_model or options.passes):
        parser.error("--best, --morphable_model and --passes go with --checkpoint; --weights include them")
    if options.weights and options.format == "weights":
        parser.error("--format=weights goes with --checkpoint")
    return options


def load_trained(options):
    """The `checkpointing.trained_model.TrainedModel` of --checkpoint."""
    try:
        from twodal_jax.checkpointing import manager as checkpoint_manager, trained_model
        from twodal_jax.face_models.load import AssetError
    except ImportError as error:
        raise UsageError(f"{error}: this environment cannot read checkpoints, only --weights={NAME}.npz.") from None
    which = trained_model.BEST if options.best else trained_model.LATEST
    try:
        return trained_model.load(options.checkpoint, morphable_model=options.morphable_model, which=which)
    except (AssetError, checkpoint_manager.CheckpointError) as error:
        raise UsageError(str(error)) from None


def load_network(options):
    """The `export.portable.PortableNetwork` of the options."""
    from twodal_jax.export import portable

    if options.weights:
        return portable.load_npz(options.weights)
    trained = load_trained(options)
    return portable.from_trained(trained, passes=1 if options.passes is None else options.passes)


def how_to_get_onnx(weights: pathlib.Path, output_dir: pathlib.Path) -> str:
    """Message with the two commands that finish the export in another environment."""
    options = f"--weights={weights}", f"--output_dir={output_dir}", "--format=onnx"
    finish = ["-m", "scripts.export_network", *options]
    return (
        "jax2onnx is not installed here, because its requirements conflict with those of training. The weights are in"
        f" {weights}. Create an environment for it, once, and finish there:\n\n"
        "    python3 -m venv onnx_env && onnx_env/bin/python -m pip install -r requirements-onnx.txt\n"
        f"    onnx_env/bin/python {shlex.join(finish)}\n"
    )


def write_onnx(network, options) -> list[pathlib.Path]:
    """Writes and checks network.onnx; if jax2onnx is missing, writes the weights and raises UsageError."""
    from twodal_jax.export import network as files, portable

    if importlib.util.find_spec("jax2onnx") is None:
        weights = options.weights or portable.save_npz(options.output_dir / f"{NAME}.npz", network)
        raise UsageError(how_to_get_onnx(weights, options.output_dir))
    network = portable.in_float32(network)
    path = options.output_dir / f"{NAME}.onnx"
    written = files.export_onnx(network, path)
    difference = files.check_onnx(network, path)
    print(
        f"onnxruntime differs from JAX by at most {difference['alpha']:.1e} standard deviations (alpha) and"
        f" {difference['landmarks68']:.1e} crop sides (landmarks)",
        file=sys.stderr,
    )
    if max(difference.values()) > files.TOLERANCE:
        raise UsageError(f"{path}: differs from the network by more than {files.TOLERANCE:g}.")
    return written


def write_weights(options) -> pathlib.Path:
    """Writes network.safetensors."""
    from twodal_jax.checkpointing import trained_model, weights
    from twodal_jax.export.files import write_together

    path = options.output_dir / f"{NAME}{weights.SUFFIX}"
    write_together({path: trained_model.to_weights(load_trained(options))})
    return path


def export_network(arguments) -> None:
    options = parse(arguments)
    if options.format == "weights":
        print(f"Written: {write_weights(options)}", file=sys.stderr)
        return
    network = load_network(options)
    if options.format == "onnx":
        written = write_onnx(network, options)
    else:
        from twodal_jax.export.network import export_stablehlo

        written = export_stablehlo(network, options.output_dir / f"{NAME}.stablehlo")
    print(f"Written: {', '.join(map(str, written))}", file=sys.stderr)


def main(arguments) -> None:
    """Runs `export_network`; errors that a user can fix are one message and exit status 1."""
    try:
        export_network(arguments)
    except (UsageError, OSError) as error:
        sys.exit(str(error))
    except ValueError as error:
        from twodal_jax.export.portable import NetworkFileError

        if not isinstance(error, NetworkFileError):
            raise
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
