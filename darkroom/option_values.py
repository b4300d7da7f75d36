"""What an option of the command line says, parsed. What is wrong with it is a usage error that names the option.

So is an option that would be ignored: whoever gave it would believe that it had an effect.
"""

from collections.abc import Callable, Collection
from typing import TypeVar

import typer

Parsed = TypeVar("Parsed")


def parsed(parse: Callable[[str], Parsed], text: str, option: str) -> Parsed:
    """What an option says. Raises typer.BadParameter: `parse` raised BadInputError."""
    from protocols.errors import BadInputError

    try:
        return parse(text)
    except BadInputError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def refuse_given(context: typer.Context, parameters: Collection[str], why: str) -> None:
    """Raises typer.BadParameter: one of these was given, if only with its default. why: goes on from the option's name."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in parameters and source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(why, param_hint=parameter.opts[0])
