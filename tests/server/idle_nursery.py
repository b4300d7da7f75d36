"""A nursery of workers that do nothing until their server closes the pipe. `python -m tests.server.idle_nursery FD`."""

import os
import socket

from server import nursery, worker


def idle(descriptor: int) -> None:
    worker.end_with_the_server()
    socket.socket(fileno=descriptor).recv(1)


def give_no_process() -> int:
    raise OSError("on purpose")


if __name__ == "__main__":
    worker.run = idle
    if os.environ.get("DARKROOM_TEST_NO_PROCESS"):
        os.fork = give_no_process
    nursery.main()
