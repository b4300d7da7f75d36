"""`darkroom` for shells of a test, without its start: each command is a process of its own, forked from one that has imported it.

`python forked_darkroom.py SOCKET COMMAND...` (standard library alone, so quick) hands arguments, folder, environment and
standard streams to the process that `serving` keeps, and ends with the exit code of the command. What a command does is
`darkroom.__main__`, in a process that did nothing before; only imports are shared. How the installed command starts, and ends
by a signal, is tested where it runs until it is stopped.
"""

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
STREAMS = 3


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """A folder for PATH, in which `darkroom` is this, while the block runs."""
    folder.mkdir()
    address = folder / "socket"
    shim = folder / "darkroom"
    words = [sys.executable, "-I", "-S", __file__, str(address)]
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        environment = {**os.environ, "GRPC_VERBOSITY": "NONE", "PYTHONPATH": str(ROOT)}  # as `darkroom.__main__` sets it
        command = [sys.executable, "-m", "tests.integration.forked_darkroom", str(listener.fileno())]
        nursery = subprocess.Popen(command, pass_fds=[listener.fileno()], env=environment, cwd=ROOT, stdin=subprocess.PIPE)
    try:
        yield folder
    finally:
        nursery.communicate()


def ask(address: str, arguments: list[str]) -> int:
    """Run by the shell's child: have the command run; its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        asked = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(connection, [len(asked).to_bytes(4, "big")], range(STREAMS))
        connection.sendall(asked)
        answer = connection.recv(1)
    return answer[0] if answer else 255  # it died


def nurse(listener: socket.socket) -> None:
    """Import everything, then fork for each command that comes."""
    import importlib
    import pkgutil

    import client
    import darkroom

    for package in (client, darkroom):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:  # it ends with the tests, however they end
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.sendall(bytes([_command(connection)]))
            os._exit(0)
        connection.close()


def _command(connection: socket.socket) -> int:
    """Run by the forked process."""
    length, streams, _, _ = socket.recv_fds(connection, 4, STREAMS)
    asked = b""
    while len(asked) < int.from_bytes(length, "big"):
        asked += connection.recv(1 << 16)
    arguments, folder, environment = json.loads(asked)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["darkroom", *arguments]
    from darkroom.__main__ import main

    try:
        main()
    except SystemExit as stop:
        sys.stdout.flush()
        sys.stderr.flush()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].isdecimal():
        nurse(socket.socket(fileno=int(sys.argv[1])))
        sys.exit()
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
