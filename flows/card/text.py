"""A card as text, in the Hub's format: YAML for machines, then Markdown for readers, and its own digest in the last line."""

import hashlib
from typing import Any

from flows.card.lineage import Lineage
from tasks.about.finding import one_line
from tasks.core.yaml import YAMLError, dump_yaml, parse_yaml
from tasks.report.words import duration, number, percent, size

SEAL = "<!-- sha256 of all above: {} -->\n"
# What of the scores is a share; all else is told as it is
SHARES = ("accuracy", "choices", "needle")


def card_text(lineage: Lineage, files: dict[str, str], license_name: str, notes: str) -> str:
    """files: sha256 of each file that the card lies beside. notes: of the user, Markdown, after the title."""
    rows = [[f"`{name}`", f"`{digest}`"] for name, digest in files.items()]
    parts = [
        f"---\n{dump_yaml(front(lineage, license_name))}---\n",
        f"# {lineage.model}\n",
        opening(lineage),
        notes.strip(),
        *[f"## {title}\n\n{section}" for title, section in sections(lineage).items()],
        f"## Files\n\n{table(['file', 'sha256'], rows)}",
    ]
    text = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n\n"
    return text + SEAL.format(digest_of(text))


def sections(lineage: Lineage) -> dict[str, str]:
    """What stands between the notes and the files, by titles, in their order."""
    return {
        "Scores": scores(lineage.scores),
        "Data": data(lineage),
        "Training": training(lineage),
        "Made of": digests(lineage),
    }


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def front(lineage: Lineage, license_name: str) -> dict[str, Any]:
    """What the Hub reads: no language and no base model is claimed, since the pipeline knows neither."""
    metrics = [
        {"type": name, "value": value, "name": name}
        for name, value in sorted(lineage.scores.items())
        if not name.endswith(("_low", "_high")) and name not in ("parameters", "size_bytes")
    ]
    data = {"name": "held out by tokenmill", "type": "tokenmill"}
    result = {"task": {"type": "text-generation"}, "dataset": data, "metrics": metrics}
    known = {"license": license_name} if license_name else {}
    return {
        **known,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tokenmill"],
        "model-index": [{"name": lineage.model, "results": [result]}],
    }


def opening(lineage: Lineage) -> str:
    facts = lineage.facts
    made = f"revision `{facts.revision}`" if facts.revision else "a checkout without git"
    changed = ", with changes that are not committed," if facts.dirty else ""
    return (
        f"{measures(lineage)} Made by tokenmill from {made}{changed} with parameters of digest `{facts.digest}`. Everything "
        "below is what the pipeline recorded; licences of the data are not known to it."
    )


def measures(lineage: Lineage) -> str:
    """How large the model is, in the sentence that the card begins with."""
    bits = next((s.metrics.get("bits_per_weight") for s in lineage.stages if s.name == lineage.model), None)
    stored = f", {bits:.2f} bits a weight" if bits else ""
    found = lineage.scores
    return f"{number(found.get('parameters'))} parameters, {size(found.get('size_bytes'))}{stored}."


def scores(found: dict[str, float]) -> str:
    """A row for each score, with its interval where it has one."""
    rows = []
    for name, value in sorted(found.items()):
        if name.endswith(("_low", "_high")):
            continue
        low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
        between = (
            f"{format_score(name, low)} to {format_score(name, high)}" if low is not None and high is not None else ""
        )
        rows.append([name, format_score(name, value), between])
    return table(["score", "value", "interval"], rows)


def format_score(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if (name.startswith(SHARES) or name.endswith("_accuracy")) and 0 <= value <= 1:
        return percent(value)
    return f"{int(value):,}" if value == int(value) else f"{value:.4g}"


def data(lineage: Lineage) -> str:
    """What came in by source, and what each stage kept of it and why it dropped the rest."""
    first = lineage.stages[0].metrics
    sources = [name.removeprefix("documents_") for name in first if name.startswith("documents_")]
    rows = [[name, number(first[f"documents_{name}"]), size(first.get(f"bytes_{name}"))] for name in sorted(sources)]
    flows = []
    for stage in lineage.stages:
        if stage.flow is not None:
            given, kept = stage.flow
            why = ", ".join(f"{reason} {count}" for reason, count in stage.drops.items())
            flows.append([stage.name, number(given), number(kept), why])
    text = table(["source", "documents", "size"], rows) + "\n\n" if rows else ""
    return text + table(["stage", "documents", "kept", "dropped for"], flows)


def training(lineage: Lineage) -> str:
    """A row for each stage with its figures and seconds, then the parameters of all of them."""
    rows = []
    for stage in lineage.stages:
        shown = {name: value for name, value in sorted(stage.metrics.items()) if not name.startswith("dropped")}
        figures = ", ".join(f"{name} {format_score(name, value)}" for name, value in shown.items())
        rows.append([stage.name, figures, duration(stage.timings.get("seconds"))])
    said = lineage.facts.params
    names = ["seed", "problems", *dict.fromkeys(stage.name.partition("@")[0] for stage in lineage.stages)]
    params = {name: said[name] for name in names if name in said}
    return f"{table(['stage', 'figures', 'took'], rows)}\n\n```yaml\n{dump_yaml(params)}```"


def digests(lineage: Lineage) -> str:
    """DVC's digests of what each stage made: `dvc pull` of the revision brings these bytes back, `make reproduce` makes
    them."""
    return table(["output", "md5"], [[f"`{path}`", f"`{md5}`"] for path, md5 in lineage.made.items()])


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *[[cell(text) for text in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """A text on one line, without what would end the cell or begin HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def scores_in_front_matter(text: str) -> dict[str, float]:
    """The scores that a card's front matter has. Raises ValueError where it is no card of this kind."""
    try:
        head = parse_yaml(text.split("---\n")[1])
        metrics = head["model-index"][0]["results"][0]["metrics"]
        return {str(each["type"]): float(each["value"]) for each in metrics}
    except (YAMLError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"its first lines are not those of a card: {one_line(error)}") from None
