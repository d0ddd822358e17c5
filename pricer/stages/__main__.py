"""Start a stage: `python -m pricer.stages NAME PATH...`, as `dvc.yaml` does."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))


def main() -> None:
    """Prepare the process, import the stage, run it."""
    signal.signal(signal.SIGINT, _interrupted)
    # a process that is lost is told in one line, not in torch's stack traces
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # other environments may have some of the dependencies; hardly one has these
    if not all(map(importlib.util.find_spec, ("dvclive", "peft", "pydantic"))):
        sys.exit(
            f"{sys.executable} lacks pricer's dependencies: "
            "`source .venv/bin/activate` first, or whatever environment has them"
        )
    from pricer.errors import PricerError
    from pricer.stage import load_environment, run_stage

    try:
        load_environment()  # before a library reads it
    except PricerError as error:
        sys.exit(str(error))
    name, *paths = sys.argv[1:] or [""]
    if name not in NAMES:
        sys.exit(f"no stage {name!r}: python -m pricer.stages NAME PATH..., of {', '.join(NAMES)}")
    run_stage(name.replace("_", "@"), importlib.import_module(f"pricer.stages.{name}").main, paths)


def _interrupted(*_: object) -> None:
    # nothing is written while libraries are imported; run_stage takes over from here
    print("interrupted before the stage began", file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
