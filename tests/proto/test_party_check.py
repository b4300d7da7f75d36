"""A server's and the dealer's own check: files, modes, expiry and the dealer's place, without sockets."""

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from darkroom.provision import VALIDITY, Site, provision
from darkroom.settings_files import dealer_settings, server_settings
from proto import checks, party_check, writable
from proto.checks import CheckResult, exit_code
from proto.party import Settings
from proto.party_check import check_party, report
from proto.separation import SIMULATION
from protocols.errors import PeerUnavailableError
from protocols.identifiers import Role
from server.config import server_config

SOON = datetime.now(UTC) - VALIDITY + timedelta(days=10)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return provision(tmp_path / "site")


@pytest.fixture(autouse=True)
def _nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(name: str, address: str) -> bytes:
        raise PeerUnavailableError(f"{name} at {address} cannot be reached")

    monkeypatch.setattr(checks, "shown_certificate", shown)
    monkeypatch.setattr(checks, "free_memory", lambda: 1 << 40)
    monkeypatch.setattr(checks, "free_disk", lambda _folder: 1 << 40)


def checked(site: Site, *, dealer: str = "203.0.113.9:7600", **more: str) -> dict[str, CheckResult]:
    path = server_settings(site, "server-b", "0.0.0.0:7602", dealer=dealer, leader="203.0.113.1:7601", **more)
    settings = Settings.load(path)
    return {row.name: row for row in check_party(settings, lambda: server_config(settings, Role.B))}


def failed(rows: dict[str, CheckResult]) -> set[str]:
    """Their names. What the check promises: each has its problem and its fix."""
    assert [name for name, row in rows.items() if not row.ok and not (row.problem and row.fix)] == []
    return {name for name, row in rows.items() if not row.ok}


def test_all_is_well_here_and_nobody_is_there(site: Site) -> None:
    rows = checked(site)
    assert failed(rows) == {"the dealer: is who it should be", "server A: is who it should be"}
    assert all(rows[name].unreachable for name in failed(rows))
    assert exit_code(rows.values()) == 5
    assert not [row for row in rows.values() if row.warning]


def test_a_dealer_on_this_machine_is_a_failure_and_in_the_simulation_a_warning(site: Site) -> None:
    name = "settings: dealer and servers apart"
    rows = checked(site, dealer="127.0.0.1:7600")
    assert failed(rows) == {name}
    assert "on this machine" in rows[name].problem
    assert "a machine of its own" in rows[name].fix
    assert exit_code(rows.values()) == 4
    rows = checked(site, dealer="127.0.0.1:7600", deployment=SIMULATION)
    assert rows[name].warning
    assert "protects nothing" in rows[name].problem


def test_files_are_named(site: Site) -> None:
    (site.folder("server-b") / "certs" / "edge.crt").unlink()
    site.private_key("server-b").write_bytes(site.private_key("server-a").read_bytes())
    site.folder("server-b").chmod(0o755)
    rows = checked(site)
    assert failed(rows) == {"pinned certificate of edge", "own certificate and private key"}
    assert "edge.crt" in rows["pinned certificate of edge"].problem
    assert "do not belong together" in rows["own certificate and private key"].problem
    assert rows["folder: closed to others"].warning
    assert "chmod 700" in rows["folder: closed to others"].fix
    assert exit_code(rows.values()) == 4


def test_a_store_that_cannot_be_written(site: Site) -> None:
    store = site.folder("server-b") / "b.store"
    assert checked(site)["store: can be written"].ok
    assert not store.exists()
    (store / "objects").mkdir(mode=0o700, parents=True)
    assert checked(site)["store: can be written"].ok
    assert [*store.iterdir(), *(store / "objects").iterdir()] == [store / "objects"]
    (store / "objects").rmdir()
    store.rmdir()
    store.write_bytes(b"")
    rows = checked(site)
    assert failed(rows) == {"store: can be written"}
    assert f"the store {store} cannot be written" in rows["store: can be written"].problem
    assert str(store) in rows["store: can be written"].fix
    assert exit_code(rows.values()) == 4


def test_a_folder_of_the_store_that_another_user_made(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after one start by root."""
    objects = site.folder("server-b") / "b.store" / "objects"
    objects.mkdir(mode=0o700, parents=True)
    opened = os.open

    def refused(path: Path, *arguments: int) -> int:
        if Path(path).parent == objects:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(writable.os, "open", refused)
    rows = checked(site)
    assert failed(rows) == {"store: can be written"}
    assert f"{objects} cannot be written: Permission denied" in rows["store: can be written"].problem


def test_a_ready_file_that_cannot_be_written(site: Site) -> None:
    site.folder("server-b").joinpath("run").write_bytes(b"")
    path = server_settings(site, "server-b", "0.0.0.0:7602", dealer="203.0.113.9:7600", leader="203.0.113.1:7601")
    path.write_text(path.read_text().replace("b.ready", "run/b.ready"))
    settings = Settings.load(path)
    rows = {row.name: row for row in check_party(settings, lambda: server_config(settings, Role.B))}
    assert failed(rows) == {"folder: can be written"}
    assert "run" in rows["folder: can be written"].fix


def test_an_open_key_and_a_foreign_role(site: Site) -> None:
    site.private_key("server-b").chmod(0o640)
    rows = checked(site)
    assert failed(rows) == {"settings", "own certificate and private key"}
    assert "chmod 600" in rows["settings"].problem


def test_certificates_that_end(tmp_path: Path) -> None:
    rows = checked(provision(tmp_path / "soon", now=SOON))
    for name in ("own certificate and private key", "pinned certificate of edge", "pinned certificate of the dealer"):
        assert rows[name].warning
        assert "expires in 9 days" in rows[name].problem
    rows = checked(provision(tmp_path / "past", now=SOON - timedelta(days=11)))
    assert {"own certificate and private key", "pinned certificate of client", "pinned certificate of server A"} <= failed(rows)
    assert "--renew" in rows["own certificate and private key"].fix
    assert "accept" in rows["pinned certificate of client"].fix


def test_the_dealers_check_calls_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(party_check, "identity_shown", None)
    settings = Settings.load(dealer_settings(site, "0.0.0.0:7600", servers={"server-a": "203.0.113.1:1"}))
    rows = check_party(settings, settings.identity)
    assert exit_code(rows) == 0
    text = report(rows, as_json=False)
    assert text.count("\n") + 1 == len(rows)
    assert set(line[:4] for line in text.splitlines()) == {"ok  "}
