"""What an option of the command line says, parsed. What is wrong with it is a usage error that names the option."""

from collections.abc import Callable
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
