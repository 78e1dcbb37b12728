"""The vertex distance of stage 2 (VDC) in closed form against that of two meshes, with gradients.

    python -m benchmarks.vertex_distance [--quick]

32 faces. The closed form (`losses.loss_vdc`) computes no mesh, and costs the same for any number of vertices.
"""

import functools

from benchmarks import models, timing
from benchmarks.timing import in_turn, median_ms, ratio, Row

FACES = 32


def programs(model):
    """{name: (job, temporary bytes, value and gradient)}."""
    import jax

    from twodal_jax import losses
    from twodal_jax.geometry import morphable_model, projection

    small = morphable_model.without_mesh(model)
    true, predicted = (models.random_alpha(model, FACES, seed) for seed in (0, 1))

    def dense(predicted, true, model):
        meshes = (projection.vertices_crop(model, alpha) for alpha in (predicted, true))
        return losses.loss_vdc_dense(*meshes).mean()

    def closed(predicted, true, model):
        return losses.loss_vdc(predicted, true, model).mean()

    found = {}
    for name, function, needed in (("closed form", closed, small), ("dense", dense, model)):
        arguments = [jax.device_put(value) for value in (predicted, true, needed)]
        program = jax.jit(jax.value_and_grad(function)).lower(*arguments).compile()
        memory = program.memory_analysis()
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(needed))
        job = functools.partial(_run, program, arguments)
        found[name] = job, (memory.temp_size_in_bytes if memory else 0) + held, program(*arguments)
    return found


def _run(program, arguments) -> None:
    import jax

    jax.block_until_ready(program(*arguments))


def rows_for(model, rounds: int) -> list[Row]:
    """Time, memory and agreement at one number of vertices."""
    import numpy as np

    found = programs(model)
    times = in_turn({name: job for name, (job, _, _) in found.items()}, rounds)
    (value, slope), (value_dense, slope_dense) = (found[name][2] for name in ("closed form", "dense"))
    apart = abs(float(value) / float(value_dense) - 1)
    apart_slope = float(np.linalg.norm(slope - slope_dense) / np.linalg.norm(slope_dense))
    rows = [
        Row(f"{model.num_vertices:,} vertices, {name}", median_ms(times[name]), "ms", note=f"{memory / 2**20:,.1f} MB")
        for name, (_, memory, _) in found.items()
    ]
    note = f"value agrees to {apart:.0e}, gradient to {apart_slope:.0e}"
    return [*rows, Row("  closed form / dense", ratio(times["closed form"], times["dense"]), "x", note=note)]


def measure(options) -> list[Row]:
    """The rows of the paper's mesh, and of larger ones."""
    rounds = 5 if options.quick else 9
    rows = rows_for(models.full_size(), rounds)
    for count in () if options.quick else (2 * models.NUM_VERTICES, 4 * models.NUM_VERTICES):
        rows += rows_for(models.with_points(count), rounds)
    return rows


if __name__ == "__main__":
    timing.run("Vertex distance of stage 2, 32 faces", __doc__, measure)
