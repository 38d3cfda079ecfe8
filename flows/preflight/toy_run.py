"""The real graph at toy width: the `run` of every stage, with the methods that params name, in this process."""

import math
import traceback
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from flows.preflight.artifacts import check_artifacts
from flows.preflight.checkpoint import uses_of_checkpoint
from flows.preflight.child import AT
from flows.preflight.narrow import narrow_checkpoint
from flows.preflight.passed import FOLDER
from flows.preflight.shrink import Few, shrunk, with_few_problems
from flows.preflight.toys import Toys
from tasks.about.finding import Finding, one_line
from tasks.core.config import CHECKPOINT, ConfigError, load
from tasks.core.log import Log
from tasks.runner.folders import output_path
from tasks.runner.full import is_full
from tasks.runner.graph import Entry, upstream, with_upstream
from tasks.runner.rooms import config_of, part_of, room_of


class ToyLog(Log):
    """Points of curves must be finite numbers, as in a real run; nothing is kept."""

    def __call__(self, step: int, **values: float) -> None:
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise FloatingPointError(f"step {step}: {wrong[0]} is no finite number")


def prepare(params: dict[str, Any], folder: Path, stages: list[str], to_run: list[Entry]) -> dict[str, Any]:
    """The toy params of all stages, once the inputs from outside the graph that some are to read are made in the folder."""
    toy = shrunk(params, stages, folder)
    for name in dict.fromkeys(entry.name for entry in to_run):
        if (room := part_of(name, "toy")) and hasattr(room, "inputs"):
            toy[name] |= room.inputs(params, folder)
    if any(uses_of_checkpoint(params, to_run)):
        narrow_checkpoint(Path(params[CHECKPOINT]["folder"]), folder / "data" / CHECKPOINT)
    return toy


def rehearse(
    params: dict[str, Any], graph: dict[str, Entry], addresses: list[str], folder: Path, toys: Toys | None = None
) -> list[Finding]:
    """Run the stages that these addresses need, each that can be, into folder/data; returns what failed. What has passed before
    is taken from `toys`, where the rest will need it. Prints the stage that it is at.

    A stage without a module of its own, and what follows a failed one, is left out. What an unexpected error printed is in
    <stage>.log in FOLDER.
    """
    edges, asked = upstream(graph), [address for address in addresses if room_of(graph[address].name)]
    order = [address for address in with_upstream(graph, asked) if room_of(graph[address].name)]
    stages = [entry.name for entry in graph.values()]
    keys = toys.keys(graph, order, edges, shrunk(params, stages, Path("toy"))) if toys else {}
    passed = {address for address in order if toys and toys.has(keys[address])}
    order = [address for address in unfinished(edges, asked, passed) if address in order]
    to_run = [address for address in order if address not in passed]
    if not to_run:
        return []
    try:
        toy = prepare(params, folder, stages, [graph[address] for address in to_run])
    except (ValueError, OSError) as error:
        what_to_do = _room(error, folder) or "no sample of them could be taken"
        return [Finding("the toy run's inputs", one_line(error), what_to_do)]
    problems, failed, found = dict[Any, Few](), set[str](), list[Finding]()
    for address in order:
        place = folder / "data" / output_path(graph[address])
        if failed & set(edges[address]):
            failed.add(address)
            continue
        if toys and address in passed:
            toys.lend(keys[address], place)
            continue
        print(f"{AT} {address} ({to_run.index(address) + 1} of {len(to_run)})", flush=True)
        wrong = rehearse_stage(graph[address], toy, folder, problems)
        wrong = wrong or [
            Finding(f"{address} (toy run)", str(one)) for one in check_artifacts(folder / "data", graph, [address])
        ]
        if wrong:
            failed.add(address)
            found += wrong
        elif toys:
            toys.keep(keys[address], place)
    return found


def _room(error: Exception, folder: Path) -> str:
    """What to do about an error that says that the toy run's folder is full; "" for any other."""
    full = isinstance(error, OSError) and is_full(error)
    return f"make room in {folder.parent}, or name another TMPDIR" if full else ""


def unfinished(edges: dict[str, list[str]], asked: list[str], passed: set[str]) -> list[str]:
    """What of these has not passed, all that it needs and has not passed either, and what those read; in order."""
    wanted, waiting = set[str](), [address for address in asked if address not in passed]
    while waiting:
        address = waiting.pop()
        if address not in wanted:
            wanted.add(address)
            waiting += edges[address] if address not in passed else []
    return [address for address in TopologicalSorter(edges).static_order() if address in wanted]


def rehearse_stage(entry: Entry, toy: dict[str, Any], folder: Path, problems: dict[Any, Few]) -> list[Finding]:
    """Run one stage; why it could not, if so."""
    module, where, data = room_of(entry.name), f"{entry.address} (toy run)", folder / "data"
    assert module
    (data / output_path(entry)).mkdir(parents=True)
    try:
        config = with_few_problems(load(entry.name, config_of(entry.name), toy), problems)
        metrics = module.run(config, data, ToyLog(), *([entry.item] if entry.item else []))
    except (ConfigError, FloatingPointError) as error:
        return [Finding(where, one_line(error), f"change the section {entry.name}")]
    except Exception as error:  # noqa: BLE001 - whatever it is, the stage would end with it
        if remedy := _room(error, folder):
            return [Finding(where, one_line(error), remedy)]
        FOLDER.mkdir(parents=True, exist_ok=True)
        log = FOLDER / f"{entry.address}.log"
        log.write_text(traceback.format_exc())
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {one_line(error)} ({Path(last.filename).name}:{last.lineno})"
        return [Finding(where, what, f"see {log}, and change the section {entry.name}")]
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        return [Finding(where, f"its metric {wrong[0]} is no finite number", f"change the section {entry.name}")]
    return []
