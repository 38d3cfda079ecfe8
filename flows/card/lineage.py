"""What a model comes from: the stages before it and the evaluation behind it, all as dvc.lock has them."""

from dataclasses import dataclass
from pathlib import Path

from tasks.report.read import EVALUATE, Facts, Stage, read_facts, read_stages
from tasks.runner.graph import closure, read_graph, upstream
from tasks.runner.lock import locked_in, md5s


@dataclass(frozen=True)
class Lineage:
    """stages: from the first source on, the model's own last. scores: metrics of its evaluation. made: DVC's md5 of the output
    of each stage, the evaluation's metrics among them, by path."""

    model: str
    stages: list[Stage]
    scores: dict[str, float]
    made: dict[str, str]
    facts: Facts


def lineage_of(root: Path, model: str) -> Lineage:
    """Raises ValueError, in a line, where there is no such model, or it or what it comes from is not up to date."""
    graph, locked = read_graph(root), locked_in(root) or {}
    known = {stage.name: stage for stage in read_stages(root)}
    evaluation = f"{EVALUATE}{model}"
    if model not in graph or evaluation not in graph:
        there = ", ".join(name.removeprefix(EVALUATE) for name in graph if name.startswith(EVALUATE))
        raise ValueError(f"card: no evaluated model {model!r} (there are: {there})")
    wanted = closure(upstream(graph), [model, evaluation])
    order = [address for address in graph if address in wanted]
    if stale := [address for address in order if address not in known or not known[address].current]:
        raise ValueError(f"card: {stale[0]} is not up to date, so that nothing can be said of {model}: make pipeline")
    made = {path: md5 for address in order for path, md5 in md5s(locked.get(address), "outs").items()}
    kept = {path: md5 for path, md5 in made.items() if not path.startswith("data/keys/")}
    stages = [known[address] for address in order if address != evaluation]
    return Lineage(model, stages, known[evaluation].metrics, kept, read_facts(root))
