"""Reconstructs the faces of photos, folders, videos or a camera as meshes, landmarks, pose, and an HTML viewer.

    python -m scripts.reconstruct photo.jpg --checkpoint=runs/demo --output_dir=out
    python -m scripts.reconstruct photos/ "more/*.png" --checkpoint=runs/demo --output_dir=out --outputs=all
    python -m scripts.reconstruct talk.mp4 --checkpoint=runs/demo --output_dir=out --smooth
    python -m scripts.reconstruct --same-person a.jpg b.jpg --checkpoint=runs/demo --output_dir=out

Each photo gets a folder of its name in the output folder, and each video overlay.mp4, alpha.npz and the animated
faces.glb. Failed inputs are skipped and listed at the end, with exit status 1. The exit status after Ctrl-C is 130.
"""

import argparse
import contextlib
import pathlib
import sys

from scripts.option_types import at_least_one

# Only what --help needs is imported here; everything else is imported on use.

INTERRUPTED = 130  # the exit status of shells after Ctrl-C


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.reconstruct", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("input", nargs="+", metavar="INPUT", help="image, folder, glob, video file, or camera:0")
    add(
        "--checkpoint",
        default="photos",
        help="photos (the default) or free, the networks of the package; a weights file; or the --workdir of a run",
    )
    add("--output_dir", default="out", type=pathlib.Path, help="made if missing (default out)")
    add(
        "--outputs",
        default="",
        help="comma-separated, or all; default: landmarks,mesh,json,glb,viewer. Also:"
        " dense, depth, pncc, uv, pose, obj, ply",
    )
    add("--boxes", metavar="FILE", help="boxes of the faces: file, x1, y1, x2, y2[, roll] (.csv), or a faces.json")
    add("--landmarks", metavar="FILE", help="landmarks of the faces: 18, 21 or 68 points (.csv, .npz, .json)")
    add(
        "--detector",
        choices=("centerface", "face-alignment", "whole"),
        default="centerface",
        help="centerface: faces of any pose, size and roll; face-alignment: an extra package that also gives landmarks;"
        " whole: the image is a tight crop of one face",
    )
    add("--passes", type=at_least_one, default=2, help="forward passes for each face (default 2)")
    add("--min_confidence", type=float, default=0.4, help="faces below it are skipped (default 0.4)")
    add("--morphable_model", help="path of the checkpoint's morphable model, if it was moved")
    add("--best", action="store_true", help="the run's best checkpoint, not its last")
    add(
        "--frame",
        choices=("image", "model"),
        default="image",
        help="frame of exported meshes: pixels of the photo, or the morphable model's, in metres, without pose",
    )
    add("--uv", metavar="FILE", help="UV coordinates of the morphable model (.npy, or .mat with UV)")
    add("--texture_size", type=at_least_one, default=1024, help="texels per side (default 1024)")
    add("--same-person", action="store_true", help="photos: one person with one shape; the largest face of each photo")
    add(
        "--shape",
        choices=("one", "each"),
        default="one",
        help="videos: one shape for each person, the mean of all frames (default), or each frame's own",
    )
    add("--smooth", action="store_true", help="videos: smooth the faces over time (one-euro filter)")
    add("--max_frames", type=at_least_one, help="videos and cameras: stop after this number of frames")
    return parser.parse_args(arguments)


def detector_of(options: argparse.Namespace):
    """The detector of the options."""
    from twodal_jax.detection import centerface, detectors, from_file

    if options.boxes and options.landmarks:
        raise from_file.GivenError("Give --boxes or --landmarks, not both.")
    if options.boxes:
        return from_file.read_boxes(options.boxes)
    if options.landmarks:
        return from_file.read_landmarks(options.landmarks)
    if options.detector == "face-alignment":
        return detectors.FaceAlignmentDetector()
    if options.detector == "whole":
        return detectors.WholePicture()
    return centerface.CenterFaceDetector()


def load(options: argparse.Namespace):
    """Loads the model with its detector, and the surface of its morphable model."""
    from scripts.terminal import UsageError
    from twodal_jax import load
    from twodal_jax.checkpointing.trained_model import BEST, LATEST
    from twodal_jax.reconstruction.scene import Surface
    from twodal_jax.rendering import uv

    model = load(
        options.checkpoint,
        morphable_model=options.morphable_model,
        which=BEST if options.best else LATEST,
        detector=detector_of(options),
    )
    coordinates = None
    if options.uv:
        try:
            coordinates = uv.read_uv(options.uv, model.morphable_model.num_vertices)
        except ValueError as error:
            raise UsageError(f"--uv: {error}") from None
    return model, Surface(model.morphable_model, coordinates)


def reconstruct(options: argparse.Namespace, outcome) -> int:
    """Runs the command; returns the exit status. Results of the inputs are added to a `photos.Outcome`."""
    from scripts.terminal import console, progress
    from twodal_jax.detection.from_file import GivenError
    from twodal_jax.reconstruction import inputs, outputs, photos as photo_job, videos
    from twodal_jax.reconstruction.video_io import VideoError

    names = outputs.parse_names(options.outputs or ",".join(outputs.DEFAULT))
    items, problems, notes = inputs.expand(options.input)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    outcome.failures += [tuple(problem.split(": ", 1)) for problem in problems]
    photos = [item for item in items if isinstance(item, inputs.Photo)]
    if (options.boxes or options.landmarks) and len(photos) < len(items):
        raise GivenError("--boxes and --landmarks are for photos; a video's faces are detected and tracked.")
    if options.same_person and len(photos) < len(items):
        raise inputs.InputError("--same-person is for photos; a person in a video has one shape without it.")
    model, surface = load(options)
    settings = photo_job.PhotoSettings(
        options.output_dir, names, options.passes, options.min_confidence, options.frame, options.texture_size
    )
    outcome.inputs = len(items)
    if photos:
        with progress("photos", len(photos)) as advance:
            job = photo_job.reconstruct_same_person if options.same_person else photo_job.reconstruct_photos
            job(photos, model, surface, settings, outcome, advance)
    for source in (item for item in items if not isinstance(item, inputs.Photo)):
        try:
            with contextlib.ExitStack() as stack:
                bars = []
                read, with_face = videos.reconstruct_video(
                    source,
                    model,
                    surface,
                    options.output_dir,
                    min_confidence=options.min_confidence,
                    smooth=options.smooth,
                    one_shape=options.shape == "one",
                    animation="glb" in names,
                    frame=options.frame,
                    texture_size=options.texture_size,
                    max_frames=options.max_frames,
                    started=lambda total: bars.append(stack.enter_context(progress(source.name, total or None))),
                    advance=lambda count: bars[0](count),
                )
            console.print(f"{source.name}: {with_face} of {read} frames have a face", markup=False, highlight=False)
        except VideoError as error:
            outcome.failures.append((source.name, str(error)))
        outcome.done += 1
    return report(outcome, len(photos), options.output_dir, console)


def report(outcome, num_photos: int, output_dir: pathlib.Path, console) -> int:
    """Prints the number of faces and the failed inputs; returns the exit status."""
    if num_photos:
        where = f"written to {output_dir}" if outcome.faces else "so nothing was written for them"
        console.print(
            f"{outcome.faces} face(s) in {num_photos} photo(s), {where}", markup=False, highlight=False, soft_wrap=True
        )
    if outcome.left_out:
        console.print(f"{outcome.left_out} smaller face(s) left out (--same-person)", markup=False, highlight=False)
    if outcome.failures:
        console.print(f"{len(outcome.failures)} input(s) failed:", markup=False, highlight=False)
        for name, reason in outcome.failures:
            console.print(f"  {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    return 1 if outcome.failures else 0


def interrupted(outcome) -> str:
    """Message after Ctrl-C; `outcome` is None while modules are imported."""
    if outcome is None or not outcome.inputs:
        return "Interrupted before anything was written."
    return f"Interrupted: {outcome.done} of {outcome.inputs} input(s) were done. Files written so far are whole."


def main() -> None:
    """Runs the command; errors that a user can fix, and Ctrl-C, are one message."""
    options, outcome = parse(), None
    try:
        from scripts import terminal
        from twodal_jax.detection.from_file import GivenError
        from twodal_jax.export.frames import FrameError
        from twodal_jax.reconstruction.inputs import InputError
        from twodal_jax.reconstruction.outputs import OutputError
        from twodal_jax.reconstruction.photos import Outcome

        outcome, user_errors = Outcome(), (GivenError, InputError, OutputError, FrameError, ModuleNotFoundError)
        terminal.run(
            lambda: sys.exit(reconstruct(options, outcome)), *user_errors, interrupted=lambda: interrupted(outcome)
        )
    except KeyboardInterrupt:  # during the imports; `terminal.run` handles later ones
        print(interrupted(outcome), file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
