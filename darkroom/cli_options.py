"""Options that several commands have, with the same words."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="DARKROOM_CONFIG",
        help="client.toml (stores), edge.toml (opens), hospital.toml (both) or model-owner.toml.",
    ),
]
JsonOption = Annotated[str | None, typer.Option("--json", metavar="PATH", help="Write the result as JSON; - is standard output.")]
WindowOption = Annotated[
    str | None,
    typer.Option("--window", metavar="TIME", help="How long the edge may open it: 90s, 30m, 24h, 7d. Default: as in --config."),
]
