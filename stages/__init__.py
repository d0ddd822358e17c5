"""One thin script per stage: read paths and params, call pricer, write outputs."""

import os
import signal
import sys


def _interrupted(*_: object) -> None:
    # nothing is written while libraries are imported; run_stage takes over from here
    print("interrupted before the stage began", file=sys.stderr, flush=True)
    os._exit(1)


signal.signal(signal.SIGINT, _interrupted)

try:
    import pydantic  # noqa: F401  any dependency tells whether this is the project's environment
except ModuleNotFoundError:
    sys.exit(
        f"{sys.executable} lacks pricer's dependencies: "
        "use `make repro`, or `source .venv/bin/activate` first"
    )
