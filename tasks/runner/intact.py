"""What a stage is to read is what the stage before it left: a byte that flipped since is one line, and no other model."""

import configparser
import json
import re
from pathlib import Path

from lm.inputs.hashed import read_ignored, scan_dependency
from tasks.core.config import ConfigError
from tasks.runner.graph import Entry
from tasks.runner.key import file_md5
from tasks.runner.lock import entries_of, md5s

DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")
# DVC writes dvc.lock in place, for stages that end while this one begins: what is cut off is read again.
READS = 5
SMALL = 4 << 20  # a report reads curves, answers and samples, which are no larger


def check_intact(entry: Entry, now: dict[str, str], root: Path = Path()) -> None:
    """Raises ConfigError naming the first file among the dependencies that is not as dvc.lock records it of the stage that made
    it. now: md5 of the dependencies as they are. Without a lock, or an entry of that stage in it, nothing is known."""
    for _ in range(READS):
        differs = _differing(entry, now, root)
        if not differs:
            return
    path, maker, recorded = differs[0]
    names = _names(root / path, recorded, root)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise ConfigError(
        f"{entry.address}: {'/'.join([path, *names[:1]])}{more} is not as {maker} left it: dvc.lock records another md5: "
        f"remove {path} and run `make pipeline`, which brings it back from DVC's cache or makes it again"
    )


def _differing(entry: Entry, now: dict[str, str], root: Path) -> list[tuple[str, str, str]]:
    """(path, maker, md5 in the lock) of each dependency that a stage made and that has another md5 now."""
    try:
        stages = entries_of((root / "dvc.lock").read_text())
        outs = {path: (maker, md5) for maker, e in stages.items() for path, md5 in md5s(e, "outs").items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return []
    found = [(path, *outs[path]) for path in entry.deps if path in outs]
    return [(path, maker, md5) for path, maker, md5 in found if DIGEST.fullmatch(md5) and md5 != now.get(path)]


def _names(path: Path, recorded: str, root: Path) -> list[str]:
    """The files of a folder that differ from the listing with this md5, which DVC's cache has; none where it has not."""
    listed = _listing(root, recorded)
    if listed is None:
        return []
    now = {
        file.relative_to(path).as_posix(): file_md5(file) for file in scan_dependency(path, read_ignored(root)).files
    }
    return sorted(name for name in {*listed, *now} if listed.get(name) != now.get(name))


def is_another(root: Path, path: str, recorded: str) -> bool:
    """Whether a file of up to SMALL bytes in a folder is not that of the listing with this md5. Those that are not here,
    and those of which no listing in the cache of DVC tells, do not count."""
    here = {root / path / name: md5 for name, md5 in (_listing(root, recorded) or {}).items()}
    return any(p.is_file() and p.stat().st_size <= SMALL and file_md5(p) != md5 for p, md5 in here.items())


def _listing(root: Path, recorded: str) -> dict[str, str] | None:
    """md5 of each file of a folder by name, as DVC's cache lists the folder with this md5; None where it does not."""
    try:
        return {item["relpath"]: item["md5"] for item in json.loads(_cached(root, recorded).read_text())}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cached(root: Path, md5: str) -> Path:
    """Where DVC's cache has what bears this md5."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    folder = root / ".dvc" / config.get("cache", "dir", fallback="cache")
    return folder / "files" / "md5" / md5[:2] / md5[2:]
