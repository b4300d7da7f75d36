"""Shapes and types of protocols/ are checked in every test: beartype, for jaxtyping's import hook (see pyproject.toml)."""

from collections.abc import Callable
from typing import Any, Self

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Beartype's decorator, except where it cannot work: `Self` means nothing to it on a method decorated alone."""
    hints = getattr(function, "__annotations__", {})
    return function if Self in hints.values() else beartype(function)
