"""The server process: `python -m server_a` and `python -m server_b` call this with their role."""

import argparse
import sys
from pathlib import Path

import grpc
import torch

from proto import darkroom_pb2_grpc as rpc
from proto.checks import exit_code
from proto.exit_codes import exit_code_of
from proto.heap import keep_heap
from proto.logs import configure_logs
from proto.party import Settings, serve
from proto.party_check import check_party, refuse_ignored, report
from proto.separation import require_separate_dealer
from protocols.errors import DarkroomError
from protocols.identifiers import Role
from server.config import server_config
from server.crypten_runtime import require_crypten
from server.limits import call_threads
from server.service import ServerService
from server.worker_pool import WorkerPool


def run_server(role: Role) -> None:
    """Serve until stopped. Where it cannot start: a sentence on standard error, and its exit code (`proto.exit_codes`)."""
    name = f"server_{role.value.lower()}"
    example = f"example: python -m {name} --config sim/server-{role.value.lower()}/server.toml --check"
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=f"Darkroom server {role.value}.", epilog=example)
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="TOML: role, listen, store, [identity], [peers], [dealer], [leader]",
    )
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="stop when standard input ends")
    parser.add_argument("--check", action="store_true", help="check files, machine and peers; start nothing")
    parser.add_argument("--json", action="store_true", help="with --check: the result as JSON")
    arguments = parser.parse_args()
    refuse_ignored(parser, arguments)
    configure_logs()
    torch.set_num_threads(1)
    keep_heap()
    try:
        require_crypten()
        settings = Settings.load(arguments.config)
        if arguments.check:
            results = check_party(settings, lambda: server_config(settings, role))
            print(report(results, as_json=arguments.json))
            sys.exit(exit_code(results))
        require_separate_dealer(settings)
        config = server_config(settings, role)
        workers = WorkerPool()
        try:
            threads = call_threads(config.waiting)
            serve(settings, lambda server, callers: add_server(server, ServerService(config, callers, workers)), threads=threads)
        finally:
            workers.close()
    except DarkroomError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(exit_code_of(error))


def add_server(server: grpc.Server, service: ServerService) -> ServerService:
    """Put both services of a server on its listener."""
    rpc.add_ServerServicer_to_server(service, server)
    rpc.add_PeerLinkServicer_to_server(service, server)
    return service
