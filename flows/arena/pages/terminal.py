"""A study as plain text for the terminal: what was found, arms by value, what they cost, the noise floor, warnings."""

import textwrap

from flows.arena.pages import findings
from flows.arena.pages.figures import FLOP_IS, measured, power
from flows.arena.pages.findings import Row
from flows.arena.pages.records import Comparison, Study, read_study
from tasks.report.words import ABSENT, duration, number, pluralize
from tasks.runner.columns import aligned

WIDTH = 100
LEAST, MOST = 8, 50  # columns that a cut name keeps, columns of another cell for which a name is cut
LEFT = {"arm", "quantity", "verdict", "at"}  # columns of texts, which stand to the left


def table(text: str) -> str:
    """The table of a study, from the text of its result.json; no line is longer than WIDTH. Raises ValueError."""
    study = read_study(text)
    arms = findings.rows(study)
    blocks = [
        "\n".join([*_wrapped(findings.headline(study)), *_wrapped(_how(study))]),
        _block(_values(arms, study)),
        "\n".join([_block(_others(study)), *_wrapped(FLOP_IS)]) if findings.others(study) else "",
        _block(_costs(arms, study)),
        _block(_searches(arms)),
        "\n".join(line for text in [*findings.reasons(study), findings.noise(study)] for line in _wrapped(text)),
        "\n".join(line for warning in findings.warnings(study) for line in _wrapped(f"warning: {warning}")),
        "\n".join(_wrapped(_where(study)) + _wrapped(f"again: {findings.command(study)}")),
    ]
    return "\n\n".join(block for block in blocks if block)


def _how(study: Study) -> str:
    m = study.measure
    of = f" of {m.stage}" if m.stage else ""
    target = "" if study.target is None else f", target {number(study.target)}"
    return (
        f"{findings.plain(m.name).capitalize()}{of} ({m.better} is better) at {findings.budget(study)}{target}; "
        f"{pluralize(study.seeds, 'seed')}, {pluralize(study.trials, 'trial')} an arm."
    )


def _where(study: Study) -> str:
    parts = [study.machine, f"commit {study.commit}" if study.commit else "", study.date or "date not known"]
    return ", ".join(part for part in parts if part)


def _values(arms: list[Row], study: Study) -> list[list[str]]:
    head = ["arm", _cut(findings.plain(study.measure.name), 14), "ratio", "t", "bootstrap", "verdict"]
    return [head, *([row.arm.name, measured(row.value), *_compared(row, study)] for row in arms)]


def _compared(row: Row, study: Study) -> list[str]:
    if row.comparison is None:
        return [ABSENT, ABSENT, ABSENT, "baseline" if row.arm.name == study.baseline else ABSENT]
    return _cells(row.comparison)


def _cells(comparison: Comparison) -> list[str]:
    said = findings.said(comparison)
    return [said["ratio"], said["t"], said["bootstrap"], _cut(said["verdict"], 18)]


def _others(study: Study) -> list[list[str]]:
    found = [[c.arm, _cut(findings.quantity(c.quantity, study), 20), *_cells(c)] for c in findings.others(study)]
    return [["arm", "quantity", "ratio", "t", "bootstrap", "verdict"], *found] if found else []


def _costs(arms: list[Row], study: Study) -> list[list[str]]:
    head = ["arm", "search time", "search FLOP", "run time", "run FLOP", "runs", "diverged", "reached"]
    found = [
        [
            row.arm.name, duration(row.arm.search.seconds), power(row.arm.search.flop),
            duration(row.runs.seconds), power(row.runs.flop),
            number(len(row.arm.runs)), number(row.diverged), number(row.reached),
        ]
        for row in arms
    ]  # fmt: skip
    return [line if study.target is not None else line[:-1] for line in [head, *found]]


def _searches(arms: list[Row]) -> list[list[str]]:
    """What each arm's search chose, by the mean of a trial's neighbourhood; nothing where no arm was searched."""
    found = []
    for row in arms:
        chosen = findings.chosen_trial(row.arm)
        count = [number(len(row.arm.trials)), number(sum(trial.diverged for trial in row.arm.trials))]
        found.append(
            [
                row.arm.name,
                *count,
                *([measured(chosen.value), findings.setting(chosen)] if chosen else [ABSENT, ABSENT]),
            ]
        )
    return [["arm", "trials", "diverged", "chosen", "at"], *found] if any(row.arm.trials for row in arms) else []


def _block(lines: list[list[str]]) -> str:
    """The cells in columns; names are cut in the middle to what other columns leave, then a line at its end."""
    if not lines:
        return ""
    taken = sum(min(max(map(len, column)), MOST) + 2 for column in list(zip(*lines, strict=True))[1:])
    names = max(LEAST, min(max(len(line[0]) for line in lines), WIDTH - taken))
    cut = [[_cut(line[0], names), *line[1:]] for line in lines]
    left = {i for i, name in enumerate(lines[0]) if name in LEFT}
    return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 2]}.." for line in aligned(cut, left))


def _cut(text: str, width: int) -> str:
    """The text, or its two ends around `..`: names differ at either."""
    if len(text) <= width:
        return text
    end = (width - 2) // 2
    return f"{text[: width - 2 - end]}..{text[len(text) - end :]}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")
