"""Faces <-> ArrayRecord shards of serialized tf.train.Example.

Numbers are stored as float lists, the name as UTF-8 bytes, the image as a JPEG. Images are BGR on both sides of this
module; the JPEG is RGB, as usual. TensorFlow is imported on use and only for reading. It uses the CPU alone, because
the accelerator belongs to JAX.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from data_pipelines.storage.manifest import Face
from data_pipelines.storage.tf_example import example_bytes

JPEG_QUALITY = 95
# One record a chunk, so that a record is read without its neighbours. Compression does not shrink a JPEG.
WRITER_OPTIONS = "group_size:1,uncompressed"


def tensorflow_on_cpu() -> Any:
    """Imports TensorFlow with accelerators hidden and start-up logs off. Raises ImportError, with what to install."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # unused here, and it logs two lines
    try:
        import tensorflow as tf
    except ImportError:
        raise ImportError(
            'format array_record needs TensorFlow: pip install "twodal_jax[data]", or prepare the data with'
            " --format=arrays, which needs NumPy alone"
        ) from None
    # RuntimeError: the caller has started TensorFlow already, with its own devices.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tf


def shard_name(shard: int, shards: int) -> str:
    """File name of a shard: `data-00000-of-00008.array_record`."""
    return f"data-{shard:05d}-of-{shards:05d}.array_record"


def encode_face(face: Face) -> bytes:
    """Serialized tf.train.Example of one row."""
    features: dict[str, bytes | np.ndarray] = {}
    for name, value in face.items():
        if name == "image":
            done, encoded = cv2.imencode(".jpg", value, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if not done:
                raise ValueError(f"{face.get('name')}: the crop could not be encoded as JPEG")
            features[name] = encoded.tobytes()
        else:
            features[name] = value.encode("utf-8") if isinstance(value, str) else np.asarray(value, np.float32)
    return example_bytes(features)


@contextlib.contextmanager
def shard_writer(path: os.PathLike | str) -> Iterator[Callable[[bytes], Any]]:
    """Opens an ArrayRecord file; yields the function that writes one record."""
    try:
        from array_record.python import array_record_module
    except ImportError:
        raise ImportError(
            'format array_record needs ArrayRecord: pip install "twodal_jax[data]", or prepare the data with'
            " --format=arrays, which needs NumPy alone"
        ) from None
    writer = array_record_module.ArrayRecordWriter(os.fspath(path), WRITER_OPTIONS)
    try:
        yield writer.write
    finally:
        writer.close()


def open_shards(paths: Sequence[pathlib.Path]) -> Any:
    """Random-access source of the records of all shards (`__len__`, `__getitem__`)."""
    from array_record.python import array_record_data_source

    return array_record_data_source.ArrayRecordDataSource([os.fspath(path) for path in paths])


def parse_batch(tf: Any, serialized: Any, fields: Mapping[str, Mapping[str, Any]], *, parallel: int) -> dict[str, Any]:
    """Parses serialized examples; for use inside a `tf.function`.

    Args:
      tf: the module that `tensorflow_on_cpu` returns.
      serialized: string tensor [b].
      fields: "fields" of the manifest, or those of them to parse.
      parallel: faces decoded in parallel. 1 is 1.5 % faster where batches are parsed in parallel.

    Returns:
      {field: tensor [b, ...]}, images uint8 RGB.
    """
    spec = {
        name: tf.io.FixedLenFeature([], tf.string)
        if field["dtype"] in ("uint8", "string")
        else tf.io.FixedLenFeature(field["shape"], tf.float32)
        for name, field in fields.items()
    }
    if "image" not in fields:
        return tf.io.parse_example(serialized, spec)
    side = fields["image"]["shape"][0]

    def parse_one(record):
        face = tf.io.parse_single_example(record, spec)
        # Decodes PNG as well; `decode_image` detects the format first and is slower.
        face["image"] = tf.ensure_shape(tf.io.decode_jpeg(face["image"], channels=3), [side, side, 3])
        return face

    dtypes = {name: tf.uint8 if name == "image" else spec[name].dtype for name in fields}
    return tf.map_fn(parse_one, serialized, fn_output_signature=dtypes, parallel_iterations=parallel)
