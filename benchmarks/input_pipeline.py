"""The input pipeline: images/s from files, shards and memory, and the time a step waits for them.

    python -m benchmarks.input_pipeline [--quick] [--threads=N]

Files: JPEG crops, read and decoded one by one, as the preparation of a set does. Shards: ArrayRecord through the
decoder of tf.data, shuffled, in batches. Memory: memory-mapped arrays, shuffled, in batches. All yield uint8 crops of
160 pixels (120 and a margin) with their landmarks, the input of a step: channel order, heatmap and augmentation are
made on the device.
"""

import argparse
import concurrent.futures
import itertools
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import timing
from benchmarks.timing import Row
from data_pipelines.loading.loader import reading_threads
from twodal_jax.training import step as train_step

SIZE, BATCH = 160, 32
MADE_AHEAD = 16  # more batches than any reader prepares in advance; the readers refill while these are taken
# Demand of one fast GPU: 64 images in a step of 4 to 7 ms (docs/scaling.md).
GPU_NEEDS = (9_000, 16_000)


class MadeFaces:
    """A source of smooth pictures with fine noise, whose JPEGs are about as large as those of faces."""

    kind, margin, description = "wild", (SIZE - 120) // 2, "made for benchmarks"

    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def fingerprint(self):
        return f"made {self.count}"

    def faces(self, start, stop):
        import cv2

        for index in range(start, stop):
            rng = np.random.default_rng(index)
            image = cv2.resize(rng.uniform(0, 255, (9, 9, 3)).astype(np.float32), (SIZE, SIZE), None, 0, 0, 2)
            image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
            points = rng.uniform(20, 100, (18 + 3, 2)).astype(np.float32)
            yield {
                "image": image,
                "name": f"{index:05d}",
                "yaw_deg": np.float32(0),
                "landmarks": points[:18],
                "visible": np.ones(18, np.float32),
                "jaw": points[18:],
                "jaw_visible": np.ones(3, np.float32),
            }


def make_sets(folder: pathlib.Path, count: int) -> tuple[list[bytes], dict]:
    """The JPEGs, also written as files, and the prepared sets {"arrays", "array_record"}."""
    import cv2

    from data_pipelines.preparation import prepare
    from data_pipelines.storage import prepared_dataset as prepared
    from data_pipelines.storage.array_record import JPEG_QUALITY

    source = MadeFaces(count)
    (folder / "files").mkdir()
    encoded = []
    for face in source.faces(0, count):
        encoded.append(cv2.imencode(".jpg", face["image"], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
        (folder / "files" / f"{face['name']}.jpg").write_bytes(encoded[-1])
    sets = {}
    for kind in ("arrays", "array_record"):
        prepare.prepare(source, folder / kind, format=kind, shards=2)
        sets[kind] = prepared.open_prepared(folder / kind)
    return encoded, sets


def wild_batches(prepared, config):
    """Endless batches of the wild faces that a config trains on."""
    from data_pipelines.loading import loader
    from data_pipelines.training_data import fields_trained_on

    fields = fields_trained_on(config)["wild"]
    return loader.batches(prepared, batch_size=config.batch_wild, seed=0, fields=fields, as_decoded=True)


def rate_of(batches, seconds: float) -> float:
    """Images/s of an iterator of batches of BATCH; batches that it had prepared in advance do not count."""
    for _ in range(MADE_AHEAD):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - start)


def _decoded(decode, items, threads: int):
    """Endless batches of decoded images, from threads that only decode."""
    batches = itertools.cycle([items[i : i + BATCH] for i in range(0, len(items) - BATCH + 1, BATCH)])
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending = [pool.submit(decode, next(batches)) for _ in range(2 * threads + 2)]
        while True:
            pending.append(pool.submit(decode, next(batches)))
            yield pending.pop(0).result()


def bare_decoder(copied: bool = True):
    """A list of JPEGs -> uint8 images, by the decoder that reads shards, without anything else.

    copied: into a NumPy array, as `.numpy()` does; else a view of TensorFlow's memory.
    """
    from data_pipelines.storage.array_record import tensorflow_on_cpu

    tf = tensorflow_on_cpu()

    def one(jpeg):
        return tf.ensure_shape(tf.io.decode_jpeg(jpeg, channels=3), [SIZE, SIZE, 3])

    traced = tf.function(
        lambda jpegs: tf.map_fn(one, jpegs, fn_output_signature=tf.uint8),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    as_array = (lambda tensor: tensor.numpy()) if copied else (lambda tensor: np.asarray(memoryview(tensor)))
    return lambda jpegs: as_array(traced(tf.constant(jpegs)))


def reading_rows(encoded, sets, folder, threads: int, seconds: float, rounds: int) -> list[Row]:
    """Images/s of each way in turn, and of the shards against the bare decoder; medians of the rounds."""
    from data_pipelines.loading import loader
    from twodal_jax.io.images import read_image

    files = sorted((folder / "files").iterdir())
    fields = ("image", "landmarks", "visible")

    def shuffled(kind):
        return loader.batches(sets[kind], batch_size=BATCH, seed=0, fields=fields, num_threads=threads, as_decoded=True)

    ways = {
        "memory (arrays)": shuffled("arrays"),
        "shards (ArrayRecord, tf.data's decoder)": shuffled("array_record"),
        "bare decoding of the same JPEGs": _decoded(bare_decoder(), encoded, threads),
        "files, one by one": _decoded(lambda part: [read_image(path) for path in part], files, threads),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, batches in ways.items():
            rates[name].append(rate_of(batches, seconds))
    rows = [Row(name, float(np.median(found)), "images/s") for name, found in rates.items()]
    shards, bare = list(ways.values())[1:3]
    views = _decoded(bare_decoder(copied=False), encoded, threads)
    share, of_views = (_ratio(shards, other, 4 * rounds, seconds / 2) for other in (bare, views))
    for batches in (*ways.values(), views):
        batches.close()
    return [
        *rows,
        Row("  shards / bare decoding", share, "x", 0.9, True, f"{threads} threads"),
        Row("  shards / bare decoding that is not copied", of_views, "x", note="into no array of NumPy's own"),
    ]


def _ratio(batches, reference, rounds: int, seconds: float) -> float:
    """Median of a rate over that of the reference, which each round measures before and after it."""
    rates, references = [], [rate_of(reference, seconds)]
    for _ in range(rounds):
        rates.append(rate_of(batches, seconds))
        references.append(rate_of(reference, seconds))
    return timing.ratio(rates, [(before + after) / 2 for before, after in itertools.pairwise(references)])


def waiting_rows(sets, steps: int) -> list[Row]:
    """Share of a step of configs/aflw.py, stage 2, that the loop waits for the next batch."""
    import jax

    from benchmarks.two_dal_step import load_config, prepared
    from twodal_jax.distributed import sharding
    from twodal_jax.training import builder

    config = load_config("aflw", 16)
    _, state, batch, model = prepared(config, 1)
    step = train_step.mapped_train_step(builder.build_stages(config)[1].spec)
    annotated = {name: np.asarray(value) for name, value in batch["annotated"].items()}
    rows = []
    for kind in sets:
        wild = wild_batches(sets[kind], config)
        own = _resized(annotated)
        batches = sharding.prefetched(sharding.paired(itertools.repeat(own), wild))
        waited, start = 0.0, 0.0
        for number in range(steps + 3):
            if number == 3:
                waited, start = 0.0, time.perf_counter()
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            state, _ = step(state, batch, model)
            jax.block_until_ready(state)
        share = 100 * waited / (time.perf_counter() - start)
        batches.close()
        rows.append(
            Row(f"waiting for input, {kind}", share, "% of a step", 5, note="configs/aflw.py, stage 2, 16 + 16")
        )
    return rows


def _resized(annotated: dict) -> dict:
    margin = (SIZE - annotated["image"].shape[1]) // 2
    pad = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return annotated | {"image": np.pad(annotated["image"], pad, mode="edge")}


def measure(options) -> list[Row]:
    """The rates, the waiting time, and the demand of a fast GPU."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        encoded, sets = make_sets(folder, 512 if options.quick else 2048)
        rounds = 3 if options.quick else 5
        rows = reading_rows(encoded, sets, folder, options.threads, 1.0, rounds)
        rows += waiting_rows(sets, 10 if options.quick else 30)
    rows.append(Row("a fast GPU needs, at least", GPU_NEEDS[0], "images/s", note="an estimate, see docs/scaling.md"))
    rows.append(Row("a fast GPU needs, at most", GPU_NEEDS[1], "images/s"))
    return rows


def more_options(parser: argparse.ArgumentParser) -> None:
    """Adds --threads, the number of reading threads; default: as in training."""
    parser.add_argument("--threads", type=int, default=reading_threads())


if __name__ == "__main__":
    timing.run("Input pipeline", __doc__, measure, more_options)
