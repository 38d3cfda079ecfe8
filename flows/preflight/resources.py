"""The forecast against what is there: bytes of disk, one file system at a time, and of memory."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.preflight.folders import existing, shown
from flows.preflight.repository import dvc_config
from lm.memory_limits import memory_limits
from tasks.about.finding import Finding

# DVC links where its cache type begins with one of these, and copies otherwise; a reflink is a copy where there are none.
LINKS = ("hardlink", "symlink")


@dataclass(frozen=True)
class Needs:
    """outputs: bytes that each stage writes to data/. scratch: that it has in .scratch beside. memory: its peak, and what to
    lower where that is too much."""

    outputs: dict[str, float] = field(default_factory=dict)
    scratch: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    advice: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_disk(root: Path, cache: Path, needs: Needs, outs: list[str]) -> Iterator[Finding]:
    """Outputs count twice, in data/ and in DVC's cache, unless the cache links; of scratch the stage with the most counts."""
    links = str((dvc_config(root)["cache"].get("type") or ["copy"])[0]) in LINKS
    written = sum(needs.outputs.values())
    asked = [
        (place_of(root, outs), 0.0 if links else written, "outputs"),
        (existing(cache), written, "the cache's copy of them"),
        (existing(root / ".scratch"), max(needs.scratch.values(), default=0.0), "checkpoints and parts"),
    ]
    by_device: dict[int, list[tuple[Path, float, str]]] = defaultdict(list)
    for place, size, what in asked:
        by_device[place.stat().st_dev].append((place, size, what))
    for parts in by_device.values():
        place, total = parts[0][0], sum(size for _, size, _ in parts)
        free = bytes_free(place)
        if total > free:
            said = ", ".join(f"{gigabytes(size)} for {what}" for _, size, what in parts if size)
            what = f"{gigabytes(free)} are free on its disk, and the run may take {gigabytes(total)} ({said})"
            yield Finding(
                shown(place, root),
                what,
                "make room (`make clean`, `dvc gc -w`), move .dvc/cache (`dvc cache dir`), or have less text read",
            )


def place_of(root: Path, outs: list[str]) -> Path:
    """Existing folder in which a stage's outputs go."""
    return existing((root / outs[0]).parent if outs else root / "data")


def check_memory(needs: Needs, here: set[str]) -> Iterator[Finding]:
    """Every stage that trains on this machine, by itself."""
    there = memory_there() if needs.memory else 0.0
    for name, wanted in needs.memory.items():
        if name in here and wanted > there:
            what = f"needs {gigabytes(wanted)} of memory, and {gigabytes(there)} are there"
            yield Finding(f"params.yaml: {name}", what, needs.advice[name])


def memory_there() -> float:
    """Bytes that a stage could have now: of the GPU, or of the machine as far as its control group allows."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        import torch  # takes a second and a half

        if torch.cuda.is_available():
            return float(torch.cuda.mem_get_info()[0])
    return float(min([psutil.virtual_memory().available, *memory_limits()]))


def bytes_free(path: Path) -> int:
    """Free bytes of a path's file system, for this user."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def gigabytes(size: float) -> str:
    """Bytes as text, in GB or MB, whichever has a digit before the point."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
