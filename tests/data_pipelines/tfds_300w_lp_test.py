"""tensorflow_datasets' `the300w_lp` as a source, on a tiny data set with the real builder's features."""

import numpy as np
import pytest

from data_pipelines.sources.base import Skip, SourceError
from data_pipelines.sources.tfds_300w_lp import TfdsFaces
from tests.helpers_face_files import parameters, photo, read_all, tiny_model, true_landmarks
from twodal_jax.geometry import projection

MODEL = tiny_model()
FEATURES = {
    "landmarks_origin": (68, 2),
    "landmarks_2d": (68, 2),
    "landmarks_3d": (68, 2),
    "roi": (4,),
    "illum_params": (10,),
    "color_params": (7,),
    "tex_params": (199,),
    "shape_params": (199,),
    "exp_params": (29,),
    "pose_params": (7,),
}


def example(seed):
    values = parameters(seed)
    content = {name: np.zeros(shape, np.float32) for name, shape in FEATURES.items()}
    return content | {
        "image": photo(seed=seed),
        "landmarks_3d": (true_landmarks(MODEL, values)[:2].T / 450).astype(np.float32),
        "shape_params": np.float32(values["Shape_Para"].ravel()),
        "exp_params": np.float32(values["Exp_Para"].ravel()),
        "pose_params": np.float32(values["Pose_Para"].ravel()),
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    tfds = pytest.importorskip("tensorflow_datasets")

    def examples():
        for seed in range(4):
            content = example(seed)
            if seed == 2:
                content["pose_params"] = np.full(7, np.nan, np.float32)
            yield f"face{seed}", content

    class The300wLp(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = "the300w_lp"

        def _info(self):
            features = {name: tfds.features.Tensor(shape=shape, dtype=np.float32) for name, shape in FEATURES.items()}
            features["image"] = tfds.features.Image(shape=(450, 450, 3), encoding_format="jpeg")
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {"train": examples()}

        def _generate_examples(self):
            return examples()

    folder = tmp_path_factory.mktemp("tfds")
    The300wLp(data_dir=folder).download_and_prepare()
    return folder


def test_faces_have_the_builders_landmarks_with_rebuilt_depth(data_dir):
    source = TfdsFaces(data_dir, model=MODEL)
    assert len(source) == 4
    *faces, skip = sorted(read_all(source), key=lambda face: isinstance(face, Skip))
    assert len(faces) == 3 and skip.reason == "not finite"
    for face in faces:
        assert face["image"].shape == (160, 160, 3)
        landmarks = np.asarray(projection.landmarks_crop(MODEL, face["alpha"]))
        np.testing.assert_allclose(landmarks, face["landmarks68"], atol=0.02)


def test_a_slice_equals_that_part_of_the_whole(data_dir):
    source = TfdsFaces(data_dir, model=MODEL)
    for one, other in zip(read_all(source)[1:3], source.faces(1, 3), strict=True):
        if isinstance(one, dict):
            np.testing.assert_array_equal(one["image"], other["image"])
            assert one["name"] == other["name"]
        else:
            assert one == other


def test_a_missing_model_data_set_or_split_is_named(data_dir, tmp_path):
    with pytest.raises(SourceError, match="--morphable_model"):
        TfdsFaces(data_dir, model=None)
    with pytest.raises(SourceError, match="the300w_lp"):
        TfdsFaces(tmp_path, model=MODEL)
    with pytest.raises(SourceError, match="no split 'valid'"):
        TfdsFaces(data_dir, model=MODEL, split="valid")
