"""What a file of ours imports, and what that imports in turn: read out of the source, nothing is run."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = sorted(path.parent for path in (ROOT / "tasks").glob("*/*/__init__.py") if path.read_text()) + [
    ROOT / "lm" / room
    for room in (
        "averages",
        "embeddings",
        "feed_forwards",
        "linears",
        "mixers",
        "norms",
        "optimizers",
        "pairs",
        "problems",
        "prompts",
        "schedules",
        "strategies",
    )
]


@cache
def imports_of(path: Path) -> list[str]:
    """The modules a file imports, in full."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def file_of(module: str, root: Path = ROOT) -> Path | None:
    """The file of a module of ours."""
    path = root / module.replace(".", "/")
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


def is_room(path: Path) -> bool:
    """Whether it is the __init__ of a room of methods: nothing but imports of them."""
    return path.name == "__init__.py" and path.parent in ROOMS


def closure(start: Path, root: Path = ROOT) -> set[Path]:
    """Every file of ours that a file imports, packages on the way included; a room's methods count only where a file
    imports them past the room's __init__, since that one imports them all."""
    found, waiting = set(), [start]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if not is_room(path):
            waiting += files_imported(path, root)
    return found


@cache
def files_imported(path: Path, root: Path) -> list[Path]:
    """The files of ours of the modules that a file imports, packages on the way included."""
    modules = [module.split(".") for module in imports_of(path)]
    names = {".".join(parts[:n]) for parts in modules for n in range(1, len(parts) + 1)}
    return [file for name in sorted(names) if (file := file_of(name, root))]
