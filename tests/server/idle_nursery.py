"""A nursery of workers that do nothing until their server closes the pipe. `python -m tests.server.idle_nursery FD`."""

import os
import socket
import threading

from server import nursery, worker


def idle(descriptor: int, parent: int) -> None:
    worker.end_with_the_server(parent)
    socket.socket(fileno=descriptor).recv(1)


def give_no_process() -> int:
    raise OSError("on purpose")


if __name__ == "__main__":
    worker.run = idle
    if os.environ.get("DARKROOM_TEST_NO_PROCESS"):
        os.fork = give_no_process
    if os.environ.get("DARKROOM_TEST_SECOND_THREAD"):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    nursery.main()
