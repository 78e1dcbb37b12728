"""Small files in the true formats of other face models, made of the built-in head, whose landmarks are known."""

import copyreg
import json
import pickle
import struct
import sys
import types

import h5py
import numpy as np
import scipy.io
import scipy.sparse

from twodal_jax.face_models import cc0_head

SHAPES, EXPRESSIONS = 45, 14


def head():
    """(mean [N, 3], shape [K, N, 3], expression [L, N, 3], triangles [T, 3], landmarks [68]) of a reduced head."""
    model = cc0_head.load().model
    rng = np.random.default_rng(0)
    kept = np.sort(np.unique(np.r_[rng.choice(model.num_vertices, 6000, replace=False), model.landmark_indices]))
    kept = kept[np.isin(kept, np.unique(model.triangles))]
    place = np.full(model.num_vertices, -1)
    place[kept] = np.arange(len(kept))
    triangles = place[np.asarray(model.triangles)]
    triangles = triangles[(triangles >= 0).all(axis=1)]
    mean = np.asarray(model.mean, np.float64).T[kept]
    shape = rng.normal(scale=1e-3, size=(SHAPES, *mean.shape))
    expression = rng.normal(scale=1e-3, size=(EXPRESSIONS, *mean.shape))
    return mean, shape, expression, triangles, place[np.asarray(model.landmark_indices)]


def columns(directions):
    """[K, N, 3] -> [3N, K]."""
    return np.moveaxis(directions, 0, -1).reshape(-1, len(directions))


def write_deep3d(folder, unit=10.0):
    """Deep3DFaceRecon's BFM_model_front.mat, in decimetres."""
    mean, shape, expression, triangles, landmarks = head()
    scipy.io.savemat(
        folder / "BFM_model_front.mat",
        {
            "meanshape": unit * mean.reshape(1, -1).astype(np.float32),
            "idBase": unit * columns(shape),
            "exBase": unit * columns(expression),
            "tri": triangles + 1.0,
            "keypoints": landmarks[None] + 1.0,
            "meantex": np.zeros((1, mean.size)),
        },
    )
    return folder / "BFM_model_front.mat", unit


def write_bfm_h5(folder, unit=1000.0):
    """A Basel Face Model of 2017, in millimetres."""
    mean, shape, expression, triangles, landmarks = head()
    names = {"center.nose.tip": 30, "right.eye.corner_outer": 36, "left.eye.corner_outer": 45, "center.chin.tip": 8}
    noted = [{"id": name, "coordinates": list(unit * mean[landmarks[number]])} for name, number in names.items()]
    with h5py.File(folder / "model2017-1_bfm_nomouth.h5", "w") as file:
        for name, offset, directions in (("shape", mean, shape), ("expression", 0 * mean, expression)):
            basis = unit * columns(directions)
            size = np.linalg.norm(basis, axis=0)
            file[f"{name}/model/mean"] = unit * offset.ravel()
            file[f"{name}/model/pcaBasis"], file[f"{name}/model/pcaVariance"] = basis / size, size**2
        file["shape/representer/cells"] = triangles.T.astype(np.int32)
        file["metadata/landmarks/json"] = json.dumps(noted)
    return folder / "model2017-1_bfm_nomouth.h5", unit


def write_flame(folder):
    """A FLAME pickle of protocol 2 with an object of chumpy, which need not be installed."""
    mean, shape, expression, triangles, _ = head()
    # FLAME has three quarters of shape directions.
    directions = np.concatenate([shape[:42], expression])
    chumpy = types.ModuleType("chumpy.ch")
    chumpy.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    wrapped = chumpy.Ch()
    wrapped.__dict__ = {"x": np.moveaxis(directions, 0, -1), "dterms": ("x",)}

    class Pickler(pickle._Pickler):  # Python 2 wrote `copy_reg._reconstructor`
        def reducer_override(self, value):
            if isinstance(value, chumpy.Ch):
                return copyreg._reconstructor, (chumpy.Ch, object, None), value.__dict__
            return NotImplemented

    sys.modules["chumpy"], sys.modules["chumpy.ch"] = types.ModuleType("chumpy"), chumpy
    try:
        with (folder / "generic_model.pkl").open("wb") as file:
            content = {
                "v_template": mean,
                "shapedirs": wrapped,
                "f": triangles.astype(np.uint32),
                "J_regressor": scipy.sparse.csc_matrix(np.eye(5)),
                "bs_style": "lbs",
            }
            Pickler(file, 2).dump(content)
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]
    return folder / "generic_model.pkl", 1.0


def write_ict(folder, unit=100.0):
    """ICT-FaceKit's FaceXModel, in centimetres, with quads and texture coordinates."""
    mean, shape, expression, triangles, landmarks = head()
    faces = "".join("f " + " ".join(f"{corner}/1/1" for corner in row + 1) + "\n" for row in triangles)

    def write(name, points):
        lines = "".join("v {:.7f} {:.7f} {:.7f}\n".format(*point) for point in unit * points)
        (folder / name).write_text("# made\nvt 0 0\n" + lines + faces)

    write("generic_neutral_mesh.obj", mean)
    for number, direction in enumerate(shape):
        write(f"identity{number:03}.obj", mean + direction)
    for number, direction in enumerate(expression):
        write(f"browDown_{number}.obj", mean + direction)
    (folder / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": landmarks.tolist()}))
    return folder, unit


def write_surrey(folder, unit=1000.0, version=3, embedded=None):
    """A model of eos, in cereal's binary archive, with blendshapes in a second file or expressions `embedded`."""
    mean, shape, expression, triangles, _ = head()

    def matrix(values):
        values = np.asarray(values, np.float32).reshape(len(values), -1)
        return struct.pack("<ii", *values.shape) + values.tobytes(order="F")

    def pca(offset, basis):
        size = np.linalg.norm(basis, axis=0) if basis.size else np.zeros(0)
        cells = struct.pack("<Q", len(triangles)) + triangles.astype("<i4").tobytes()
        return matrix(offset) + matrix(basis / size) + matrix(size**2) + cells

    nothing = struct.pack("<iiiiii", 0, 0, 0, 0, 0, 0) + struct.pack("<Q", 0)
    content = struct.pack("<I", version) + pca(unit * mean.ravel(), unit * columns(shape)) + nothing
    named = [struct.pack("<Q", 5) + b"happy" + matrix(unit * part.ravel()) for part in expression[:6]]
    blendshapes = struct.pack("<Q", 6) + b"".join(named)
    kinds = {  # std::optional's byte is 1 without a value; std::variant<PcaModel, Blendshapes> has its index first
        None: b"\1",
        "pca": b"\0" + struct.pack("<i", 0) + pca(unit * 1e-3 * np.ones(mean.size), unit * columns(expression)),
        "blendshapes": b"\0" + struct.pack("<i", 1) + blendshapes,
    }
    content += (kinds[embedded] if version >= 2 else b"") + (b"\1" if version >= 3 else b"") + struct.pack("<Q", 0)
    (folder / "sfm_shape_3448.bin").write_bytes(content)
    if embedded is None:
        (folder / "expression_blendshapes_3448.bin").write_bytes(blendshapes)
    return folder / "sfm_shape_3448.bin", unit


WRITERS = {
    "deep3d": write_deep3d,
    "bfm2017": write_bfm_h5,
    "flame": write_flame,
    "ict": write_ict,
    "surrey": write_surrey,
}
