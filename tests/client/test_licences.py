"""Nothing that Darkroom asks for at run time is under the GPL, as the installed distributions say of themselves."""

import importlib.metadata as installed
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

RUN_TIME_EXTRAS = ("server", "codecs", "anonymize")
WITHOUT_DEPENDENCIES = ("crypten",)  # installed with --no-deps: pyproject.toml says why
GPL = re.compile(r"(?<!L)GPL|GNU (Affero )?General Public")
# Distributions in whose licence text the GPL stands, and why that does not bind us.
EXCEPTIONS = {"scipy": "its wheel carries libgfortran, under the GPL with the GCC Runtime Library Exception; SciPy is BSD"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required() -> set[str]:
    """Every distribution that is pulled in here. Raises PackageNotFoundError: one is not installed."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in RUN_TIME_EXTRAS for line in project["optional-dependencies"][extra])]
    todo = [Requirement(line) for line in asked]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonical(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            further = map(Requirement, installed.requires(name) or [])
            todo += [each for each in further if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen} | set(WITHOUT_DEPENDENCIES)


def licence(name: str) -> str:
    """All that a distribution's metadata says of it."""
    metadata = installed.metadata(name)
    classifiers = [line for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]
    return "\n".join(filter(None, [metadata.get("License-Expression"), metadata.get("License"), *classifiers]))


def test_nothing_at_run_time_is_under_the_gpl() -> None:
    names = required()
    assert {"torch", "markupsafe", "pylibjpeg-openjpeg", "dicom-anonymizer", "crypten"} <= names
    silent = {name for name in names if not licence(name)}
    assert not silent, "these say nothing of their licence: look it up, and name them here"
    assert {name for name in names if GPL.search(licence(name))} <= EXCEPTIONS.keys()


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_the_licence_that_an_exception_goes_by_is_another(name: str) -> None:
    text = licence(name)
    assert "BSD License" in text
    assert "GCC Runtime Library Exception" in text or not GPL.search(text)


@pytest.mark.parametrize(
    "text",
    ["GPL V3.0", "GPL-3.0-or-later", "AGPL-3.0", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"],
)
def test_the_gpl_is_known_by_its_names(text: str) -> None:
    assert GPL.search(text)


@pytest.mark.parametrize("text", ["LGPL-2.1-only", "GNU Lesser General Public License v2 (LGPLv2)", "MPL-2.0 AND MIT"])
def test_what_is_not_the_gpl(text: str) -> None:
    assert not GPL.search(text)
