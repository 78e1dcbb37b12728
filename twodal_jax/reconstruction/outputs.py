"""Writers of the outputs of one image, one small function for each kind, and the table of their names.

Each image has its own folder. Files of single faces are numbered from 0, as in faces.json.
"""

import pathlib
import re
from collections.abc import Callable

import cv2
import numpy as np

from twodal_jax.export import files, frames, meshes, tables
from twodal_jax.geometry import coefficients
from twodal_jax.reconstruction.scene import Scene

_OF_A_FACE = re.compile(r"(?:face|uv)_(\d+)(?:_source)?\.(?:obj|mtl|png|ply|glb)")


class OutputError(ValueError):
    """An unknown kind of output; the message lists the known ones."""


def write_picture(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a picture [H, W] or [H, W, 3] BGR, uint8 or uint16, by the path's suffix; atomic."""
    done, content = cv2.imencode(path.suffix, picture)
    if not done:
        raise OSError(f"{path}: a picture of shape {picture.shape} could not be encoded")
    files.write_together({path: content.tobytes()})


def _landmarks(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.rendering.landmarks import draw_face_landmarks

    canvas = scene.image
    for face, visible in zip(scene.faces, scene.landmarks_visible):
        canvas = draw_face_landmarks(canvas, face.landmarks68, visible)
    write_picture(folder / "landmarks.jpg", canvas)
    tables.write_landmarks_csv(folder / "landmarks.csv", [(scene.name, scene.faces)])


def _dense(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.rendering import overlay

    canvas = scene.image
    for face, seen in zip(scene.faces, scene.visibilities):
        canvas = overlay.draw_dense(canvas, face.vertices, seen.visible, scene.surface.codes)
    write_picture(folder / "dense.jpg", canvas)


def _mesh(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.rendering import overlay

    canvas = overlay.draw_mesh(scene.image, scene.vertices, scene.triangles, scale=1)
    write_picture(folder / "mesh.jpg", canvas)


def _depth(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.rendering import maps

    depth = maps.depth_map(scene.fragments)
    write_picture(folder / "depth.png", maps.depth_picture(depth, np.uint16))


def _pncc(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.rendering import maps

    codes = np.tile(scene.surface.codes, (len(scene.faces), 1))
    write_picture(folder / "pncc.png", maps.pncc_picture(maps.pncc(codes, scene.triangles, scene.fragments)))


def _uv(scene: Scene, folder: pathlib.Path) -> None:
    for number, (texture, source) in enumerate(scene.textures):
        write_picture(folder / f"uv_{number}.png", texture)
        write_picture(folder / f"uv_{number}_source.png", source)


def _pose(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.rendering import pose_axes

    canvas = scene.image
    for face in scene.faces:
        pose = coefficients.decompose_pose(coefficients.split(face.alpha)[0])
        nose, size = face.landmarks68[30, :2], np.ptp(face.landmarks68[:, :2], axis=0).max()
        canvas = pose_axes.draw_axes(canvas, nose, np.asarray(pose.rotation), 0.6 * float(size))
    write_picture(folder / "pose.jpg", canvas)
    tables.write_pose_json(folder / "pose.json", scene.name, scene.faces)


def _obj(scene: Scene, folder: pathlib.Path) -> None:
    """Writes textured meshes with one UV a vertex.

    The first N vertices are the morphable model's; copies of those at the texture's seam follow.
    """
    flat = scene.surface.uv_map
    for number, (face, (texture, _)) in enumerate(zip(scene.faces, scene.textures)):
        meshes.write_obj(
            folder / f"face_{number}.obj",
            scene.exported(face)[flat.vertex],
            flat.triangles,
            uv=flat.uv,
            texture=texture,
            comment=frames.describe(scene.frame, scene.surface.unit),
        )


def _glb(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.reconstruction import animatable

    alpha, boxes = (np.stack([getattr(face, name) for face in scene.faces]) for name in ("alpha", "roi_box"))
    # One scale for all faces of a photo, so that their files fit together.
    metres = animatable.metres_per_pixel(alpha, boxes, scene.surface)
    for number, (texture, _) in enumerate(scene.textures):
        rows, name = slice(number, number + 1), f"face_{number}"
        mesh = animatable.glb_mesh(name, alpha[rows], boxes[rows], scene.surface, scene.frame, scene.size[0], texture)
        animatable.write(folder / f"{name}.glb", [mesh], scene.surface, scene.frame, metres)


def _ply(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.rendering import symmetric_fill, texture

    surface = scene.surface
    for number, (face, seen) in enumerate(zip(scene.faces, scene.visibilities)):
        colours, known = texture.vertex_colours(scene.image, face.vertices, surface.triangles, seen)
        colours, _ = symmetric_fill.fill_by_symmetry(colours, known, surface.mirror, face.vertices, surface.triangles)
        meshes.write_ply(
            folder / f"face_{number}.ply",
            scene.exported(face),
            surface.triangles,
            colours=np.rint(255 * colours).astype(np.uint8),
            comment=frames.describe(scene.frame, scene.surface.unit),
        )


def _json(scene: Scene, folder: pathlib.Path) -> None:
    height, width = scene.size
    tables.write_faces_json(folder / "faces.json", scene.name, (width, height), scene.faces)


def _viewer(scene: Scene, folder: pathlib.Path) -> None:
    from twodal_jax.viewer.page import write_viewer
    from twodal_jax.viewer.viewer_face import viewer_face

    shown = [
        viewer_face(
            face, scene.surface.model, scene.surface.uv_map, texture, f"Face {number}", landmarks_visible=visible
        )
        for number, (face, (texture, _), visible) in enumerate(
            zip(scene.faces, scene.textures, scene.landmarks_visible)
        )
    ]
    write_viewer(folder / "viewer.html", shown, scene.image, scene.name)


# name -> (writer, description)
OUTPUTS: dict[str, tuple[Callable[[Scene, pathlib.Path], None], str]] = {
    "landmarks": (_landmarks, "68 landmarks on the photo (hidden ones as rings), and as landmarks.csv"),
    "dense": (_dense, "every visible vertex on the photo"),
    "mesh": (_mesh, "the shaded mesh on the photo"),
    "depth": (_depth, "depth as a 16-bit PNG, near is bright"),
    "pncc": (_pncc, "projected normalised coordinate code, PNG"),
    "uv": (_uv, "the texture as a UV map, and the source of each texel"),
    "pose": (_pose, "the head's axes on the photo, and angles in pose.json"),
    "obj": (_obj, "OBJ + MTL + PNG, textured"),
    "ply": (_ply, "PLY with vertex colours"),
    "glb": (_glb, "binary glTF, textured and animatable: morph targets of the expression"),
    "json": (_json, "faces.json: boxes, coefficients, landmarks, pose, confidence"),
    "viewer": (_viewer, "viewer.html, a page that shows the faces in 3D"),
}
DEFAULT = ("landmarks", "mesh", "json", "glb", "viewer")


def parse_names(text: str) -> tuple[str, ...]:
    """'landmarks,obj' or 'all' -> names of OUTPUTS, in their order.

    Raises:
      OutputError: one of them is unknown.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - OUTPUTS.keys() - {"all"})
    if unknown or not names:
        raise OutputError(
            f"--outputs: {', '.join(unknown) or 'nothing given'}; expected all, or some of {', '.join(OUTPUTS)}."
        )
    return tuple(name for name in OUTPUTS if name in names or "all" in names)


def write(scene: Scene, folder: pathlib.Path, names: tuple[str, ...]) -> None:
    """Writes the chosen outputs and makes the folder. A scene needs at least one face.

    Deletes files of faces that an earlier run found and this one did not.

    Raises:
      OSError: a file could not be written; files written before it are complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        OUTPUTS[name][0](scene, folder)
    for path in folder.iterdir():
        numbered = _OF_A_FACE.fullmatch(path.name)
        if numbered and int(numbered[1]) >= len(scene.faces):
            path.unlink()
