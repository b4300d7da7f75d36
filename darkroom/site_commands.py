"""What `provision`, `accept` and `fingerprints` do."""

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from darkroom.acceptance import Fingerprint, accept, fingerprints
from darkroom.output import err, result_line, result_table, write_json
from darkroom.provision import ROLES, Site, provision
from darkroom.settings_files import Addresses, hospital_settings, role_settings
from darkroom.site_addresses import FILE, LISTENERS, SiteAddresses


def run_provision(
    root: Path,
    *,
    role: str | None,
    advertised: Mapping[str, tuple[str, ...]],
    bound: Mapping[str, str | None],
    routes: Mapping[str, str],
    renew: bool,
    json_path: str | None,
) -> None:
    """Make one role's folder, or every role's, and print DIR. Raises DarkroomError.

    Addresses that are not given are those of the last time; the first time, names for the operators' own host tables.
    """
    site, chosen = Site(root.absolute()), tuple(ROLES) if role is None else (role,)
    addresses = _last(site, chosen).changed(advertised=advertised, bound=bound, routes=routes)
    addresses.require_separate_dealer()
    provision(root, roles=chosen, hosts={party: addresses.hosts(party) for party in LISTENERS}, renew=renew)
    for each in chosen:
        role_settings(site, each, addresses)
    if role is None:
        hospital_settings(site, Addresses(*(addresses.dialled("hospital", party) for party in ("server-a", "server-b"))))
    rows = fingerprints(site.root)
    result_line(str(site.root), json_path)
    console = err()
    console.print(_table([row for row in rows if row.own]))
    missing = sorted({row.name for row in rows if row.fingerprint is None})
    console.print("Compare each by telephone with whoever takes the certificate over.", markup=False)
    if missing:
        console.print(f"Still to take with `darkroom accept`: {', '.join(missing)}", markup=False)
    write_json({"dir": str(site.root), "fingerprints": [_describe(row) for row in rows], "missing": missing}, json_path)


def run_accept(root: Path, file: Path, stated: str, *, replace: bool, json_path: str | None) -> None:
    """Pin a certificate and print where. Raises DarkroomError."""
    rows = accept(root, file, stated, replace=replace)
    for row in rows:
        result_line(str(row.path), json_path)
    write_json({"accepted": [_describe(row) for row in rows]}, json_path)


def run_fingerprints(root: Path, json_path: str | None) -> None:
    """Show own and pinned fingerprints. Raises DarkroomError."""
    rows = fingerprints(root)
    result_table(_table(rows), json_path)
    write_json({"fingerprints": [_describe(row) for row in rows]}, json_path)


def _last(site: Site, roles: tuple[str, ...]) -> SiteAddresses:
    """The addresses that the first of these roles' folders were made for."""
    files = [(site.root / "hospital" if role == "hospital" else site.folder(role)) / FILE for role in roles]
    return SiteAddresses.load(next((file for file in files if file.exists()), files[0]))


def _table(rows: list[Fingerprint]) -> Table:
    """A fingerprint in two lines of eight groups: read out in one breath each."""
    table = Table("certificate", "of", "SHA-256 fingerprint", "expires", box=None, pad_edge=False)
    for row in rows:
        half = len(row.text) // 2
        text = row.text if row.fingerprint is None else f"{row.text[:half].rstrip()}\n{row.text[half:].lstrip()}"
        whose = "own" if row.own else f"pinned by {row.held_by}"
        table.add_row(row.name, whose, text, f"{row.expires:%Y-%m-%d}" if row.expires else "")
    return table


def _describe(row: Fingerprint) -> dict[str, object]:
    return {
        "name": row.name,
        "held_by": row.held_by,
        "own": row.own,
        "path": str(row.path),
        "fingerprint": row.fingerprint,
        "expires": row.expires.isoformat() if row.expires else None,
    }
