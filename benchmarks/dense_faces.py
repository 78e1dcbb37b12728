"""Meshes from coefficients and their rasterisation: 1, 32 and 2,000 faces of 53,215 vertices, by face size.

    python -m benchmarks.dense_faces [--quick]

A batch is timed in turn with the same number of single calls. The rasteriser draws the 105,840 triangles of the
40 + 10 BFM in $TWODAL_DATA_DIR; without it, the triangles of the built-in face are split until there are as many.
The rasteriser's bar compares it with Sim3DR, timed in turn where it can be imported (`sim3dr_jobs` describes how).
"""

import time
from collections.abc import Callable

import numpy as np

from benchmarks import models, timing
from benchmarks.timing import in_turn, median_ms, ratio, Row

BATCH = 32


def mesh_rows(model, rounds: int, many: int) -> list[Row]:
    """One face, a batch, and many in batches."""
    import jax

    from twodal_jax.geometry import projection

    held = jax.device_put(model)
    alpha = jax.device_put(models.random_alpha(model, BATCH))
    singles = [alpha[i : i + 1] for i in range(BATCH)]
    mesh = jax.jit(projection.vertices_crop)

    def one_by_one():
        for single in singles:
            mesh(held, single).block_until_ready()

    def batched():
        mesh(held, alpha).block_until_ready()

    one_by_one(), batched()
    times = in_turn({"single": one_by_one, "batch": batched}, rounds)
    start = time.perf_counter()
    for _ in range(0, many, BATCH):
        batched()
    seconds = time.perf_counter() - start
    return [
        Row("mesh of 1 face", median_ms(times["single"]) / BATCH, "ms", note=f"{model.num_vertices:,} vertices"),
        Row(
            f"meshes of {BATCH} faces",
            median_ms(times["batch"]),
            "ms",
            note=f"{median_ms(times['batch']) / BATCH:.2f} ms a face",
        ),
        Row("  batch / one by one", ratio(times["batch"], times["single"]), "x", 0.5),
        Row(f"meshes of {many:,} faces", seconds, "s", note="in batches of 32; memory stays that of one batch"),
    ]


def split_triangles(model, wanted: int):
    """A model with each triangle split in four until there are `wanted`; new vertices lie at the middle of edges."""
    from twodal_jax.geometry import morphable_model

    mean, basis, triangles = (np.asarray(getattr(model, name)) for name in ("mean", "basis", "triangles"))
    while len(triangles) < wanted:
        edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        edges, which = np.unique(edges, axis=0, return_inverse=True)
        middle = which.reshape(-1, 3) + mean.shape[-1]
        mean, basis = (np.concatenate([array, array[..., edges].mean(axis=-1)], axis=-1) for array in (mean, basis))
        a, b, c = triangles.T
        ab, bc, ca = middle.T
        triangles = np.concatenate(
            [np.stack(corners, 1) for corners in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        )
    return morphable_model.create(
        mean, basis, triangles[:wanted], model.landmark_indices, model.alpha_mean, model.alpha_std
    )


# Milliseconds per face of Sim3DR's C++ on one core of another server (AVX2), where this rasteriser took 1.3, 2.4 and
# 5.5. The bar uses them where Sim3DR cannot be imported.
SIM3DR = {105: 2.4, 200: 4.8, 450: 13.1}


def sim3dr_jobs(faces: np.ndarray, triangles: np.ndarray, size: int) -> dict[str, Callable[[], object]]:
    """Sim3DR's two rasterisers by name, as jobs over all faces. The arrays are made in the way Sim3DR makes them.

    Empty where the extension `Sim3DR_Cython` cannot be imported. It is not part of this project: build it in the folder
    Sim3DR of 3DDFA_V2 with its setup.py, and add the folder to PYTHONPATH.
    """
    try:
        import Sim3DR_Cython
    except ImportError:
        return {}
    colours = np.random.default_rng(0).random((faces.shape[1], 3), dtype=np.float32)
    count = len(triangles)

    def far():
        return np.zeros((size, size), np.float32) - 1e8

    def indices_and_weights():
        for face in faces:
            index, weights = np.zeros((size, size), np.int32), np.zeros((size, 3 * size), np.float32)
            Sim3DR_Cython.rasterize_triangles(face, triangles, far(), index, weights, count, size, size)

    def interpolated_colours():
        for face in faces:
            image = np.zeros((size, size, 3), np.uint8)
            Sim3DR_Cython.rasterize(image, face, triangles, colours, far(), count, size, size, 3)

    return {"rasterize_triangles": indices_and_weights, "rasterize": interpolated_colours}


def raster_rows(model, sizes: tuple[int, ...], rounds: int) -> list[Row]:
    """The rasteriser by face size, one at a time and in a batch."""
    from twodal_jax.rendering import rasterizer

    triangles, rows = np.ascontiguousarray(model.triangles, np.int32), []
    for size in sizes:
        faces = np.ascontiguousarray(models.made_faces(model, BATCH, size), np.float32)
        rasterizer.rasterize_batch(faces[:2], triangles, size, size)  # compiles

        def one_by_one(faces=faces, size=size):
            for face in faces:  # results are dropped: held memory makes the next face wait for new pages
                rasterizer.rasterize(face, triangles, size, size)

        sim3dr = sim3dr_jobs(faces, triangles, size)
        times = in_turn(
            {"single": one_by_one, "batch": lambda: rasterizer.rasterize_batch(faces, triangles, size, size), **sim3dr},
            rounds,
        )
        milliseconds = {name: median_ms(seconds) / BATCH for name, seconds in times.items()}
        single, batch = milliseconds["single"], milliseconds["batch"]
        note = f"{len(triangles):,} triangles; {batch:.2f} ms in a batch of {BATCH}"
        rows.append(Row(f"rasteriser, face of {size} pixels", single, "ms", note=note))
        for name in sim3dr:
            bar = 0.6 if name == "rasterize_triangles" else None  # the one with the same outputs as ours
            share, note = ratio(times["single"], times[name]), f"Sim3DR {milliseconds[name]:.2f} ms"
            rows.append(Row(f"  time / Sim3DR's {name}", share, "x", bar, note=note))
        if not sim3dr:
            rows.append(Row("  time / Sim3DR on another server", single / SIM3DR[size], "x", 0.6))
    return rows


def measure(options) -> list[Row]:
    """The rows of meshes, then those of the rasteriser."""
    model = models.full_size()
    rounds = 5 if options.quick else 9
    rows = mesh_rows(model, rounds, 320 if options.quick else 2000)
    if len(model.triangles) < 100_000:
        model = split_triangles(model, 105_840)
    return rows + raster_rows(model, (105, 200, 450), rounds)


if __name__ == "__main__":
    timing.run("Dense faces", __doc__, measure)
