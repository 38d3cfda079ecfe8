"""Planted bugs: small wrong replacements in the code, each with the room whose own tests must notice it.

`planted/<room>.yaml` names the room's tests and lists its bugs. Golden files are no part of a room's tests: they notice every
change, and say of none whether it is wrong.
"""

from dataclasses import dataclass
from pathlib import Path

from tasks.core.yaml import read_yaml

PLANTED = Path(__file__).parent / "planted"
CAUGHT = Path(__file__).parent / "caught.json"  # the test that caught each bug last, by the bug's room and name
KINDS = (
    "split",
    "mask",
    "denominator",
    "sign",
    "off by one",
    "unit",
    "order",
    "seed",
    "value",
    "count",
    "state",
    "guard",
)


@dataclass(frozen=True)
class Mutant:
    """One bug: `find`, which stands exactly once in `file`, becomes `put`; `tests` are pytest's paths that must then fail."""

    name: str
    room: str
    kind: str
    file: str
    find: str
    put: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.room}: {self.name}"

    def problem(self, root: Path) -> str | None:
        """Why it cannot be planted in this checkout, in one line; None when it can."""
        if self.kind not in KINDS:
            return f"{self}: no kind {self.kind!r} (there are: {', '.join(KINDS)})"
        if not (root / self.file).is_file():
            return f"{self}: there is no {self.file}"
        found = (root / self.file).read_text().count(self.find)
        if found != 1:
            return f"{self}: {self.find!r} stands {found} times in {self.file}, not once"
        missing = [path for path in self.tests if not (root / path.partition("::")[0]).exists()]
        return f"{self}: there are no tests {', '.join(missing)}" if missing else None

    def files(self, root: Path) -> list[str]:
        """Its tests, a file each: those first that import what it changes, then those that name it, so that what catches it is
        found sooner."""
        module, stem = self.file.removesuffix(".py").replace("/", "."), Path(self.file).stem
        found: dict[str, int] = {}
        for test in self.tests:
            path = root / test.partition("::")[0]
            for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
                text = file.read_text()
                name = test if file == path else file.relative_to(root).as_posix()
                found[name] = 0 if f"{module} import" in text else 1 if stem in text else 2
        return sorted(found, key=lambda name: found[name])

    def plant(self, root: Path) -> str:
        """Put the bug into the checkout at root. Returns what the file was."""
        path = root / self.file
        text = path.read_text()
        path.write_text(text.replace(self.find, self.put))
        return text


def read_mutants(folder: Path = PLANTED) -> list[Mutant]:
    """Every planted bug, in the order of rooms and of their files. A bug may name tests of its own in place of its room's."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        room = read_yaml(path)
        for row in room["mutants"]:
            tests = row.pop("tests", room["tests"]).split()
            found.append(Mutant(room=path.stem, tests=tuple(tests), **row))
    return found
