"""A passed rehearsal is remembered by all that could change its outcome, so that a second start does not pay for it again, nor
another worktree of the same clone."""

import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.params.outside import CODE
from lm.files import write_json
from tasks.runner.graph import Entry
from tasks.runner.key import file_md5

FOLDER = Path(".scratch/preflight")
# Records that are kept: those of other params and branches that are gone back to.
KEPT = 16
# Of larger inputs the time stands for the content; small ones are read, as a checkout gives files of git a time of its own.
READ_BYTES = 1 << 20


def records_folder(root: Path) -> Path:
    """Where rehearsals are remembered: in the clone that the project is a worktree of, or in the project itself."""
    pointer = root / ".git"
    if pointer.is_file():
        git = Path(pointer.read_text().removeprefix("gitdir: ").strip())
        if git.parent.name == "worktrees" and (clone := git.parents[2]).is_dir():
            return clone / FOLDER
    return root / FOLDER


def rehearsal_key(root: Path, params: dict[str, Any], graph: dict[str, Entry]) -> str:
    """sha256 of the code, dvc.yaml, the params, the Python and the libraries, and names, sizes and times of the inputs from
    outside the graph."""
    found = hashlib.sha256()
    for name in (*sorted(code_of(root)), root / "dvc.yaml"):
        found.update(f"\0{name.relative_to(root)}\0".encode() + name.read_bytes())
    known = {
        "params": params,
        "python": platform.python_version(),
        "libraries": libraries(),
        "inputs": inputs_of(root, graph),
    }
    found.update(json.dumps(known, sort_keys=True).encode())
    return found.hexdigest()


def code_of(root: Path) -> Iterator[Path]:
    for folder in CODE:
        yield from (path for path in (root / folder).rglob("*.py"))


def libraries() -> list[str]:
    """name-version of what is installed beside the Python that runs."""
    folders = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    return sorted(path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.dist-info"))


def inputs_of(root: Path, graph: dict[str, Entry]) -> list[tuple[str, int, str]]:
    """(path, bytes, md5 or time) of the files of every dependency that is no code and no stage's output."""
    made = {out for entry in graph.values() for out in entry.outs}
    deps = {dep for entry in graph.values() for dep in entry.deps if dep not in made and Path(dep).parts[0] not in CODE}
    found = []
    for dep in sorted(deps):
        top = root / dep
        files = sorted(path for path in top.rglob("*") if path.is_file()) if top.is_dir() else [top]
        for path in files:
            if path.exists():
                status, name = path.stat(), dep if path == top else f"{dep}/{path.relative_to(top)}"
                small = status.st_size <= READ_BYTES
                found.append((name, status.st_size, file_md5(path) if small else str(status.st_mtime_ns)))
    return found


def recall(root: Path, key: str, addresses: list[str]) -> dict[str, Any] | None:
    """What a rehearsal that passed, and had all of these stages, has said of needs; None where there was none."""
    try:
        record = json.loads((records_folder(root) / f"{key}.json").read_text())
    except (OSError, ValueError):
        return None
    return record["needs"] if set(addresses) <= set(record["stages"]) else None


def remember(root: Path, key: str, addresses: list[str], needs: dict[str, Any]) -> None:
    """Write the record whole, and forget the oldest beyond KEPT."""
    folder = records_folder(root)
    write_json(folder / f"{key}.json", {"stages": sorted(addresses), "needs": needs}, shared=True)
    for old in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
