"""TOML that we write is TOML that Python reads."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from darkroom.settings_files import render

VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEYS = st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True)


@given(st.dictionaries(KEYS, VALUES), st.dictionaries(KEYS, VALUES))
def test_round_trip(top: dict[str, str], section: dict[str, str]) -> None:
    table = {**{f"k{key}": value for key, value in top.items()}, "section": section}
    assert tomllib.loads(render(table)) == table
