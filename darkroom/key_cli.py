"""The command line of noise keys: `darkroom key ...`. Declares commands, options and help; the work is in `commands`."""

from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli_options import ConfigOption, JsonOption, WindowOption
from darkroom.error_report import told_as_json
from darkroom.output import STDOUT

key_app = typer.Typer(help="Noise keys: of a hospital, of single objects.", no_args_is_help=True)


@key_app.command("new")
def key_new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, mode 0600; nothing is overwritten.")],
    json: JsonOption = None,
) -> None:
    """Make a noise master key. Whoever has it, and both servers' stores, has the images: keep it as you keep the images.

    Example: [bold]darkroom key new noise.key[/bold]
    """
    from darkroom.commands import run_key_new

    with told_as_json(json):
        run_key_new(file, json)


@key_app.command("export")
def key_export(
    object_id: Annotated[str, typer.Argument(metavar="OBJECT", help="What store printed.")],
    config: ConfigOption,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write, mode 0600; default: standard output.")
    ] = None,
    window: WindowOption = None,
    json: JsonOption = None,
) -> None:
    """Give an edge elsewhere in the hospital the keys of one object, and a grant for a window from now on. Secret.

    Example:
    [bold]ID=$(darkroom store scan.dcm --config sim/client.toml)
    darkroom key export $ID --window 1h -o ward7.json --config sim/client.toml[/bold]
    """
    from darkroom.commands import run_key_export

    if output is None and json == STDOUT:
        raise typer.BadParameter("- is where the object's keys go: give --output too", param_hint="--json")
    with told_as_json(json):
        run_key_export(config, object_id, output, window, json)
