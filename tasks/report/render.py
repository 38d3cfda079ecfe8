"""The report: data/report/index.html, one file that needs nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.core.yaml import dump_yaml
from tasks.report import examples, words
from tasks.report.chart import line_chart
from tasks.report.drawing import graph
from tasks.report.read import Stage, read_facts, read_stages

# The ends of the interval of the figure over all sources; ingest lets no source have such a name.
NO_SOURCES = ("low", "high")


@dataclass(frozen=True)
class Curve:
    """One plot under its name, with the last value."""

    name: str
    last: float
    svg: Markup


def render(root: Path) -> Path:
    """Write the page for the pipeline in `root`; the same files give the same page. Returns its path."""
    path = root / "data" / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(root), encoding="utf-8")
    return path


def page(root: Path) -> str:
    """The page as text."""
    stages = read_stages(root)
    facts = read_facts(root)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {f.__name__: f for f in (words.number, words.size, words.duration, words.percent)}
    models = [s for s in stages if s.model]
    return environment.get_template("page.html").render(
        facts=facts,
        stages=stages,
        made=sum(s.current for s in stages),
        total=sum(s.timings.get("seconds", 0.0) for s in stages),
        longest=max((s.timings.get("seconds", 0.0) for s in stages), default=0.0),
        largest=max((s.timings.get("peak_memory_bytes", 0.0) for s in stages), default=0.0),
        graph=Markup(graph({s.name: s.needs for s in stages}, {s.name: _note(s) for s in stages})),
        models=models,
        sources=_by_source(models, "bits_per_byte_"),
        gzip=_by_source(models, "gzip_bits_per_byte_"),
        data=[(s, *s.flow, examples.kept(s.folder), examples.dropped(s.folder)) for s in stages if s.flow],
        answers=[(s, examples.answers(s.folder)) for s in models if s.current],
        curves=[(s, _curves(s), examples.samples(s.folder)) for s in stages if s.curves],
        params=_params(facts.params),
    )


def _note(stage: Stage) -> str:
    if not stage.current:
        return ""
    return words.duration(stage.timings.get("seconds")) if "seconds" in stage.timings else "time unknown"


def _curves(stage: Stage) -> list[Curve]:
    plots = ((name, points[-1][1], line_chart(points, f"{stage.name} {name}")) for name, points in stage.curves.items())
    return [Curve(name, last, Markup(svg)) for name, last, svg in plots if svg]


def _by_source(models: list[Stage], prefix: str) -> dict[str, float]:
    """The figure of each source under a prefix, sources sorted, from the first model that has one."""
    found = {k.removeprefix(prefix): v for s in reversed(models) for k, v in s.metrics.items() if k.startswith(prefix)}
    return {name: value for name, value in sorted(found.items()) if name not in NO_SOURCES}


def _params(params: dict[str, Any]) -> list[tuple[str, str]]:
    """Each section with its values as YAML."""
    texts = {name: dump_yaml(value) for name, value in params.items()}
    return [(name, text.removesuffix("...\n").strip()) for name, text in texts.items()]
