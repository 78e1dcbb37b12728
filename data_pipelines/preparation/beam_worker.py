"""A local worker process of Beam, `python -m data_pipelines.preparation.beam_worker ASKER`, that ends with its asker.

Beam's own program goes on waiting when the process that started it was killed.
"""

from __future__ import annotations

import os
import sys
import threading
import time

_LOOK_SECONDS = 1.0


def main() -> None:
    """Runs Beam's worker for as long as the process ASKER lives."""
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])


def _end_with(asker: int) -> None:
    while _is_alive(asker):
        time.sleep(_LOOK_SECONDS)
    os._exit(0)  # not 1, which would be told; units are renamed when whole, so nothing half-done stays


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
