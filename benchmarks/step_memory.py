"""Memory of one compiled training step: plain, with rematerialised blocks, with accumulation.

    python -m benchmarks.step_memory            # ResNet-50, 32 + 32, the paper's losses

Compiles only, for the first device. Prints the program's temporary memory and the compilation time. On a CPU,
rematerialised blocks save memory only with XLA_FLAGS=--xla_disable_hlo_passes=cse_barrier_expander.
"""

import time

import jax
from absl import app, flags

from configs import paper
from twodal_jax.face_models.load import load_morphable_model
from twodal_jax.geometry.morphable_model import without_mesh
from twodal_jax.training import builder, step as train_step
from twodal_jax.training.state import create_train_state

_BATCH = flags.DEFINE_integer("batch", 32, "Annotated images, and as many wild ones.")
_NAME = flags.DEFINE_string("name", "resnet50", "The network.")
_WIDTH = flags.DEFINE_float("width", 1.0, "Its width.")
VARIANTS = {
    "plain": {},
    "remat": {"remat": True},
    "accumulate=4": {"accumulate": 4},
    "both": {"remat": True, "accumulate": 4},
}


def _batch(count: int) -> dict:
    """Shapes of a batch of `count` + `count` faces for one device."""

    def faces(**fields):
        shapes = {"image": ((120, 120, 3), "uint8"), "position": ((2,), "uint32")} | fields
        return {name: jax.ShapeDtypeStruct((1, count, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    return {
        "annotated": faces(alpha=((62,), "float32")),
        "wild": faces(landmarks=((18, 2), "float32"), visible=((18,), "float32")),
    }


def temporary_bytes(batch: int, *, name: str, width: float, remat: bool = False, accumulate: int = 1) -> int:
    """Bytes of intermediate results in the compiled step of stage 1 on one device."""
    config = paper.get_config()
    config.regressor.name, config.regressor.width, config.regressor.remat = name, width, remat
    config.critic.width, config.accumulate = width, accumulate
    spec = builder.build_stages(config)[0].spec
    model = without_mesh(load_morphable_model("builtin"))
    state = jax.eval_shape(lambda: create_train_state(spec, 0))
    lowered = train_step.mapped_train_step(spec, jax.local_devices()[:1]).lower(state, _batch(batch), model)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def main(_):
    """Prints one line per variant."""
    for variant, settings in VARIANTS.items():
        began = time.monotonic()
        size = temporary_bytes(_BATCH.value, name=_NAME.value, width=_WIDTH.value, **settings)
        print(f"{variant:14} {size / 1e9:7.2f} GB  ({time.monotonic() - began:.0f} s to compile)", flush=True)


if __name__ == "__main__":
    app.run(main)
