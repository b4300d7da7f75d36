"""`python -m security.recorded_server_b --config FILE`: server B, recorded."""

from protocols.identifiers import Role
from security.recorded_parties import run_recorded_server

if __name__ == "__main__":
    run_recorded_server(Role.B)
