"""A local Beam worker process, `python -m data_pipelines.preparation.beam_worker PARENT`, that ends with its parent.

Beam's own worker keeps waiting when the process that started it was killed.
"""

import os
import sys
import threading
import time

_POLL_SECONDS = 1.0


def main() -> None:
    """Runs Beam's worker for as long as the process PARENT lives."""
    threading.Thread(target=_exit_with, args=(int(sys.argv[1]),), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])


def _exit_with(parent: int) -> None:
    while _is_alive(parent):
        time.sleep(_POLL_SECONDS)
    os._exit(0)  # 1 would be reported as an error; units are renamed when complete, so no partial unit remains


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


if __name__ == "__main__":
    main()
