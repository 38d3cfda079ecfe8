"""Which files of a dependency DVC hashes. A stage reads no others: those could change without its running again."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from lm.config import ConfigError

# What DVC never looks at, before anything that .dvcignore says.
ALWAYS_IGNORED = [".hg/", ".git/", ".git", ".dvc/"]
PATTERNS, REPOSITORY, PIPELINE = ".dvcignore", ".dvc", "dvc.yaml"
LINK = "is a link to a folder, behind which DVC does not look: move what it leads to here, or name that folder itself"
IGNORED = "is ignored by .dvcignore, so DVC would not see it change: move it elsewhere, and name it there"
FOREIGN = {
    PATTERNS: "only the .dvcignore of the project itself counts: move its lines there, or the file away",
    REPOSITORY: "DVC skips a folder that is a DVC project of its own: move that folder out of this project, and name it there",
    PIPELINE: "DVC would run it as a pipeline of this project: move it away, or its folder out of this project",
}


class IgnorePatterns:
    """The patterns of a project's .dvcignore, and those that DVC adds; they do not reach beyond the project."""

    def __init__(self, root: Path, lines: Iterable[str]) -> None:
        self.root = os.path.realpath(root)
        self._patterns: list[tuple[re.Pattern[str], bool, bool]] = []
        for line in filter(None, map(str.strip, [*ALWAYS_IGNORED, *lines])):
            regex, ignores = GitIgnoreSpecPattern.pattern_to_regex(line)
            if isinstance(regex, str):
                self._patterns.insert(0, (re.compile(regex), bool(ignores), line.endswith("/")))  # the last one decides

    def inside(self, path: Path) -> str | None:
        """The path as seen from the project, "." for itself; None for one elsewhere. A link counts by where it stands."""
        name = os.path.relpath(os.path.abspath(path), self.root)
        return None if name == ".." or name.startswith("../") else name

    def names(self, name: str, is_folder: bool = False) -> bool:
        """Whether a path, as seen from the project, is ignored, or a folder above it is."""
        parts = name.split("/")
        return any(self.name("/".join(parts[:n]), is_folder or n < len(parts)) for n in range(1, len(parts) + 1))

    def name(self, name: str, is_folder: bool) -> bool:
        """Whether a path in a folder that is not ignored is ignored by itself."""
        spelt = [name, f"{name}/"] if is_folder else [name]
        for pattern, ignores, folders_only in self._patterns:
            if (is_folder or not folders_only) and any(map(pattern.match, spelt)):
                return ignores
        return False


@dataclass
class DependencyFiles:
    """What a dependency holds, sorted. files: those that DVC hashes. ignored: what it is told to pass over, a folder as one.
    links: others to folders, behind which it does not look."""

    files: list[Path] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


def read_ignored(root: Path = Path(".")) -> IgnorePatterns:
    """What the .dvcignore of a project says."""
    path = root / PATTERNS
    return IgnorePatterns(root, path.read_text(encoding="utf-8").split("\n") if path.exists() else [])


def scan_dependency(path: Path, ignored: IgnorePatterns) -> DependencyFiles:
    """What DVC hashes of a file or a folder, and what it leaves out.

    Raises ConfigError, one line that names it, for what DVC cannot take: a link to nothing, a pipe, a name that is not UTF-8,
    a folder that may not be read; and what it would take for its own: FOREIGN.
    """
    if not path.is_dir():
        return DependencyFiles([path] if path.is_file() else [])
    found, inside = DependencyFiles(), ignored.inside(path)
    _check_above(inside, ignored)
    if inside is not None and inside != "." and ignored.names(inside, is_folder=True):
        return DependencyFiles([], [path])
    _walk(path, inside, ignored, found)
    return DependencyFiles(sorted(found.files), sorted(found.ignored), sorted(found.links))


def hashed_files(folder: Path) -> list[Path]:
    """The files of a folder of the user's that DVC hashes, sorted: all that may be read of it.

    Raises ConfigError where `scan_dependency` does, where DVC ignores the folder, and for a link to a folder in it that DVC
    does not ignore, whose files would go unread without a word.
    """
    return _without_links(folder).files


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder of the user's that DVC does not ignore, sorted. Raises ConfigError where `hashed_files` does."""
    ignored = _without_links(folder).ignored
    return sorted(path for path in folder.glob("*") if path.is_dir() and path not in ignored)


def _without_links(folder: Path) -> DependencyFiles:
    ignored = read_ignored()
    check_not_ignored(folder, ignored)
    found = scan_dependency(folder, ignored)
    for path in found.links:
        raise ConfigError(f"{path} {LINK}")
    return found


def check_not_ignored(path: Path, ignored: IgnorePatterns) -> None:
    """Raises ConfigError, one line, for a folder of the project that DVC ignores: it would hash it as if it were empty."""
    inside = ignored.inside(path)
    if inside is not None and inside != "." and ignored.names(inside, path.is_dir()):
        raise ConfigError(f"{path} {IGNORED}")


def check_no_link(place: Path, top: Path) -> None:
    """Raises ConfigError, one line that names it, where a link to a folder stands between a folder and a place in it."""
    while place != top:
        if place.is_symlink() and place.is_dir():
            raise ConfigError(f"{place} {LINK}")
        place = place.parent


def check_is_hashed(place: Path, top: Path) -> None:
    """Raises ConfigError, one line that names it, where DVC, which hashes the folder `top`, does not look at a file or a folder
    in it: behind a link to a folder, in a project of its own, or ignored."""
    check_no_link(place, top)
    ignored = read_ignored()
    inside = ignored.inside(top)
    if inside is not None:
        _check_above(ignored.inside(place), ignored)
    if inside is not None and not (inside != "." and ignored.names(inside, is_folder=True)):
        check_not_ignored(place, ignored)


def _check_above(inside: str | None, ignored: IgnorePatterns) -> None:
    """Raises ConfigError for what DVC would take for its own above a path of the project."""
    for above in list(Path(inside or ".").parents)[:-1]:
        _check(above, {name for name in FOREIGN if os.path.lexists(Path(ignored.root, above, name))})


def _walk(folder: Path, inside: str | None, ignored: IgnorePatterns, found: DependencyFiles) -> None:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise ConfigError(
            f"{folder}: {error.strerror}: DVC cannot see what is in it: mend that, or move it away"
        ) from None
    if inside != ".":  # the project's own are its own
        _check(folder, {entry.name for entry in entries} & ({PATTERNS} if inside is None else FOREIGN.keys()))
    for entry in entries:
        path, name = folder / entry.name, entry.name if inside == "." else f"{inside}/{entry.name}"
        is_folder = _leads_to_folder(entry)
        if inside is not None and ignored.name(name, is_folder):
            found.ignored.append(path)
        elif is_folder and entry.is_symlink():
            found.links.append(path)
        elif is_folder:
            _walk(path, inside if inside is None else name, ignored, found)
        else:
            _check_file(path, entry)
            found.files.append(path)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _check(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        raise ConfigError(f"{folder / name}: {FOREIGN[name]}")


def _check_file(path: Path, entry: os.DirEntry[str]) -> None:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise ConfigError(f"{shown}: a name that is not UTF-8, which DVC cannot keep: rename it") from None
    try:
        whole = entry.is_file()
    except OSError:
        whole = False
    if not whole:
        what = (
            f"a link to {os.readlink(path)}, which is no file" if entry.is_symlink() else "neither a file nor a folder"
        )
        raise ConfigError(f"{path}: {what}, so DVC cannot hash it: remove it")
