"""The command that tests start in place of a fork: see tests/fork_server.py. Imports little."""

import json
import os
import resource
import signal
import socket
import sys

PROGRAM = "import sys; sys.argv[0] = {!r}; from {} import main; sys.exit(main())"
PROGRAMS = {
    "pricer": ["-c", PROGRAM.format("pricer", "pricer.commands.main")],
    "dvc": ["-c", PROGRAM.format("dvc", "dvc.cli")],
    "python": [],
}


def ask(address: str, python: str) -> None:
    """Hand what this process was given to a fork of the server's; end as the fork ends."""
    arguments = PROGRAMS[os.path.basename(sys.argv[0])] + sys.argv[1:]
    how = next((one for one in arguments if one != "-u"), "-")
    flags = how.startswith("-") and how not in ("-c", "-m")
    if flags or "REAL_PYTHON" in os.environ or sys.platform != "linux":
        os.execv(python, [python, *arguments])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        # before there is anything to pass them to
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: server.send(bytes([number])))
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        command = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "python")
        asked = [arguments, os.getcwd(), dict(os.environ), limit, command]
        data = json.dumps(asked).encode()
        socket.send_fds(server, [len(data).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(data)
        code = int.from_bytes(server.recv(4), "big", signed=True)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
