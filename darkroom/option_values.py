"""What an option of the command line says, parsed. What is wrong with it is a usage error that names the option.

So is an option that would be ignored: whoever gave it would believe that it had an effect.
"""

import math
from collections.abc import Callable, Collection
from typing import TypeVar

import typer

Parsed = TypeVar("Parsed")


def parsed(parse: Callable[[str], Parsed], text: str, option: str) -> Parsed:
    """What an option says. Raises typer.BadParameter: `parse` raised BadInputError or ConfigurationError."""
    from protocols.errors import BadInputError, ConfigurationError

    try:
        return parse(text)
    except (BadInputError, ConfigurationError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def refuse_given(context: typer.Context, parameters: Collection[str], why: str) -> None:
    """Raises typer.BadParameter: one of these was given, if only with its default. why: goes on from the option's name."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in parameters and source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(why, param_hint=parameter.opts[0])


def noise_level(text: str | None) -> float | None:
    """A noise level in units of the range from one in 1/255; None for auto. Raises typer.BadParameter."""
    if text is None or text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise typer.BadParameter(
            f"{text!r} is neither auto nor a number of at least 0, in 1/255 of the range", param_hint="--sigma"
        )
    return value / 255.0


def engine_name(text: str | None) -> str:
    """An engine's name, or "" for the servers' choice. Raises typer.BadParameter."""
    from protocols.engines import ENGINES

    if text is not None and text not in ENGINES:
        raise typer.BadParameter(f"{text!r} is unknown; known are {', '.join(ENGINES)}", param_hint="--engine")
    return text or ""
