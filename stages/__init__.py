"""One thin script per stage: read paths and params, call pricer, write outputs."""

import importlib.util
import os
import signal
import sys


def _interrupted(*_: object) -> None:
    # nothing is written while libraries are imported; run_stage takes over from here
    print("interrupted before the stage began", file=sys.stderr, flush=True)
    os._exit(1)


signal.signal(signal.SIGINT, _interrupted)

# other environments may have some of the dependencies; hardly one has these
if not all(map(importlib.util.find_spec, ("dvclive", "peft", "pydantic"))):
    sys.exit(
        f"{sys.executable} lacks pricer's dependencies: "
        "use `make repro`, or `source .venv/bin/activate` first"
    )

from pricer.errors import PricerError  # noqa: E402
from pricer.stage import load_environment  # noqa: E402

try:
    load_environment()
except PricerError as error:
    sys.exit(str(error))
