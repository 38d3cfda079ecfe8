"""What the control groups of a process let it have of memory: those of version 1 and 2, its own and all above it."""

from pathlib import Path

# Version 1 says "no limit" by the largest whole number of pages: 2^63 less a page, of 4 KiB to 64 KiB. No machine has so much.
UNLIMITED = 1 << 62


def memory_limits(root: Path = Path("/")) -> list[int]:
    """Bytes that each control group with a limit allows this process, none where none has one; the least of them holds.

    root: the folder under which proc/self and the file systems of groups are, as on the machine under `/`. What cannot be
    read, or is no number (version 2 says "max"), is no limit. memory.high, which only slows a group down, does not count.
    """
    places = {}  # of the group of this process, by version
    for line in _lines(root / "proc/self/cgroup"):  # 4:memory:/a/b in version 1, 0::/a/b in version 2
        number, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        if number == "0" and not controllers:
            places["cgroup2"] = place
        elif "memory" in controllers.split(","):
            places["cgroup"] = place
    limits = []
    for kind, mounted, mount in _mounts(root):
        name = "memory.max" if kind == "cgroup2" else "memory.limit_in_bytes"
        for folder in _upwards(mount, mounted, places.get(kind, "/")):
            text = "".join(_lines(folder / name)).strip()
            if text.isdecimal() and int(text) < UNLIMITED:
                limits.append(int(text))
    return limits


def _mounts(root: Path) -> list[tuple[str, str, Path]]:
    """(type, which group is mounted, where) of each file system of groups that may limit memory.

    In a container the group that is mounted is often its own, by the name that the host has for it.
    """
    found = []
    for line in _lines(root / "proc/self/mountinfo"):  # proc_pid_mountinfo(5)
        fields, _, rest = line.partition(" - ")
        kind, _, options = (*rest.split(" ", 2), "", "")[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.strip().split(",")):
            _, _, _, mounted, point = fields.split(" ")[:5]
            found.append((kind, mounted, root / point.lstrip("/")))
    return found


def _upwards(mount: Path, mounted: str, place: str) -> list[Path]:
    """The folders of a group and of all above it, as far as they are mounted: from the top down."""
    above = [part for part in mounted.split("/") if part]
    own = [part for part in place.split("/") if part]
    inside = own[len(above) :] if own[: len(above)] == above else own
    if ".." in inside:  # a group outside the namespace of this process: what is mounted is above it
        inside = []
    return [mount.joinpath(*inside[:depth]) for depth in range(len(inside) + 1)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
