"""`python -m tests.integration.forked_server_a --config FILE`: server A with forked workers."""

from protocols.identifiers import Role
from tests.integration.forked_workers import run_forked_server

if __name__ == "__main__":
    run_forked_server(Role.A)
