"""Faces of known place, colours and expressions, for the viewer's tests."""

import dataclasses

import numpy as np

from twodal_jax.viewer.viewer_face import ViewerFace

HOSTILE = "</script><script>window.hacked = 1</script>\"'><img src=x onerror=window.hacked=2>{{three}}.jpg"
RED, GREEN, BLUE = (0, 0, 230), (0, 190, 0), (220, 60, 0)  # BGR


def rotation(yaw_deg, roll_deg=0.0):
    """[3, 3]: a rotation about y, then clockwise as the viewer sees it; y up."""
    yaw, roll = np.radians([yaw_deg, -roll_deg])
    about_y = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    about_z = [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_y)


def head(columns=45, rows=55, **changes):
    """Half an ellipsoid with a nose, red for x < 0, green for x > 0, blue on the forehead; 200 units tall.

    In a photo of 320x240 it is 80 pixels tall about (200, 110).
    """
    across, up = np.meshgrid(np.linspace(-1.5, 1.5, columns), np.linspace(-1.3, 1.3, rows))
    x, y, z = np.sin(across) * np.cos(up), 1.25 * np.sin(up), np.cos(across) * np.cos(up)
    z = z + 0.35 * np.exp(-((across / 0.15) ** 2) - ((up / 0.25) ** 2))
    vertices = 83 * np.stack([x, y, z], axis=-1).reshape(-1, 3)
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    right, above = corner + 1, corner + columns
    triangles = np.concatenate([np.stack([corner, right, above], 1), np.stack([right, above + 1, above], 1)])
    colours = np.where(vertices[:, :1] < 0, RED, GREEN)
    colours[vertices[:, 1] > 45] = BLUE
    rng = np.random.default_rng(1)
    places = np.stack([across.ravel() / 3 + 0.5, up.ravel() / 2.6 + 0.5])
    waves = rng.uniform(2, 7, (10, 3, 2)) @ places + rng.uniform(0, 6, (10, 3, 1))
    linear = 0.4 * rotation(20, 10)
    pose = np.column_stack([linear, [200, -110, 3]]) * np.array([[1], [-1], [1]])
    fields = dict(
        name="One",
        vertices_model=vertices,
        triangles=triangles,
        expression_directions=np.array([12, 8, 6, 5, 4, 3, 3, 2, 2, 1.0])[:, None, None] * np.sin(waves),
        landmark_indices=rng.choice(len(vertices), 68, replace=False),
        pose_image=pose,
        roi_box=np.array([150.0, 60, 250, 160]),
        colours=colours.astype(np.uint8),
    )
    return ViewerFace(**fields | changes)


def textured(**changes):
    """The same head with its colours in a texture; u to the right, v up."""
    face = head(**changes)
    uv = face.vertices_model[:, :2] / 250 + 0.5
    texture = np.zeros((256, 256, 3), np.uint8)
    texture[:, :128], texture[:, 128:] = RED, GREEN
    texture[: round(256 * (0.5 - 45 / 250))] = BLUE
    return dataclasses.replace(face, uv=uv, texture=texture, colours=None)


def grey_photo(height=240, width=320):
    return np.full((height, width, 3), 128, np.uint8)


def image_vertices(face, vertices=None):
    """[N, 3] image pixels, computed point by point in float64."""
    vertices = face.vertices_model if vertices is None else vertices
    return np.array([face.pose_image[:, :3] @ point + face.pose_image[:, 3] for point in vertices])
