"""Settings: every variable of ours is one, docs/settings.md is of them, and a mistake is one line."""

import re
import subprocess
from pathlib import Path

import pytest

from flows.settings import READERS, all_settings, page
from lm.config import ConfigError
from lm.settings import integer, one_of, seconds, text
from tests.project import ROOT

NAME = re.compile(r"\bTOKENMILL_[A-Z_]*[A-Z]\b")
NAMES = {setting.name for setting in all_settings()}


def files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True
    ).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_every_variable_that_is_named_anywhere_is_a_setting() -> None:
    """And every setting is named elsewhere than on the page, which is made of them."""
    found = {
        (name, path.relative_to(ROOT).parts[0])
        for path in files()
        if path.suffix in (".py", ".md", ".yaml", ".toml") or path.name in ("Makefile", "run", "Dockerfile")
        if path != ROOT / "docs" / "settings.md"
        for name in NAME.findall(path.read_text())
    }
    made_up = {"TOKENMILL_X", "TOKENMILL_SPEED", "TOKENMILL_THREAD"}
    assert {item for item in found if item[0] not in NAMES} == {(name, "tests") for name in made_up}
    assert {name for name, _ in found} - made_up == NAMES


def test_the_page_is_of_the_settings() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), "python -m flows.settings > docs/settings.md"


@pytest.mark.parametrize("setting", all_settings(), ids=lambda setting: setting.name)
def test_what_is_not_set_or_empty_is_the_default(setting) -> None:
    assert setting.read({}) == setting.read({setting.name: ""}) == setting.default
    assert setting.reader in READERS and setting.meaning and setting.unset and setting.allowed


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        (
            integer("TOKENMILL_X", None, 1, "", of="MiB"),
            {"1": 1, "0012": 12},
            ["0", "-1", "1.5", "two", "\u00b2", " 1"],
        ),
        (seconds("TOKENMILL_X", 2.0, ""), {"0": 0.0, "1.5": 1.5}, ["-1", "nan", "inf", "often"]),
        (one_of("TOKENMILL_X", "a", ("a", "b"), ""), {"a": "a", "b": "b"}, ["A", "ab", "a b"]),
        (text("TOKENMILL_X", "", "", ""), {"any thing": "any thing"}, []),
    ],
)
def test_a_value_is_what_it_says_or_one_line(setting, good: dict, bad: list[str]) -> None:
    for given, value in good.items():
        assert setting.read({"TOKENMILL_X": given}) == value
    for given in bad:
        with pytest.raises(ConfigError) as caught:
            setting.read({"TOKENMILL_X": given})
        assert str(caught.value) == f"TOKENMILL_X: must be {setting.allowed} (got {given!r})"
