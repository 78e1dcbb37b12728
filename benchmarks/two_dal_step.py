"""One step of 2DAL by part: time, FLOPs, share of the machine's peak, memory; and the whole step against PyTorch.

    python -m benchmarks.two_dal_step [--quick] [--batch=32] [--config=paper] [--dtype=float32]

The parts are compiled separately and timed in turn with the whole step. They need not add up to it exactly: the whole
step shares what several parts compute. FLOPs are those of the traced program: a convolution in Winograd's form counts
with the products it computes, not with those of its definition. The PyTorch step (`torch_step.py`) has no
augmentation. It is timed against JAX's without augmentation, each in its own process, and both must compute the same
losses.
"""

import argparse
import functools
import importlib
import math

from benchmarks import apart, timing
from benchmarks.apart import Apart, AS_IN_TRAINING
from benchmarks.timing import in_turn, median_ms, Row
from benchmarks.train_step import have_torch, memory_note, torch_jobs, torch_rows


def load_config(name: str, batch: int, dtype: str = "float32"):
    """configs/NAME.py with a batch of `batch` annotated and `batch` wild faces."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.batch_annotated = config.batch_wild = batch
    config.regressor.dtype = dtype
    return config


def pieces(spec, state, batch, model) -> dict:
    """{part: (function, arguments)}; every function is pure and runs with its gradients."""
    import jax
    import jax.numpy as jnp
    import optax

    from twodal_jax import forward
    from twodal_jax.training import landmark_offsets, step as train_step
    from twodal_jax.training.batch import network_inputs

    annotated, wild = jax.jit(functools.partial(train_step._augment, model=model, spec=spec, seed=state.seed))(batch)
    inputs = jnp.concatenate([network_inputs(of, spec) for of in (annotated, wild) if of is not None])
    count = len(annotated.image)
    net = state.regressor

    def prepare(batch):
        faces = train_step._augment(batch, model, spec, state.seed)
        return [network_inputs(of, spec) for of in faces if of is not None]

    def regress(params, inputs):
        variables = {"params": params, "batch_stats": net.batch_stats}
        return spec.regressor.apply(variables, inputs, train=True, mutable=["batch_stats"])[0]

    def passes(params, inputs):
        return jnp.sum(regress(params, inputs) ** 2)

    def second_pass(params, points):
        seen = jnp.ones(points.shape[:-1])
        found = forward.forward(functools.partial(regress, params), wild.image, points, seen, model, spec.heatmap)
        return jnp.sum(found.landmarks**2)

    def encoder_and_critic(critic):
        whitened = annotated.whitened[: len(wild.image)]
        held = state.replace(critic=critic)
        found = train_step._critic_gradients(held, annotated, wild, whitened, spec)
        return train_step._update_critic(held, found, spec)

    def losses(whitened):
        terms = train_step._annotated_losses(whitened[:count], annotated.whitened, model, spec)
        if wild is not None:
            result = forward.reconstruct(whitened[count:], model)

            def again(points):
                return result.replace(landmarks=result.landmarks + points.sum())

            marked = functools.partial(
                landmark_offsets.to_dataset_convention,
                offsets=net.params.get(landmark_offsets.NAME),
                model=model,
                jaw=spec.uses_jaw,
            )
            quiet = spec.replace(loss_weights=dict(spec.loss_weights) | {"loss_sc": 0.0})
            nothing = jnp.zeros_like(whitened[count:])
            terms |= train_step._wild_losses(result, wild, again, marked, state.critic.params, nothing, quiet)
        return sum(term.mean() for term in terms.values())

    def update(net, gradients):
        new = train_step._apply_gradients(net, gradients, net.batch_stats, spec.regressor_optimizer)
        return train_step._select(jnp.isfinite(optax.tree.norm(gradients)), new, net)

    found = {
        "input: augmentation, heatmap": (prepare, (batch,)),
        "regressor, first pass": (jax.grad(passes), (net.params, inputs)),
        "losses": (jax.value_and_grad(losses), (jnp.zeros((len(inputs), 62)),)),
        "update of the regressor": (update, (net, net.params)),
    }
    if spec.uses("loss_3d_con", "loss_cyc"):
        found["regressor, second pass"] = (jax.grad(second_pass, argnums=(0, 1)), (net.params, wild.heatmap_landmarks))
    if spec.uses("loss_sc"):
        found["encoder and critic, update"] = (encoder_and_critic, (state.critic,))
    return found


def compiled(function, arguments):
    """(job, counted FLOPs, temporary bytes)."""
    import jax

    lowered = jax.jit(function).lower(*arguments)
    program = lowered.compile()
    program(*arguments)
    flops = float((lowered.cost_analysis() or {}).get("flops", 0.0))
    memory = program.memory_analysis()
    return lambda: jax.block_until_ready(program(*arguments)), flops, memory.temp_size_in_bytes if memory else 0


def prepared(config, stage: int):
    """(spec, state, batch, model) of a stage of a config, on one device."""
    import jax

    from benchmarks import networks
    from twodal_jax.face_models.load import load_morphable_model
    from twodal_jax.training.state import create_train_state

    model = networks.training_model(load_morphable_model("builtin"), config)
    spec = networks.stage_spec(config, stage)
    state = networks.filled(jax.eval_shape(lambda: create_train_state(spec, 0)))
    batch = networks.training_batch(model, config.batch_annotated, config.batch_wild)
    return spec, *map(jax.device_put, (state, batch, model))


def stage_rows(config, stage: int, rounds: int, peak: float) -> list[Row]:
    """The rows of the whole step and of its parts."""
    from twodal_jax.training import step as train_step
    from twodal_jax.training.state import WILD_LOSSES

    spec, state, batch, model = prepared(config, stage)
    whole = functools.partial(train_step.train_step, spec=spec)
    jobs, notes = {}, {}
    for name, (function, arguments) in {
        "whole step": (whole, (state, batch, model)),
        **pieces(spec, state, batch, model),
    }.items():
        jobs[name], flops, memory = compiled(function, arguments)
        notes[name] = flops, memory
    times = in_turn(jobs, rounds)
    rows, total = [], median_ms(times["whole step"])
    title = f"{config.name}, stage {stage + 1}, batch {config.batch_annotated} + {config.batch_wild}"
    for name, (flops, memory) in notes.items():
        milliseconds = median_ms(times[name])
        share = 100 * flops / (milliseconds / 1e3) / peak
        note = f"{100 * milliseconds / total:3.0f} % of it; {flops / 1e9:,.1f} GFLOP, {share:.0f} % of the peak"
        rows.append(Row(f"  {name}", milliseconds, "ms", note=f"{note}; {memory / 2**20:,.0f} MB"))
    images = len(batch["annotated"]["image"]) + (len(batch["wild"]["image"]) if spec.uses(*WILD_LOSSES) else 0)
    rows[0].note = f"{1e3 * images / total:.4g} images/s; " + rows[0].note.partition("; ")[2]
    return [Row(f"{title} ({config.regressor.name}, {config.regressor.dtype})", None), *rows]


def first_stage(name: str, batch: int, dtype: str):
    """(config, spec, state, batch, model) of stage 1, without augmentation."""
    from benchmarks import networks

    config = networks.without_augmentation(load_config(name, batch, dtype))
    config.optimizer.clip_norm = 0.0
    config.critic.coefficient_noise = 0.0  # PyTorch cannot draw JAX's random numbers
    return config, *prepared(config, 0)


def jax_job(name: str, batch: int, dtype: str):
    """A job that takes one step, and the losses of the first step."""
    import jax

    from twodal_jax.training import step as train_step

    _, spec, state, batch, model = first_stage(name, batch, dtype)
    step = jax.jit(functools.partial(train_step.train_step, spec=spec), donate_argnums=0)
    box = list(step(state, batch, model))
    first = {key: float(value) for key, value in box[1].items()}

    def job():
        box[:] = step(box[0], batch, model)
        jax.block_until_ready(box[0])

    return job, first


def torch_job(name: str, batch: int, dtype: str):
    """The same in PyTorch."""
    import jax

    from benchmarks.torch_step import Step

    have_torch()
    config, spec, state, batch, model = first_stage(name, batch, dtype)
    learning_rate = config.optimizer.rate_scale * config.stage1.learning_rate
    step = Step(
        jax.device_get(state.regressor.params),
        jax.device_get(state.critic.params),
        model,
        spec,
        learning_rate,
        config.optimizer.weight_decay,
        dtype == "bfloat16",
    )
    host = jax.device_get(batch)
    return lambda: step(host), {name: float(value) for name, value in step(host).items()}


def against_torch(name: str, batch: int, dtype: str, rounds: int) -> list[Row]:
    """The whole step of stage 1, without augmentation, against the plain PyTorch step."""
    title = f"2DAL step, {dtype}, batch {batch} + {batch}"
    if not have_torch():
        return [Row(f"{title}: time / torch", None, "x", note="PyTorch is not installed")]
    jobs = {"jax": Apart("benchmarks.two_dal_step:jax_job", name, batch, dtype, environment=AS_IN_TRAINING)}
    jobs |= torch_jobs("benchmarks.two_dal_step:torch_job", name, batch, dtype)
    found, wanted = jobs["jax"].told, jobs["torch"].told
    difference = max(abs(found[key] - value) / abs(value) for key, value in wanted.items())
    if not math.isfinite(difference) or difference > (0.1 if dtype == "bfloat16" else 1e-2):
        raise AssertionError(f"JAX and PyTorch do not compute the same losses: {found} and {wanted}")
    times = apart.in_turn(jobs, rounds)
    torch_ms = min(median_ms(found) for name, found in times.items() if name != "jax")
    note = f"torch {torch_ms:,.0f} ms; losses of the first step agree to {difference:.1e}; {memory_note(jobs)}"
    return [Row(f"{title}, no augmentation", median_ms(times["jax"]), "ms", note=note), *torch_rows(times, "jax", 1.10)]


def measure(options) -> list[Row]:
    """The rows of the step of CPU users, then of the paper's step."""
    peak = timing.measured_peak()
    rows = [Row("GEMM peak, float32", peak / 1e9, "GFLOP/s")]
    if options.config:
        config = load_config(options.config, options.batch, options.dtype)
        return rows + [row for stage in (0, 1) for row in stage_rows(config, stage, 5, peak)]
    for stage in (1,) if options.quick else (0, 1):
        rows += stage_rows(load_config("aflw", 16), stage, 9, peak)
    if not options.quick:
        rows += stage_rows(load_config("paper", 8), 0, 5, peak)
    rows += against_torch("paper", 8, "float32", 5)
    if not options.quick:
        rows += against_torch("paper", 32, "float32", 5)
    return [*rows, Row("peak memory of this process", timing.peak_memory_gb(), "GB")]


def more_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that select one configuration, for example on a GPU."""
    parser.add_argument("--config", help="only this config, both stages")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="float32")


if __name__ == "__main__":
    timing.run("One step of 2DAL", __doc__, measure, more_options)
