"""The report: data/report/index.html, one file that needs nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.core.yaml import dump_yaml
from tasks.report import examples, paired, words
from tasks.report.chart import line_chart
from tasks.report.curves import write_curves
from tasks.report.drawing import graph
from tasks.report.frontier import FrontierPoint, frontier
from tasks.report.history import metrics_by_stage, params_changed, read_runs, run_before
from tasks.report.read import Stage, not_comparable, read_facts, read_stages
from tasks.report.rollouts import rollouts
from tasks.report.scatter import ScatterPoint, scatter

# The ends of the interval of the figure over all sources; ingest lets no source have such a name.
NO_SOURCES = ("low", "high")


# What figures of a strategy of decoding begin with
DECODING = "decoding_"


@dataclass(frozen=True)
class DecodingPoint:
    """What a strategy of decoding gets right, with its interval, and what it spends a problem."""

    name: str
    accuracy: float
    low: float
    high: float
    tokens: float
    passes: float


@dataclass(frozen=True)
class Curve:
    """One plot under its name, with the last value."""

    name: str
    last: float
    svg: Markup


def render(root: Path) -> Path:
    """Write the page for the pipeline in `root`, and the curves for `dvc plots`; the same files give the same. Returns the path
    of the page."""
    stages = read_stages(root)
    write_curves(root, stages)
    path = root / "data" / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(root, stages), encoding="utf-8")
    return path


def page(root: Path, stages: list[Stage]) -> str:
    """The page as text."""
    facts = read_facts(root)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {f.__name__: f for f in (words.number, words.size, words.duration, words.percent)}
    environment.filters |= {
        "points": paired.format_points,
        "bits": paired.format_bits,
        "nats": paired.format_nats,
        "labels": paired.labels_of,
    }
    models = [s for s in stages if s.model]
    runs = read_runs(root)
    before = run_before(runs, facts.params, metrics_by_stage(stages))
    beside = paired.compare_models(stages, facts.params)
    places = frontier(stages, beside)
    return environment.get_template("page.html").render(
        facts=facts,
        headline=_headline(models),
        run=runs[-1] if runs else None,
        before=before,
        changed=params_changed(before.params, facts.params) if before else [],
        against_size=Markup(scatter(_dots(models, places))),
        stages=stages,
        made=sum(s.current for s in stages),
        total=sum(s.timings.get("seconds", 0.0) for s in stages),
        longest=max((s.timings.get("seconds", 0.0) for s in stages), default=0.0),
        largest=max((s.timings.get("peak_memory_bytes", 0.0) for s in stages), default=0.0),
        graph=Markup(graph({s.name: s.needs for s in stages}, {s.name: _note(s) for s in stages})),
        models=models,
        beside=beside,
        frontier=places,
        not_comparable=not_comparable(stages),
        decoding=[(s, spent) for s in models if (spent := _spent(s.metrics))],
        sources=_by_source(models, "bits_per_byte_"),
        gzip=_by_source(models, "gzip_bits_per_byte_"),
        gzip_all=next((s.metrics["gzip_bits_per_byte"] for s in models if "gzip_bits_per_byte" in s.metrics), None),
        data=[
            (s, *s.flow, examples.kept_documents(s.folder), examples.dropped_documents(s.folder))
            for s in stages
            if s.flow
        ],
        answers=[(s, examples.sample_answers(s.folder)) for s in models if s.current],
        curves=[(s, _curves(s), _level(s), examples.samples(s.folder), rollouts(s.folder)) for s in stages if s.curves],
        params=_params(facts.params),
    )


def _headline(models: list[Stage]) -> str:
    """What the last model that is current can do, and in how many bytes; empty where none is."""
    found = [s for s in models if s.current and "accuracy" in s.metrics and "size_bytes" in s.metrics]
    if not found:
        return ""
    m = found[-1].metrics
    bits = f", {m['bits_per_byte']:.3f} bits per byte" if "bits_per_byte" in m else ""
    return f"{found[-1].model}: {words.percent(m['accuracy'])} right{bits}, in {words.size(m['size_bytes'])}"


def _dots(models: list[Stage], places: list[FrontierPoint]) -> list[ScatterPoint]:
    keys, pale = ("size_bytes", "accuracy", "accuracy_low", "accuracy_high"), {p.model for p in places if p.dominated}
    found = [(s.model or "", [s.metrics[k] for k in keys]) for s in models if all(k in s.metrics for k in keys)]
    return [ScatterPoint(name, size, share, low, high, name in pale) for name, (size, share, low, high) in found]


def _spent(metrics: dict[str, float]) -> list[DecodingPoint]:
    """What each strategy that was asked for spends, the least first."""
    names = [
        key[len(DECODING) : -len("_tokens")] for key in metrics if key.startswith(DECODING) and key.endswith("_tokens")
    ]
    figures = ("accuracy", "accuracy_low", "accuracy_high", "tokens", "passes")
    found = [DecodingPoint(name, *(metrics[f"{DECODING}{name}_{figure}"] for figure in figures)) for name in names]
    return sorted(found, key=lambda one: (one.tokens, one.name))


def _note(stage: Stage) -> str:
    """What a stage's box says: the documents it kept, the steps it trained, what a model gets right; its time is elsewhere."""
    if not stage.current:
        return ""
    if stage.flow:
        return f"{words.number(stage.flow[1])} documents"
    if "accuracy" in stage.metrics:
        return f"{words.percent(stage.metrics['accuracy'])} right"
    return words.pluralize(int(stage.metrics["steps"]), "step") if "steps" in stage.metrics else "done"


def _curves(stage: Stage) -> list[Curve]:
    """The curves that rise or fall somewhere, and those of one point."""
    drawn = {n: points for n, points in stage.curves.items() if n not in dict(_level(stage))}
    plots = ((name, points[-1][1], line_chart(points, f"{stage.name} {name}")) for name, points in drawn.items())
    return [Curve(name, last, Markup(svg)) for name, last, svg in plots if svg]


def _level(stage: Stage) -> list[tuple[str, float]]:
    """The curves that have one value at every step, of which a picture would say nothing."""
    values = ((name, {y for _, y in points}, len(points)) for name, points in stage.curves.items())
    return [(name, next(iter(found))) for name, found, count in values if count > 1 and len(found) == 1]


def _by_source(models: list[Stage], prefix: str) -> dict[str, float]:
    """The figure of each source under a prefix, sources sorted, from the first model that has one."""
    found = {k.removeprefix(prefix): v for s in reversed(models) for k, v in s.metrics.items() if k.startswith(prefix)}
    return {name: value for name, value in sorted(found.items()) if name not in NO_SOURCES}


def _params(params: dict[str, Any]) -> list[tuple[str, str]]:
    """Each section with its values as YAML."""
    texts = {name: dump_yaml(value) for name, value in params.items()}
    return [(name, text.removesuffix("...\n").strip()) for name, text in texts.items()]
