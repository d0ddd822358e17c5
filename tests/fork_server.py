"""Commands of the tests as forks of one interpreter that has imported torch and its kin.

Most of the time of a process of this project goes into imports. `fork_server` starts an interpreter
that loads the libraries once, and gives a folder with `python`, `pricer` and `dvc`, to be put first
on PATH. What is run through these is a process of its own all the same: a fork with the arguments,
the folder, the environment, the streams and the limit on file sizes of the command, which imports
the project's own code anew. Signals go to the fork, its end is the command's end, and who kills the
command kills the fork.

What it is not: a test of how a process starts. With REAL_PYTHON=1 in its environment a command gets
an interpreter of its own; and so it does where a variable differs that libraries read as they are
imported (FROZEN), or where python has a flag other than -u.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FROZEN = ("HF_", "PYTHON", "OMP_", "TOKENIZERS_", "TRANSFORMERS_", "LC_", "LANG", "TZ", "MPL")
READ_LATER = ("HF_TOKEN", "PYTHONPATH")
LIBRARIES = """
    accelerate.tracking bitsandbytes datasets dvc.cli dvc.commands.experiments.run dvc.repo dvclive
    httpx2 jinja2 matplotlib.backends.backend_agg matplotlib.figure pandas peft pyarrow.parquet
    pydantic rich.table ruamel.yaml sklearn.ensemble sklearn.feature_extraction.text
    sklearn.neighbors sklearn.pipeline tabulate torch transformers.models.llama.modeling_llama
    transformers.trainer trl.trainer.sft_trainer typer
""".split()
COMMAND = """#!{python} -IS
import sys
sys.path.insert(0, {folder!r})
from fork_client import ask
ask({address!r}, {python!r})
"""


@contextmanager
def fork_server(environment: dict[str, str], python: str = sys.executable) -> Iterator[Path]:
    """Start a server with `environment`; give the folder of the commands, to be put on PATH."""
    with tempfile.TemporaryDirectory() as name:
        folder, address = Path(name) / "bin", str(Path(name) / "socket")
        folder.mkdir()
        text = COMMAND.format(python=python, folder=str(Path(__file__).parent), address=address)
        for command in ("python", "pricer", "dvc"):
            (folder / command).write_text(text)
            (folder / command).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listening:
            # the first one who asks waits for the imports
            listening.bind(address)
            listening.listen(64)
            server = subprocess.Popen(
                [python, __file__, str(listening.fileno())],
                pass_fds=[listening.fileno()],
                env=environment,
                stdin=subprocess.PIPE,  # closed, it ends the server
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        with server:
            yield folder
            assert server.stdin
            server.stdin.close()


def serve(listening: socket.socket) -> list[str] | None:
    """Fork for every command until stdin ends; return a command's arguments in its fork."""
    loaded = False
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those who have watched
                pass
        if listening not in ready:
            return None
        if not loaded:
            for library in LIBRARIES:
                importlib.import_module(library)
            gc.collect()
            gc.freeze()  # a collection in a fork would copy all that memory
            loaded = True
        client, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            return _watched(client)
        client.close()


def _watched(client: socket.socket) -> list[str]:
    """Fork once more, and return in that fork alone: this process watches over it."""
    os.setsid()
    size, streams, _, _ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as sent:
        asked = sent.read(int.from_bytes(size, "big"))
    if not asked or len(asked) < int.from_bytes(size, "big"):  # who asked was killed meanwhile
        os._exit(0)
    arguments, folder, environment, limit, command = json.loads(asked)
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        _watch(child, client)
    client.close()
    os.setpgid(0, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loaded = _frozen(dict(os.environ))
    os.environ.clear()
    os.environ.update(environment)
    if _frozen(environment) != loaded:
        os.execv(sys.executable, [sys.executable, *arguments])
    sys.executable = command  # what it starts is forked too
    return list(arguments)


def _watch(child: int, client: socket.socket) -> None:
    """Pass signals on to the fork, kill it with its client, tell how it ended; do not return."""
    with suppress(OSError):
        os.setpgid(child, child)  # as the fork itself does: whoever is first
    ended = os.pidfd_open(child)
    for stream in range(3):
        os.close(stream)
    number = b"any"
    while number and ended not in select.select([client.fileno(), ended], [], [])[0]:
        number = client.recv(1)
        with suppress(ProcessLookupError):
            os.killpg(child, number[0] if number else signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):
        client.sendall(code.to_bytes(4, "big", signed=True))
    os._exit(0)


def _frozen(environment: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(FROZEN) and name not in READ_LATER
    }


def run(arguments: list[str], library: list[str]) -> None:
    """Do what `python ARGUMENTS` does; `library` is where its installed packages are."""
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        arguments = arguments[1:]
    how, *rest = arguments
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = str(Path(how).resolve().parent) if how not in ("-c", "-m") else os.getcwd()
    sys.path[:] = [first, *added, *library]
    importlib.invalidate_caches()
    if how == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv[:] = arguments
        runpy.run_path(how, run_name="__main__")


def end(error: BaseException | None) -> None:
    """End as the interpreter does after `error`, but leave the memory to the system."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    elif error:
        traceback.print_exception(error)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


if __name__ == "__main__":
    path_of_the_server = [os.path.dirname(os.path.abspath(__file__))]
    path_of_the_server += os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = [path for path in sys.path if path not in path_of_the_server]
    sys.path[:] = installed
    command = serve(socket.socket(fileno=int(sys.argv[1])))
    if command:
        failed = None
        try:
            run(command, installed)
        except BaseException as error:
            failed = error
        end(failed)
