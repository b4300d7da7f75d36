"""`python -m server_a --config FILE`."""

from protocols.identifiers import Role
from server.process import run_server

if __name__ == "__main__":
    run_server(Role.A)
