"""`python -m dealer --config FILE`: the dealer process."""

import argparse
import sys
from pathlib import Path
from typing import Final

import grpc
import torch

from dealer.service import DealerService
from proto import darkroom_pb2_grpc as rpc
from proto.checks import exit_code
from proto.exit_codes import exit_code_of
from proto.heap import keep_heap
from proto.logs import configure_logs
from proto.party import Settings, serve
from proto.party_check import check_party, refuse_ignored, report
from proto.separation import require_separate_dealer
from protocols.errors import DarkroomError

THREADS: Final = 16  # each server has one session under way, and asks for health


def add_dealer(server: grpc.Server, service: DealerService) -> DealerService:
    """Put the dealer on its listener."""
    rpc.add_DealerServicer_to_server(service, server)
    return service


def main() -> None:
    """Entry point."""
    example = "example: python -m dealer --config sim/dealer/dealer.toml --check"
    parser = argparse.ArgumentParser(prog="python -m dealer", description=__doc__, epilog=example)
    parser.add_argument("--config", type=Path, required=True, help="TOML: listen, ready_file, [identity], [peers]")
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="stop when standard input ends")
    parser.add_argument("--check", action="store_true", help="check files and machine; start nothing")
    parser.add_argument("--json", action="store_true", help="with --check: the result as JSON")
    arguments = parser.parse_args()
    refuse_ignored(parser, arguments)
    configure_logs()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    keep_heap()
    try:
        settings = Settings.load(arguments.config)
        if arguments.check:
            results = check_party(settings, settings.identity)
            print(report(results, as_json=arguments.json))
            sys.exit(exit_code(results))
        require_separate_dealer(settings)
        serve(settings, lambda server, callers: add_dealer(server, DealerService(callers)), threads=THREADS)
    except DarkroomError as error:
        print(f"dealer: {error}", file=sys.stderr)
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
