"""Trees of files that say how control groups limit memory, as Linux lays them out in version 1 and 2."""

from pathlib import Path

FILES = {"cgroup": "memory.limit_in_bytes", "cgroup2": "memory.max"}
# How a group that is mounted and the place of a process in it are said by each version
MOUNTS = {
    "cgroup": "35 31 0:32 {mounted} {point} rw,relatime - cgroup cgroup rw,memory\n",
    "cgroup2": "41 31 0:38 {mounted} {point} rw,relatime shared:9 - cgroup2 cgroup2 rw\n",
}
PLACES = {"cgroup": "9:cpu,cpuacct:/elsewhere\n4:memory:{place}\n", "cgroup2": "0::{place}\n"}
NO_LIMIT = {"cgroup": "9223372036854771712", "cgroup2": "max"}


def make_control_groups(
    root: Path, kind: str, place: str, limits: dict[str, int | str], mounted: str = "/", point: str = "/sys/fs/cgroup/x"
) -> None:
    """A tree under root: a process in the group `place`, and groups with these limits under the mount point."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("mountinfo", MOUNTS[kind].format(mounted=mounted, point=point)),
        ("cgroup", PLACES[kind].format(place=place)),
    ):
        with (root / "proc/self" / name).open("a") as file:
            file.write(text)
    for group, limit in limits.items():
        folder = root / point.lstrip("/") / group.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILES[kind]).write_text(f"{limit}\n")
