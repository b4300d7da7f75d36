"""The command line of an installation on several machines: identities, addresses, and the exchange of certificates.

Declares commands, options and help; the work is in `site_commands`.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from darkroom.cli_options import JsonOption
from darkroom.error_report import told_as_json
from darkroom.option_values import parsed, refuse_given

site_app = typer.Typer()

DirOption = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Folder that holds the roles' folders, or this operator's alone.")
]
_ADDRESSES: Final = "address, HOST:PORT, as others dial it. Several: tried in this order; all stand in its certificate."
_BOUND: Final = "listens on. Default: its port on every interface (on loopback, where its address is there)."

Role = Literal["server-a", "server-b", "dealer", "hospital", "model-owner"]


def _addresses(name: str, who: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar="HOST:PORT", help=f"{who}'s {_ADDRESSES}")
    return option


def _bound(name: str, who: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar="HOST:PORT", help=f"What {who} {_BOUND}")
    return option


@site_app.command()
def provision(
    context: typer.Context,
    dir: DirOption,
    role: Annotated[
        Role | None,
        typer.Option("--role", help="Only this role, on its operator's own machine. Default: all roles at once."),
    ] = None,
    server_a: Annotated[list[str] | None, _addresses("--server-a", "Server A")] = None,
    server_b: Annotated[list[str] | None, _addresses("--server-b", "Server B")] = None,
    dealer: Annotated[list[str] | None, _addresses("--dealer", "The dealer")] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            metavar="CALLER:PARTY=HOST:PORT",
            help="Where CALLER (hospital, model-owner, server-a, server-b) reaches PARTY, where that is another address.",
        ),
    ] = None,
    listen_a: Annotated[str | None, _bound("--listen-a", "server A")] = None,
    listen_b: Annotated[str | None, _bound("--listen-b", "server B")] = None,
    listen_dealer: Annotated[str | None, _bound("--listen-dealer", "the dealer")] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Make new certificates now, under the same keys; peers then `accept --replace` them.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Make identities, keys and configuration: a folder for each role, to be moved to its machine as it is. Starts nothing.

    Each folder holds its own role's secrets alone. What DIR holds already is
    kept, addresses too; expired certificates are renewed. The fingerprints on
    standard error are compared by telephone. A dealer at a server's host is
    refused. With --role, `darkroom accept` then takes each peer's certificate.

    Example:
    [bold]A=a.example:7601 B=b.example:7602 D=d.example:7600
    darkroom provision --dir site --server-a $A --server-b $B --dealer $D[/bold]

    Example:
    [bold]A=a.example:7601 D=d.example:7600
    darkroom provision --dir mine --role server-a --server-a $A --dealer $D[/bold]
    """
    from darkroom.site_addresses import parse_advertised, parse_bound, parse_route
    from darkroom.site_commands import run_provision

    if role is not None:
        others = {"listen_a": "server-a", "listen_b": "server-b", "listen_dealer": "dealer"}
        foreign = {parameter for parameter, party in others.items() if party != role}
        refuse_given(context, foreign, f"is for that party's own folder, not for --role {role}")
    dialled = {"server-a": server_a, "server-b": server_b, "dealer": dealer}
    listening = {
        "server-a": ("--listen-a", listen_a),
        "server-b": ("--listen-b", listen_b),
        "dealer": ("--listen-dealer", listen_dealer),
    }
    advertised = {
        party: tuple(parsed(parse_advertised, text, f"--{party}") for text in texts or ()) for party, texts in dialled.items()
    }
    bound = {party: None if text is None else parsed(parse_bound, text, option) for party, (option, text) in listening.items()}
    routes = dict(parsed(parse_route, text, "--route") for text in route or ())
    with told_as_json(json, makes=dir):
        run_provision(
            dir,
            role=role,
            advertised=advertised,
            bound=bound,
            routes=routes,
            renew=renew,
            json_path=json,
        )


@site_app.command()
def accept(
    file: Annotated[Path, typer.Argument(metavar="CERT", help="A peer's certificate, or the hospital's grant.pub.")],
    dir: DirOption,
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", metavar="HEX", help="All 64 digits, as its owner read them out by telephone.")
    ],
    replace: Annotated[bool, typer.Option("--replace", help="In place of the one pinned until now.")] = False,
    json: JsonOption = None,
) -> None:
    """Pin a peer's certificate for the roles in DIR, if it has the fingerprint that its owner read out.

    In the example, 9f3a 11c0 ... stands for the 64 digits that you heard: fill
    them in.

    Example: [bold]darkroom accept server-a.crt --fingerprint "9f3a 11c0 ..." --dir mine[/bold]
    """
    from darkroom.site_commands import run_accept

    with told_as_json(json):
        run_accept(dir, file, fingerprint, replace=replace, json_path=json)


@site_app.command()
def fingerprints(dir: DirOption, json: JsonOption = None) -> None:
    """Show the fingerprints of the roles in DIR, to be read out, and of the peers that they pin, to be compared.

    Example: [bold]darkroom fingerprints --dir sim[/bold]
    """
    from darkroom.site_commands import run_fingerprints

    with told_as_json(json):
        run_fingerprints(dir, json)
