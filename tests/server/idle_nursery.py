"""A nursery of workers that do nothing until their server closes the pipe. `python -m tests.server.idle_nursery FD`.

What it lacks is in its environment, by name.
"""

import errno
import os
import signal
import socket
import threading

from server import nursery, worker

NO_PROCESS = "DARKROOM_TEST_NO_PROCESS"  # every fork fails
SECOND_THREAD = "DARKROOM_TEST_SECOND_THREAD"
NO_SECOND_PIDFD = "DARKROOM_TEST_NO_SECOND_PIDFD"  # the second worker gets none
STOPS_WHEN_IT_HAS_ANSWERED = "DARKROOM_TEST_STOPS_WHEN_IT_HAS_ANSWERED"


def idle(descriptor: int, parent: int) -> None:
    worker.end_with_the_server(parent)
    end = socket.socket(fileno=descriptor)
    while end.recv(1 << 16):
        pass  # whatever it is told


def give_no_process() -> int:
    raise OSError(errno.EAGAIN, "on purpose")


def give_all_pidfds_but_the_second() -> None:
    asked, pidfd_open = [], os.pidfd_open

    def opened(pid: int) -> int:
        asked.append(pid)
        if len(asked) == 2:
            raise OSError(errno.EMFILE, "on purpose")
        return pidfd_open(pid)

    os.pidfd_open = opened


def stop_after_each_answer() -> None:
    send_fds = socket.send_fds

    def sent(*arguments) -> None:
        send_fds(*arguments)
        os.kill(os.getpid(), signal.SIGSTOP)

    socket.send_fds = sent


if __name__ == "__main__":
    worker.run = idle
    if os.environ.get(NO_PROCESS):
        os.fork = give_no_process
    if os.environ.get(NO_SECOND_PIDFD):
        give_all_pidfds_but_the_second()
    if os.environ.get(STOPS_WHEN_IT_HAS_ANSWERED):
        stop_after_each_answer()
    if os.environ.get(SECOND_THREAD):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    nursery.main()
