"""Command that trains 2DAL: `python -m twodal_jax.main --config=configs/paper.py --workdir=runs/paper`.

Every field of the config is a flag, such as `--config.stage1.steps=1000`. A config of the package is also found by its
name, from any folder: `--config=demo`. The same command resumes an interrupted run.
"""

import contextlib
import errno
import importlib.util
import pathlib
import re
import signal
import sys

from twodal_jax.runtime import xla_flags

if __name__ == "__main__":
    # A Ctrl-C ends the program at once until `runtime.preemption` handles it: there is nothing to save before.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    xla_flags.use_huge_pages()

import absl.logging
from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file of the run.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, created if missing.")
# A full disk, a quota, a read-only file system, a missing permission.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
flags.mark_flags_as_required(["config", "workdir"])


def fail(message: str, code: int = 1) -> None:
    """Exits with a message on stderr and no traceback."""
    with contextlib.suppress(OSError):  # stderr is closed
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def run(config, workdir: pathlib.Path) -> None:
    """Trains a run; errors that a user can correct end in one message."""
    from data_pipelines import training_data

    absl.logging.set_verbosity(absl.logging.WARNING)  # Orbax logs every step of every save
    try:
        training_data.check_present(config, workdir)  # before the slow imports below
    except training_data.MissingData as error:
        fail(str(error))
    import jax

    from data_pipelines.sources.base import SourceError
    from data_pipelines.storage.prepared_dataset import PreparedError
    from twodal_jax import train
    from twodal_jax.checkpointing import LATEST, pretrained
    from twodal_jax.checkpointing.manager import CheckpointError
    from twodal_jax.distributed import cluster
    from twodal_jax.face_models.load import AssetError, load_morphable_model
    from twodal_jax.io.text import WriteError, writing
    from twodal_jax.training import builder

    user_errors = (
        AssetError,
        SourceError,
        PreparedError,
        CheckpointError,
        builder.ConfigError,
        train.NotFinite,
        WriteError,
        cluster.GroupError,
    )
    xla_flags.keep_compiled(workdir / ".compiled")
    try:
        network = builder.build_stages(config)[0].spec.regressor  # raises before anything slow
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        settings = config.run
        cluster.start(
            config.distributed, start_seconds=settings.start_seconds, heartbeat_seconds=settings.heartbeat_seconds
        )
        pretrained.for_new_run(config, workdir / LATEST, network)  # raises before data is made
        model = load_morphable_model(config.morphable_model)
        data, model = training_data.open_training_data(config, workdir, model)
        train.train_and_evaluate(config, workdir, data, model)
    except train.Stopped as stopped:
        fail(str(stopped), stopped.code)
    except user_errors as error:
        fail(str(error))
    except jax.errors.JaxRuntimeError as error:
        if not cluster.is_group():
            raise
        fail(f"{cluster.LOST} ({str(error).splitlines()[0]})")
    except KeyboardInterrupt:
        fail("Interrupted without saving; the same command resumes from the last checkpoint.", 130)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        fail(f"{error}. Make room or set the permissions; the same command resumes the run.")
    print(f"Report: {workdir / 'report.html'}")


def with_config_path(argument: str) -> str:
    """`--config=demo` or `--config=configs/demo.py:plain` with the installed file where no such file is here."""
    flag, _, value = argument.partition("=")
    path, colon, variant = value.partition(":")
    name = re.fullmatch(r"(?:configs/)?(\w+?)(?:\.py)?", path)
    if flag not in ("--config", "-config") or not name or pathlib.Path(path).is_file():
        return argument
    package = importlib.util.find_spec("configs")
    folders = [pathlib.Path(folder) for folder in package.submodule_search_locations] if package else []
    found = [file for folder in folders if (file := folder / f"{name[1]}.py").is_file()]
    return f"{flag}={found[0]}{colon}{variant}" if found else argument


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags as absl does; a wrong flag, field, value or config file ends in one message."""
    try:
        words = iter(argv)
        argv = [f"{word}={next(words, '')}" if word in ("--config", "-config") else word for word in words]
        rest = flags.FLAGS([with_config_path(word) for word in argv])
        _CONFIG.value.to_dict()  # raises the errors of reading the file
        return rest
    except flags.Error as error:
        _, refused, message = str(error).rpartition("ValueError: ")
        fail(message.strip() if refused else f"{error}\nSee python -m twodal_jax.main --helpshort")
    except OSError as error:
        name = re.search(r"--?config[= ]([^ :]*)", " ".join(argv))[1]
        if pathlib.Path(name).is_file():
            raise
        folder = pathlib.Path(with_config_path("--config=paper").partition("=")[2]).parent
        files = sorted(folder.glob("*.py"))
        known = ", ".join(path.stem for path in files if "def get_config" in path.read_text(encoding="utf-8"))
        fail(f"--config={name}: no such file" + (f"; there are {known}" if known else f" ({error})"))
    except (AttributeError, KeyError) as error:
        while error.args and isinstance(error.args[0], Exception):
            error = error.args[0]
        fail(f"The config has no field {error.args[0]}")


def main(argv: list[str]) -> None:
    """Reads the flags and runs."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    run(_CONFIG.value, pathlib.Path(_WORKDIR.value))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
