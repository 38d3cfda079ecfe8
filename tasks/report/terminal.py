"""The report as a table for the terminal."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tasks.report import paired
from tasks.report.frontier import FrontierPoint, frontier
from tasks.report.history import metrics_by_stage, read_runs, run_before
from tasks.report.read import Stage, not_comparable, read_facts, read_params, read_stages
from tasks.report.words import ABSENT, number, percent, size
from tasks.runner.columns import aligned

COSTS = [
    "model",
    "beside",
    "accuracy, in points",
    "bits/byte",
    "KL, nats/token",
    "bits/weight",
    "size",
    "tokens/s",
    "memory",
    "frontier",
]


def table(root: Path, asked: Collection[str] | None = None) -> str:
    """A line a model, one a model with its differences, then one a stage; plain aligned text. What has not run is `-`.

    asked: the stages to show; None: all. Beside accuracy and documents kept stands, in `before`, what they were in the last run
    that had other parameters or figures, where there was one.
    """
    every = read_stages(root)
    stages = [stage for stage in every if asked is None or stage.name in asked]
    before = run_before(read_runs(root), read_params(root), metrics_by_stage(every))
    models = [["model", "parameters", "size", "bits/byte", "gzip -9", "accuracy", "95% interval", "before", "tokens/s"]]
    for stage in (s for s in stages if s.model):
        was = before.figures.get(stage.name, {}) if before else {}
        m = stage.metrics
        low, high = m.get("accuracy_low"), m.get("accuracy_high")
        models.append([
            stage.model or "",
            number(m.get("parameters")),
            size(m.get("size_bytes")),
            _bits(m.get("bits_per_byte")) + _range(m.get("bits_per_byte_low"), m.get("bits_per_byte_high")),
            _bits(m.get("gzip_bits_per_byte")),
            percent(m.get("accuracy")),
            ABSENT if low is None or high is None else f"{percent(low)} to {percent(high)}",
            percent(was.get("accuracy")),
            number(stage.timings.get("tokens_per_second")),
        ])  # fmt: skip
    work = [["stage", "seconds", "peak memory", "kept", "before", "dropped", "commonest reason"]]
    for stage in stages:
        seconds = stage.timings.get("seconds")
        given, kept = stage.flow or (None, None)
        was = before.figures.get(stage.name, {}) if before else {}
        reason = next((f"{name} {number(count)}" for name, count in stage.drops.items()), "")
        work.append([
            stage.name,
            ABSENT if seconds is None else f"{seconds:.1f}",
            size(stage.timings.get("peak_memory_bytes")),
            "" if kept is None else number(kept),
            "" if kept is None else number(was.get("kept", was.get("documents"))),
            "" if kept is None or given is None else number(given - kept),
            reason,
        ])  # fmt: skip
    compared, beside = [COSTS], beside_of(every, root, stages)
    known = {stage.model for stage in stages}
    compared += [_place(place) for place in frontier(every, beside) if place.model in known]
    if len(compared) == 2:  # a model alone stands beside nothing
        compared = [COSTS]
    blocks = [
        rows if before else _without(rows, "before")
        for rows in (models, compared, _of_sets(stages, beside), work)
        if len(rows) > 1
    ]
    said = not_comparable(every) if len(models) > 1 else ""
    return "\n\n".join([*map(_aligned, blocks), *([said] if said else [])])


def stage_results(root: Path, asked: Collection[str] | None = None) -> dict[str, Any]:
    """Table for programs: of each stage whether it is up to date, its model, metrics and times; and of which code."""
    facts = read_facts(root)
    every = read_stages(root)
    stages = [stage for stage in every if asked is None or stage.name in asked]
    compared = beside_of(every, root, stages)
    places = {place.model: place for place in frontier(every, compared)}
    return {
        "revision": facts.revision,
        "dirty": facts.dirty,
        "stages": {
            stage.name: {
                "up_to_date": stage.current, "model": stage.model, "metrics": stage.metrics, "timings": stage.timings,
                **({"beside": compared[stage.model].row()} if stage.model in compared else {}),
                **({"frontier": places[stage.model].row()} if stage.model in places else {}),
            } for stage in stages
        },
    }  # fmt: skip


def beside_of(every: list[Stage], root: Path, stages: list[Stage]) -> dict[str, paired.ModelComparison]:
    """Each model of these stages beside another, which may be any."""
    asked = {stage.model for stage in stages}
    if not asked - {None}:
        return {}
    return {model: found for model, found in paired.compare_models(every, read_params(root)).items() if model in asked}


def _place(place: FrontierPoint) -> list[str]:
    found = place.beside
    return [
        place.model, found.other if found else ABSENT,
        (paired.format_points(found.accuracy) if found else "") or ABSENT,
        (paired.format_bits(found.bits_per_byte) if found else "") or ABSENT,
        (paired.format_nats(found.kl) if found else "") or ABSENT,
        ABSENT if place.bits is None else f"{place.bits:.2f}",
        size(place.bytes), number(place.tokens_per_second), size(place.memory), "" if place.dominated else "yes",
    ]  # fmt: skip


def _of_sets(stages: list[Stage], beside: dict[str, paired.ModelComparison]) -> list[list[str]]:
    """A row for each model and each problem set or task beside the first set."""
    rows = [["model", "asked", "questions", "accuracy", "95% interval", "beside", "in points"]]
    for stage in stages:
        for label in paired.labels_of(stage.metrics) if stage.model else []:
            m, found = stage.metrics, beside.get(stage.model or "")
            rows.append([
                stage.model or "", label,
                number(m.get(f"{label}_problems", m.get(f"{label}_questions"))),
                percent(m[f"{label}_accuracy"]),
                f"{percent(m[f'{label}_accuracy_low'])} to {percent(m[f'{label}_accuracy_high'])}",
                found.other if found and label in found.sets else ABSENT,
                paired.format_points(found.sets.get(label)) or ABSENT if found else ABSENT,
            ])  # fmt: skip
        for side in ("clean", "contaminated") if stage.model else ():
            if f"{side}_bits_per_byte" in stage.metrics:
                bits = (stage.metrics.get(f"{side}_bits_per_byte{end}") for end in ("", "_low", "_high"))
                value, low, high = bits
                rows.append([
                    stage.model or "", f"{side} documents", number(stage.metrics[f"{side}_documents"]),
                    f"{_bits(value)} bits/byte", _range(low, high).strip(" ()") or ABSENT, ABSENT, ABSENT,
                ])  # fmt: skip
    return rows


def _without(rows: list[list[str]], column: str) -> list[list[str]]:
    if column not in rows[0]:
        return rows
    place = rows[0].index(column)
    return [row[:place] + row[place + 1 :] for row in rows]


def _bits(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    """The 95% interval in brackets; nothing where there is none."""
    return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"


def _aligned(rows: list[list[str]]) -> str:
    """Names to the left, figures to the right, a closing text to the left."""
    closing = {len(rows[0]) - 1} if rows[0][-1] == "commonest reason" else set()
    return "\n".join(aligned(rows, {0} | closing))
