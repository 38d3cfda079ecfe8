"""What is made of the section when parameters are composed."""

import platform
from typing import Any


def composed(section: dict[str, Any]) -> dict[str, Any]:
    """The section with `python`, the running version, where the standard library is a source, for its text is the version's;
    without it where it is none."""
    if not isinstance(section.get("sources"), list):
        return section
    found = {key: value for key, value in section.items() if key != "python"}
    if any(isinstance(source, dict) and source.get("name") == "stdlib" for source in section["sources"]):
        found["python"] = platform.python_version()
    return found
