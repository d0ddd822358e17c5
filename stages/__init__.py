"""One thin script per stage: read paths and params, call pricer, write outputs."""

import sys

try:
    import pydantic  # noqa: F401  any dependency tells whether this is the project's environment
except ModuleNotFoundError:
    sys.exit(
        f"{sys.executable} lacks pricer's dependencies: "
        "use `make repro`, or `source .venv/bin/activate` first"
    )
