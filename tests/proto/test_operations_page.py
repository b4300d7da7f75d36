"""docs/operations.md names every metric and every event of the log, and none that does not exist."""

import re
from pathlib import Path

from darkroom.pacs.metrics import PacsMetrics
from darkroom.pacs.spool import Spool
from dealer.metrics import DealerMetrics
from protocols.identifiers import Role
from server.metrics import ServerMetrics
from server.share_store import ShareStore
from server.turns import TurnQueue

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
EVENT = re.compile(r'\b(?:log\.(?:debug|info|warning|error)|tell)\(\s*"([^"]+)"')
SUFFIX = {"counter": "_total", "info": "_info"}


def test_metrics(tmp_path):
    server = ServerMetrics(Role.A, TurnQueue("server A", 8), ShareStore(tmp_path / "store"))
    programs = (DealerMetrics(), server, PacsMetrics(Spool(tmp_path / "spool", 1)))
    families = [family for each in programs for family in each.registry.collect() if family.name.startswith("darkroom_")]
    ours = {family.name + SUFFIX.get(family.type, "") for family in families}
    assert len(ours) > 20
    section = PAGE[PAGE.index("## Metrics") : PAGE.index("Worth an alert")]
    assert set(re.findall(r"`(darkroom_\w+)", section)) == ours


def test_events():
    sources = [path for folder in ("proto", "server", "dealer") for path in (ROOT / folder).glob("*.py")]
    ours = {event for path in sources for event in EVENT.findall(path.read_text())}
    assert len(ours) > 10
    rows = [line.split("|")[1] for line in PAGE[PAGE.index("## Log") :].splitlines() if line.startswith("| `")]
    assert {event for row in rows for event in re.findall(r"`([^`]+)`", row)} == ours
