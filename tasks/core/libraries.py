"""The libraries whose versions decide numbers. params.yaml has a section of them, and each stage declares its own in dvc.yaml.

Whatever composes params.yaml writes the versions that run; a stage refuses to run where it says another one.
"""

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lm.config import ConfigError

SECTION = "libraries"
PYTHON = "python"  # its minor version decides Unicode tables and what the standard library's parsers make of text


def installed(name: str) -> str | None:
    """The public version of a library, without what a build adds to it (+cpu); None where it is not installed."""
    if name == PYTHON:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def libraries_in(params: Iterable[str]) -> list[str]:
    """The libraries among what a stage declares of params, such as `libraries.torch`."""
    return [name.removeprefix(f"{SECTION}.") for name in params if name.startswith(f"{SECTION}.")]


def check_versions(names: Iterable[str], params: dict[str, Any]) -> None:
    """Raises ConfigError with a line for each library among what a stage declares that is not the one of params.yaml: DVC would
    record that one as what made the output."""
    section = params.get(SECTION)
    written = section if isinstance(section, dict) else {}
    lines = []
    for name in libraries_in(names):
        if name not in written:
            lines.append(
                f"params.yaml: {SECTION}.{name}: is not there: run `make pipeline`, which writes what runs here"
            )
        elif written[name] != (running := installed(name)):
            lines.append(
                f"params.yaml: {SECTION}.{name}: {written[name] or 'none'}, but {running or 'none'} runs here: run "
                f"`make pipeline`, which writes the running versions, or install what params.yaml says"
            )
    if lines:
        raise ConfigError("\n".join(lines))
