"""The command line of models: `darkroom model ...`. Declares commands, options and help; the work is in `commands`."""

from pathlib import Path
from typing import Annotated

import typer

from darkroom.cli_options import ConfigOption, JsonOption
from darkroom.error_report import told_as_json

model_app = typer.Typer(help="Models at the servers.", no_args_is_help=True)


@model_app.command("push")
def model_push(
    model: Annotated[
        str,
        typer.Argument(metavar="FILE_OR_NAME", help="A .safetensors file, whose stem is the model's name; or a shipped model."),
    ],
    config: ConfigOption,
    json: JsonOption = None,
) -> None:
    """Share a model's weights between both servers, in place of an older model of that name.

    Example: [bold]darkroom model push base --config sim/model-owner.toml[/bold]
    """
    from darkroom.commands import run_model_push

    with told_as_json(json):
        run_model_push(config, model, json)


@model_app.command("list")
def model_list(config: ConfigOption, json: JsonOption = None) -> None:
    """List the models that the servers hold.

    Example: [bold]darkroom model list --config sim/hospital.toml[/bold]
    """
    from darkroom.commands import run_model_list

    with told_as_json(json):
        run_model_list(config, json)


@model_app.command("import-dncnn")
def model_import_dncnn(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A state dict (.pth) of SaoYan/DnCNN-PyTorch or cszn/KAIR.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Model file to write (.safetensors).")],
    json: JsonOption = None,
) -> None:
    """Make a model file of a trained grey DnCNN: batch normalisation folded, weights and wires in fixed point.

    Takes a minute or two: how large its wires grow is measured on hostile
    images. The file is read without running code.

    Example: [bold]darkroom model import-dncnn net.pth -o dncnn.safetensors[/bold]
    """
    from darkroom.commands import run_import_dncnn

    with told_as_json(json):
        run_import_dncnn(file, output, json)
