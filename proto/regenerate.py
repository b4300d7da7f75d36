"""Regenerate the committed gRPC stubs: `python -m proto.regenerate`; with --check, fail where they are stale."""

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
STUBS = ("darkroom_pb2.py", "darkroom_pb2.pyi", "darkroom_pb2_grpc.py")
REDACTION = """
# Added by proto/regenerate.py.
from proto.redaction import redact
redact(DESCRIPTOR, globals())
"""


def generate(target: Path) -> None:
    """Write the stubs into `target`/proto."""
    arguments = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{HERE.parent}", *arguments, "proto/darkroom.proto"]) != 0:
        raise SystemExit("protoc failed")
    with (target / "proto" / STUBS[0]).open("a") as stub:
        stub.write(REDACTION)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed stubs, write nothing")
    check = parser.parse_args().check
    if not check:
        generate(HERE.parent)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = [name for name in STUBS if (Path(folder) / "proto" / name).read_text() != (HERE / name).read_text()]
    if stale:
        sys.exit(f"stale stubs: {', '.join(stale)}; run `python -m proto.regenerate` and commit")


if __name__ == "__main__":
    main()
