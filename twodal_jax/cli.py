"""Console command `twodal`: one name for every command of the project; `python -m MODULE` does the same."""

import runpy
import sys

from twodal_jax import __version__

COMMANDS = {
    "reconstruct": ("scripts.reconstruct", "faces of photos, films and cameras in 3D"),
    "app": ("scripts.app", "a page on this machine that does the same"),
    "train": ("twodal_jax.main", "train a network from a config"),
    "prepare-data": ("scripts.prepare_data", "prepare a data set for training"),
    "show-batch": ("scripts.show_batch", "draw what training sees"),
    "evaluate-aflw2000": ("scripts.evaluate_aflw2000", "errors on AFLW2000-3D"),
    "evaluate-aflw": ("scripts.evaluate_aflw", "errors on AFLW"),
    "evaluate-lfpa": ("scripts.evaluate_lfpa", "errors on AFLW-LFPA"),
    "evaluate-florence": ("scripts.evaluate_florence", "errors on Florence"),
    "ablation": ("scripts.run_ablation", "train and compare the rows of the paper's ablation"),
    "convert-model": ("scripts.convert_model", "convert a face model to this project's .npz"),
    "evaluate-now": ("scripts.evaluate_now", "errors on the NoW challenge"),
    "export": ("scripts.export_network", "write a network as StableHLO, ONNX or weights"),
    "import-authors": ("scripts.import_authors_checkpoint", "convert the authors' released checkpoint"),
}


def usage() -> str:
    """The text of --help."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: twodal COMMAND [options]; twodal COMMAND --help describes one", "", *lines])


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"twodal_jax {__version__}")
    elif name in COMMANDS:
        sys.argv = [f"twodal {name}", *sys.argv[2:]]
        try:
            runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
        except ModuleNotFoundError as error:
            if (extra := EXTRAS.get((error.name or "").split(".")[0])) is None:
                raise
            sys.exit(f'{error}. This command needs an extra: pip install "twodal_jax[{extra}]"')
    else:
        sys.exit(f"twodal: there is no command {name!r}\n\n{usage()}")


# Imported package -> extra of pyproject.toml that brings it.
EXTRAS = {
    **dict.fromkeys(("matplotlib", "jinja2", "markupsafe", "tensorboardX"), "train"),
    **dict.fromkeys(("h5py", "tensorflow", "tensorflow_datasets", "array_record", "apache_beam"), "data"),
    "face_alignment": "landmarks",
    **dict.fromkeys(("gradio", "fastapi", "starlette", "uvicorn"), "app"),
}


if __name__ == "__main__":
    main()
