"""Small face files in the real formats: .mat + .jpg pairs of a tiny random face model, and rows of prepared sets."""

import cv2
import numpy as np
import scipy.io

from twodal_jax.geometry import morphable_model

SIZE = 450


def tiny_model(num_vertices=120, seed=0):
    """A random morphable model of a face's size, in BFM units."""
    random = np.random.default_rng(seed)
    mean = random.uniform(-80_000, 80_000, (3, num_vertices))
    basis = random.normal(0, 1, (50, 3, num_vertices))
    triangles = random.integers(0, num_vertices, (60, 3))
    return morphable_model.create(mean, basis, triangles, np.arange(68) + 10)


def photo(size=SIZE, seed=0, channels=3):
    """A smooth random image, uint8 [size, size, channels]."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (9, 9, channels)).astype(np.uint8)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


def parameters(seed=0):
    """Random Pose_Para, Shape_Para and Exp_Para as in a .mat of 300W-LP."""
    random = np.random.default_rng(seed)
    pose = [*random.uniform(-0.6, 0.6, 3), *random.uniform(200, 250, 2), -30.0, 1.1e-3]
    return {
        "Pose_Para": np.array([pose], np.float32),
        "Shape_Para": random.normal(0, 500, (199, 1)),
        "Exp_Para": random.normal(0, 500, (29, 1)),
    }


def true_landmarks(model, values, height=SIZE):
    """Landmarks [3, 68] as in a .mat file (pixels from 1, y down), by 300W-LP's formulas in NumPy."""
    pitch, yaw, roll, tx, ty, tz, scale = np.ravel(values["Pose_Para"]).astype(np.float64)
    c, s = np.cos, np.sin
    rx = np.array([[1, 0, 0], [0, c(pitch), s(pitch)], [0, -s(pitch), c(pitch)]])
    ry = np.array([[c(yaw), 0, -s(yaw)], [0, 1, 0], [s(yaw), 0, c(yaw)]])
    rz = np.array([[c(roll), s(roll), 0], [-s(roll), c(roll), 0], [0, 0, 1]])
    weights = np.concatenate([values["Shape_Para"][:40, 0], values["Exp_Para"][:10, 0]])
    basis = np.asarray(model.basis, np.float64)
    shape = np.asarray(model.mean) + np.tensordot(weights, basis, axes=1)
    points = scale * rx @ ry @ rz @ shape[:, model.landmark_indices] + np.array([[tx], [ty], [tz]])
    points[1] = height + 1 - points[1]
    return points


def write_pair(folder, name, model, seed=0, image=None, pt3d=True, **changes):
    """Writes name.jpg and name.mat; `changes` replace or (None) remove keys of the .mat."""
    folder.mkdir(parents=True, exist_ok=True)
    values = parameters(seed)
    content = {
        **values,
        "roi": np.array([[1, 1, 450, 450]], np.int16),
        "pt2d": np.zeros((2, 68)),
        "Illum_Para": np.zeros((1, 10)),
        "Color_Para": np.zeros((1, 7)),
        "Tex_Para": np.zeros((199, 1)),
    }
    if pt3d:
        content["pt3d_68"] = true_landmarks(model, values).astype(np.float32)
    content = {key: value for key, value in (content | changes).items() if value is not None}
    scipy.io.savemat(folder / f"{name}.mat", content)
    if image is not False:
        cv2.imwrite(str(folder / f"{name}.jpg"), photo(seed=seed) if image is None else image)
    return content


def wild_rows(count, seed=0, margin=0):
    """Random arrays of a prepared folder of kind "wild"."""
    random = np.random.default_rng(seed)
    size = 120 + 2 * margin
    return {
        "image": random.integers(0, 256, (count, size, size, 3)).astype(np.uint8),
        "landmarks": random.uniform(0, 120, (count, 18, 2)).astype(np.float32),
        "visible": np.ones((count, 18), np.float32),
        "yaw_deg": np.linspace(-90, 90, count, dtype=np.float32),
        "name": np.array([f"face{i}.jpg" for i in range(count)]),
    }


def read_all(source):
    """All faces and skips of a source."""
    return list(source.faces(0, len(source)))


def file_contents(folder):
    """{file name: bytes} of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run_prepare_data(source, folder, output, *flags):
    """Exit status of `scripts.prepare_data`."""
    from scripts import prepare_data

    return prepare_data.main([source, f"--input={folder}", f"--output={output}", *flags])
