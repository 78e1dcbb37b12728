"""Wild batches of the steps of each stage."""

import contextlib
import itertools
from collections.abc import Callable, Iterator

from twodal_jax.training.builder import Stage
from twodal_jax.training.state import WILD_LOSSES


def uses_wild(stage: Stage) -> bool:
    """Whether the stage has a loss on wild faces."""
    return stage.spec.uses(*WILD_LOSSES)


def wild_batches(stages: list[Stage], wild: Callable[[int], Iterator] | None, start: int) -> Iterator:
    """Yield the wild batch of each step from `start` to the end of the last stage; None in stages without a wild loss.

    Such stages open no stream; the stream of the stage before is stack when they begin.
    """
    for used, following in itertools.groupby(stages, uses_wild):
        spans = [(stage.start, stage.end) for stage in following]
        first, end = max(start, spans[0][0]), spans[-1][1]
        if first >= end:
            continue
        if not used or wild is None:
            yield from itertools.repeat(None, end - first)
            continue
        with contextlib.ExitStack() as stack:
            batches = wild(first)
            if hasattr(batches, "close"):  # plain iterators have none
                stack.callback(batches.close)
            for _ in range(first, end):
                yield next(batches)
