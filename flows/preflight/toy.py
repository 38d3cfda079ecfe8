"""The real graph at toy width: the `run` of every stage, with the methods that params name, in this process."""

import math
import traceback
from pathlib import Path
from typing import Any

from flows.preflight.artefacts import check_artefacts
from flows.preflight.finding import Finding, one_line
from flows.preflight.inputs import uses_of_checkpoint
from flows.preflight.rooms import before, needed, room_of
from flows.preflight.sample import narrow_checkpoint, sample_sources
from flows.preflight.shrink import Few, shrunk, with_few_problems
from tasks.core.config import ConfigError, load
from tasks.core.folders import inside
from tasks.core.graph import Entry
from tasks.core.log import Log


class ToyLog(Log):
    """Points of curves must be finite numbers, as in a real run; nothing is kept."""

    def __call__(self, step: int, **values: float) -> None:
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise FloatingPointError(f"step {step}: {wrong[0]} is no finite number")


def prepare(params: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The toy params, once the inputs they name are made in the folder."""
    toy = shrunk(params, str(folder / "raw"), str(folder / "checkpoint"))
    if room_of("ingest"):
        from tasks.ingest.stage import IngestConfig

        toy["ingest"]["sources"] = sample_sources(load("ingest", IngestConfig, params), folder / "raw")
    if any(uses_of_checkpoint(params)):
        narrow_checkpoint(Path(params["checkpoint"]["folder"]), folder / "checkpoint")
    return toy


def rehearse(params: dict[str, Any], graph: dict[str, Entry], addresses: list[str], folder: Path) -> list[Finding]:
    """Run the stages that these addresses need, each that can be, into folder/data; returns what failed.

    A stage without a module of its own, and what follows a failed one, is left out. What an unexpected error printed is in
    <stage>.log beside the folder.
    """
    order = [address for address in needed(graph, addresses) if room_of(graph[address].name)]
    if not order:
        return []
    try:
        toy = prepare(params, folder)
    except (ValueError, OSError) as error:
        return [Finding("params.yaml: ingest.sources", one_line(error), "no sample of them could be taken")]
    edges, problems, failed, found = before(graph), dict[Any, Few](), set[str](), list[Finding]()
    for address in order:
        if failed & set(edges[address]):
            failed.add(address)
            continue
        wrong = rehearse_stage(graph[address], toy, folder, problems)
        wrong = wrong or [
            Finding(f"{address} (toy run)", str(one)) for one in check_artefacts(folder / "data", graph, [address])
        ]
        if wrong:
            failed.add(address)
            found += wrong
    return found


def rehearse_stage(entry: Entry, toy: dict[str, Any], folder: Path, problems: dict[Any, Few]) -> list[Finding]:
    """Run one stage; why it could not, if so."""
    module, where, data = room_of(entry.name), f"{entry.address} (toy run)", folder / "data"
    assert module
    (data / inside(entry)).mkdir(parents=True)
    try:
        config = with_few_problems(load(entry.name, getattr(module, f"{entry.name.capitalize()}Config"), toy), problems)
        metrics = module.run(config, data, ToyLog(), *([entry.item] if entry.item else []))
    except (ConfigError, FloatingPointError) as error:
        return [Finding(where, one_line(error), f"change the section {entry.name}")]
    except Exception as error:  # noqa: BLE001 - whatever it is, the stage would end with it
        log = folder.with_name(f"{entry.address}.log")
        log.write_text(traceback.format_exc())
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {one_line(error)} ({Path(last.filename).name}:{last.lineno})"
        return [Finding(where, what, f"see {log}, and change the section {entry.name}")]
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        return [Finding(where, f"its metric {wrong[0]} is no finite number", f"change the section {entry.name}")]
    return []
