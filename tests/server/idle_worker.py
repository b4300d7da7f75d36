"""A worker that does nothing until its server closes the pipe. `python -m tests.server.idle_worker FD`."""

import socket
import sys

if __name__ == "__main__":
    socket.socket(fileno=int(sys.argv[1])).recv(1)
