"""What a check has to say: one line of where, what and what to do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lm.config import ConfigError


@dataclass(frozen=True)
class Finding:
    """A run that starts now would fail on this. where: a file, a key of params.yaml, a path or an environment variable."""

    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" + (f"; {self.remedy}" if self.remedy else "")
        return " ".join(line.split())  # a name of a user's, such as a label, may hold a line break


def one_line(error: object) -> str:
    """The text of an error on one line, cut where it gets longer than anybody reads."""
    return " ".join(str(error).split())[:500]


def of_error(error: ValueError) -> list[Finding]:
    """Errors for users are lines of `where: what; what to do` already, one a mistake."""
    found = []
    for line in str(error).splitlines():
        where, _, what = line.partition(": ")
        found.append(Finding(where, one_line(what)))
    return found


def findings_of(*checks: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What all checks find; what one raises for its user is a finding, and stops none of the others."""
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except ConfigError as error:
            found += of_error(error)
    return list(dict.fromkeys(found))
