"""Opens a page on this machine for trying the program: a photo or a webcam picture in, faces in 3D and their files out.

    twodal app
    python -m scripts.app --checkpoint=runs/demo

Only this machine can open the page, the page may load nothing from elsewhere, and Ctrl-C deletes its files.
"""

import argparse
import os
import pathlib
import socket
import sys
import tempfile

OUTPUTS = ("landmarks", "obj", "glb", "json", "viewer")
OFFERED = (".glb", ".obj", ".mtl", ".png", ".json", ".csv")  # of the files written; landmarks68 are in faces.json
MIN_CONFIDENCE = 0.4
# Gradio's page has inline scripts; everything must come from this server.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; form-action 'self'"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="photos", help="as of scripts.reconstruct (default photos)")
    parser.add_argument("--port", type=int, default=7860, help="0: any free one (default 7860)")
    return parser.parse_args(arguments)


def reconstruct(picture: str | None, model, surface, folder: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """A picture's file -> (viewer.html, the files to download), in a new folder of `folder`.

    Raises:
      ValueError: no face was found, or the picture could not be read; the message says why.
    """
    from twodal_jax.reconstruction import inputs, photos

    if not picture:
        raise ValueError("Choose a picture first.")
    written, outcome = pathlib.Path(tempfile.mkdtemp(dir=folder)), photos.Outcome()
    settings = photos.PhotoSettings(written, OUTPUTS, min_confidence=MIN_CONFIDENCE)
    photo = inputs.Photo(pathlib.Path(picture), "faces")
    photos.reconstruct_photos([photo], model, surface, settings, outcome, lambda count: None)
    if outcome.failures:
        raise ValueError(outcome.failures[0][1])
    files = sorted(path for path in (written / "faces").iterdir() if path.suffix in OFFERED)
    return written / "faces" / "viewer.html", list(map(str, files))


def make_server(model, surface, folder: pathlib.Path):
    """The page as an ASGI program; its files are in `folder`."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "cache")}
    import fastapi
    import gradio as gr
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.staticfiles import StaticFiles

    def show(picture):
        try:
            viewer, files = reconstruct(picture, model, surface, folder)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        address = f"/written/{viewer.relative_to(folder)}"
        return f'<iframe src="{address}" title="3D faces" style="width: 100%; height: 80vh; border: 0"></iframe>', files

    with gr.Blocks(title="twodal_jax", analytics_enabled=False) as page:
        picture = gr.Image(type="filepath", image_mode=None, sources=["upload", "webcam"], label="Picture", height=320)
        button = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct")
        viewer, files = gr.HTML(), gr.File(label="Files", file_count="multiple")
        button.click(show, picture, [viewer, files], api_visibility="private")

    server = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Other pages in the browser cannot reach this one under a name of theirs.
    server.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])

    @server.middleware("http")
    async def restrict(request, call_next):
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    server.mount("/written", StaticFiles(directory=folder))
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # Gradio's own come from Google
    return gr.mount_gradio_app(
        server,
        page,
        "/",
        allowed_paths=[str(folder)],
        theme=gr.themes.Default(**fonts),
        footer_links=[],
        ssr_mode=False,
    )


def serve(options: argparse.Namespace) -> None:
    """Loads the network and serves the page until Ctrl-C."""
    import uvicorn

    from twodal_jax import load
    from twodal_jax.reconstruction.scene import Surface

    with socket.create_server(("127.0.0.1", options.port)) as listening, tempfile.TemporaryDirectory() as folder:
        model = load(options.checkpoint)
        server = make_server(model, Surface(model.morphable_model), pathlib.Path(folder))
        print(f"Open http://127.0.0.1:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(server, log_level="warning")).run(sockets=[listening])


def main() -> None:
    """Runs the command."""
    options = parse()
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(f'{error}. The page needs an extra: pip install "twodal_jax[app]"')
    from scripts import terminal

    terminal.run(lambda: serve(options), interrupted=lambda: "Ended.")


if __name__ == "__main__":
    main()
