"""What all commands do with a terminal: messages, progress, errors that a user can fix. Imports nothing heavy."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

from twodal_jax.runtime import xla_flags

console = rich.console.Console(stderr=True)


class UsageError(ValueError):
    """The options do not fit together; the message names what to give."""


@contextlib.contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar, or without a terminal a line every 10 %; yields `advance(count)`."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        printed = 0

        def advance(count: int) -> None:
            nonlocal printed
            bar.advance(task, count)
            done = int(bar.tasks[0].completed)
            if total and not console.is_terminal and 10 * done // total > 10 * printed // total:
                console.print(f"{description}: {done}/{total}", markup=False, highlight=False)
                printed = done

        yield advance


def run(
    main: Callable[[], None],
    *user_errors: type[Exception],
    interrupted: Callable[[], str] = lambda: "Interrupted. Files written before are complete.",
) -> None:
    """Runs a command. Errors that a user can fix, and `user_errors`, are one message and exit status 1.

    After Ctrl-C the message is `interrupted()` and the exit status 130.
    """
    xla_flags.keep_compiled()
    try:
        main()
    except Exception as error:
        if not isinstance(error, (*_user_errors(), *user_errors)):
            raise
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print(interrupted(), markup=False, highlight=False, soft_wrap=True)
        sys.exit(130)


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors of all commands. Imported after the error only: evaluation needs modules that most commands do not."""
    from data_pipelines.sources.base import SourceError
    from twodal_jax.checkpointing.restore import CheckpointError
    from twodal_jax.evaluation.predictions import PredictionsError
    from twodal_jax.face_models.load import AssetError

    return UsageError, PredictionsError, CheckpointError, AssetError, SourceError, OSError
