"""Why two runs of a stage may have given different bytes: what was recorded of them, compared, the likeliest kind first."""

from dataclasses import dataclass
from pathlib import Path

from flows.replay.finished_run import FinishedRun
from flows.replay.first_difference import differing_files, first_difference
from lm.inputs.hashed import IgnorePatterns
from tasks.core.libraries import SECTION
from tasks.runner.key import path_md5
from tasks.runner.machine import machine_differences
from tasks.runner.names import flatten
from tasks.runner.record import Record, is_code


@dataclass(frozen=True)
class Suspect:
    """kind: data, params, code, library, hardware, or nondeterminism; what: which one, and how it differs."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


def suspects(stage: str, left: FinishedRun, right: FinishedRun) -> list[Suspect]:
    """All that differs between two runs of a stage, data before params, code, library and hardware: each could do alone.
    Never empty."""
    one, other = left.record(stage), right.record(stage)
    found = [
        *of_data(one, other, left, right),
        *of_params(one, other),
        *of_code(one, other, left, right),
        *of_libraries(one, other),
        *of_hardware(one, other),
    ]
    found = found or of_outputs(one, left) + of_outputs(other, right)
    free = [side.name for side, record in ((left, one), (right, other)) if record.hardware.get("deterministic") == "no"]
    if free and not found:
        return [Suspect("nondeterminism", f"{stage}.deterministic is off in {' and '.join(free)}")]
    missing = " and ".join(side.name for side, record in ((left, one), (right, other)) if not record.libraries)
    if found or not missing:
        return found or [Suspect("nondeterminism", "nothing recorded differs: or a fault of memory or disk")]
    return [Suspect("library or hardware", f"nothing else differs, and of {missing} these were not recorded")]


def of_data(one: Record, other: Record, left: FinishedRun, right: FinishedRun) -> list[Suspect]:
    """Dependencies that are no code and have another md5, and where in them the first difference is, if both are still here."""
    found = []
    for path in sorted(one.deps.keys() & other.deps.keys()):
        if not is_code(path) and one.deps[path] != other.deps[path]:
            places = left.place(path), right.place(path)
            here = has_md5(places[0], one.deps[path], left) and has_md5(places[1], other.deps[path], right)
            names = differing_files(*places) if here else []
            found.append(Suspect("data", f"{path}/{first_difference(*places, names)}" if names else path))
    return found


def of_outputs(record: Record, side: FinishedRun) -> list[Suspect]:
    """Outputs that are no longer what the lock says the stage has written, or what a stage after it has read, which may also
    mean that the stage alone has run again; files that a cache lacks do not count."""
    path = f"data/{outputs_of(record.stage)[0]}"
    wrote = {record.outs[path]: f"{record.stage} wrote"} if path in record.outs else {}
    readers = [(stage, other) for stage, other in side.records.items() if path in other.deps]
    read = {other.deps[path]: f"{stage} read" for stage, other in reversed(readers)}  # the first is named
    place = side.place(path)
    return [
        Suspect("data", f"{path} of {side.name} is not what {did} there: its md5 is another")
        for md5, did in (wrote or read).items()
        if is_whole(place) and not has_md5(place, md5, side)
    ]


def is_whole(place: Path) -> bool:
    """Whether a file or folder is there, with no link in it that leads nowhere."""
    return place.exists() and all(path.exists() for path in place.rglob("*"))


def has_md5(place: Path, md5: str, side: FinishedRun) -> bool:
    """Whether what lies there is what was recorded."""
    return is_whole(place) and path_md5(place.absolute(), IgnorePatterns(place, [])) == md5


def of_params(one: Record, other: Record) -> list[Suspect]:
    """Keys with another value; versions of libraries are not among them."""
    values, values_there = flatten(one.params), flatten(other.params)
    return [
        Suspect("params", f"{key} {values.get(key, 'absent')} -> {values_there.get(key, 'absent')}")
        for key in sorted({*values, *values_there})
        if values.get(key) != values_there.get(key) and not key.startswith(f"{SECTION}.")
    ]


def of_code(one: Record, other: Record, left: FinishedRun, right: FinishedRun) -> list[Suspect]:
    """The command, and files of code: in dependencies that have another md5, or are of one run only."""
    found = [] if one.cmd == other.cmd else [Suspect("code", f"command {one.cmd} -> {other.cmd}")]
    paths = sorted(p for p in {*one.deps, *other.deps} if is_code(p) and one.deps.get(p) != other.deps.get(p))
    for path in paths:
        files, files_there = left.code(one.stage, path), right.code(other.stage, path)
        names = sorted(n for n in {*files, *files_there} if files.get(n) != files_there.get(n))
        found += [Suspect("code", name) for name in names] or [Suspect("code", path)]
    return found


def of_libraries(one: Record, other: Record) -> list[Suspect]:
    """Libraries that both records have in different versions: one that only one has follows from the code."""
    versions, versions_there = versions_of(one), versions_of(other)
    return [
        Suspect("library", f"{name} {versions[name]} -> {versions_there[name]}")
        for name in sorted(versions.keys() & versions_there.keys())
        if versions[name] != versions_there[name]
    ]


def versions_of(record: Record) -> dict[str, str]:
    """Versions by library: those that the parameters declare, which a lock has too, and those that the process had imported."""
    prefix = f"{SECTION}."
    declared = {name: text for name, text in flatten(record.params).items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): text for name, text in declared.items()} | record.libraries


def of_hardware(one: Record, other: Record) -> list[Suspect]:
    """Processor, GPU, threads, settings, and how training computed; nothing where one of both is not known."""
    known = one.hardware and other.hardware
    return [Suspect("hardware", line) for line in machine_differences(one.hardware, other.hardware)] if known else []


def outputs_of(stage: str) -> list[Path]:
    """Where a stage's output and metrics are, below data/."""
    return [Path(stage.replace("@", "/")), Path("metrics") / f"{stage}.json"]
