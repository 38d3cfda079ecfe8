"""What a study found, worked out of its records: means, order of arms, costs, warnings, and the sentence that stands on top."""

import shlex
from dataclasses import dataclass

from flows.arena.pages.figures import compact, interval, ratio, signed
from flows.arena.pages.records import Arm, Comparison, Cost, Estimate, Study, Trial, one_line
from tasks.report.words import ABSENT, number, pluralize

BETTER, WORSE, ALIKE, APART = "better", "worse", "no difference", "cannot be compared"
VALUE = "value"
DIFFERENCE = "diff "  # before a figure that is no ratio, in a column of ratios
NAMED = 3  # methods of a verdict that the sentence names before it counts


@dataclass(frozen=True)
class Row:
    """An arm as a line of the table. value: mean over the runs that have one; comparison: of that value, None of the baseline.

    diverged, reached: runs that did so, the latter the target.
    """

    arm: Arm
    value: float | None
    comparison: Comparison | None
    runs: Cost
    diverged: int
    reached: int


def rows(study: Study) -> list[Row]:
    """Arms by their value, the best first; those without one at the end, then by name."""
    compared = {c.arm: c for c in study.comparisons if c.quantity == VALUE}
    sign = 1 if study.measure.better == "lower" else -1
    found = [_row(arm, compared.get(arm.name)) for arm in study.arms]
    return sorted(found, key=lambda r: (r.value is None, sign * (r.value or 0.0), r.arm.name))


def _row(arm: Arm, comparison: Comparison | None) -> Row:
    values = [run.value for run in arm.runs if run.value is not None]
    spent = Cost(seconds=sum(run.seconds for run in arm.runs), flop=sum(run.flop for run in arm.runs))
    return Row(
        arm=arm,
        value=sum(values) / len(values) if values else None,
        comparison=comparison,
        runs=spent,
        diverged=sum(run.diverged for run in arm.runs),
        reached=sum(run.to_target is not None for run in arm.runs),
    )


def said(comparison: Comparison) -> dict[str, str]:
    """Texts of a comparison: ratio, both intervals, verdict, and a note with its pairs and reason."""
    notes = [pluralize(comparison.pairs, "pair"), "stopped early" if comparison.stopped_early else "", comparison.why]
    figure, t, bootstrap = estimated(comparison)
    note = ", ".join(note for note in notes if note)
    return {"ratio": figure, "t": t, "bootstrap": bootstrap, "verdict": comparison.verdict, "note": note}


def estimated(found: Estimate) -> tuple[str, str, str]:
    """Texts of a ratio and of its t and bootstrap intervals; of a difference, with signs, where there is no ratio."""
    if found.ratio is None and found.difference is not None:
        d = found.difference
        t, bootstrap = (f"{signed(ends[0])} to {signed(ends[1])}" if ends else ABSENT for ends in (d.t, d.bootstrap))
        return f"{DIFFERENCE}{signed(d.mean)}", t, bootstrap
    return ratio(found.ratio), interval(found.t), interval(found.bootstrap)


def reasons(study: Study) -> list[str]:
    """What there is to say of comparisons beside their figures: why a verdict, and which were stopped early.

    Said once of an arm, whatever number of quantities it is so of.
    """
    compared = [*(row.comparison for row in rows(study) if row.comparison is not None), *others(study)]
    found: dict[tuple[str, str], list[str]] = {}
    for c in compared:
        early = f"stopped early at {pluralize(c.pairs, 'pair')}" if c.stopped_early and c.quantity == VALUE else ""
        for text in filter(None, (early, c.why)):
            found.setdefault((c.arm, text), []).append(quantity(c.quantity, study))
    return [f"{arm}, {', '.join(names)}: {text}" for (arm, text), names in found.items()]


def others(study: Study) -> list[Comparison]:
    """Comparisons of all but the value: quantities in the order in which they first come, arms as `rows` has them."""
    place = {row.arm.name: i for i, row in enumerate(rows(study))}
    quantities = list(dict.fromkeys(c.quantity for c in study.comparisons if c.quantity != VALUE))
    found = [c for c in study.comparisons if c.quantity != VALUE]
    return sorted(found, key=lambda c: (quantities.index(c.quantity), place.get(c.arm, len(place)), c.arm))


def chosen_trial(arm: Arm) -> Trial | None:
    """The trial whose parameters the runs have, which need not be the one of the best value; None where all diverged."""
    own = arm.params.items()
    return next((trial for trial in arm.trials if trial.value is not None and trial.params.items() <= own), None)


def setting(trial: Trial) -> str:
    """Parameters of a trial as `pretrain.optimizer.lr=0.01, ...`, keys in the trial's order."""
    return ", ".join(f"{key}={parameter(value)}" for key, value in trial.params.items())


def parameter(value: object) -> str:
    """A parameter's value: four significant digits of a number, all else as it prints."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return one_line(str(value))


def plain(name: str) -> str:
    """A metric's name as words."""
    return name.replace("_", " ")


def quantity(name: str, study: Study) -> str:
    """A compared quantity as words: `bits per byte`, `tokens to 2.4`."""
    if name == VALUE:
        return plain(study.measure.name)
    what, to, rest = name.partition("_to_target")
    if not to or rest:
        return plain(name)
    return f"{'FLOP' if what == 'flop' else what} to {'the target' if study.target is None else number(study.target)}"


def lower_is_better(name: str, study: Study) -> bool:
    """Whether a ratio below 1 speaks for an arm: of the value as the measure says, of what is spent always."""
    return name != VALUE or study.measure.better == "lower"


def budget(study: Study) -> str:
    """`300,000 tokens`."""
    words = {"flop": "FLOP", "bytes": "bytes on disk"}
    parts = [
        f"{compact(amount) if unit == 'flop' else number(amount)} {words.get(unit, plain(unit))}"
        for unit, amount in study.budget.items()
    ]
    return ", ".join(parts) or "none"


def warnings(study: Study) -> list[str]:
    """The study's warnings, then those of each arm behind its name, arms as the study has them.

    Runs that diverged are counted where the arm's own warnings do not speak of it.
    """
    found = list(study.warnings)
    for arm in study.arms:
        diverged = sum(run.diverged for run in arm.runs)
        counts = [f"{diverged} of {pluralize(len(arm.runs), 'run')} diverged"] if diverged else []
        own = [*arm.warnings, *(counts if not any("diverged" in text for text in arm.warnings) else [])]
        found += [text if text.startswith(arm.name) else f"{arm.name}: {text}" for text in own]
    return found


def noise(study: Study) -> str:
    """How far the baseline is from itself with other seeds, which is no less than at the same ones, and what can be told
    apart beside that."""
    found = study.noise
    if found is None:
        return "Noise floor: not measured."
    figure, t, bootstrap = estimated(found)
    ends = f"t {t}, bootstrap {bootstrap}, {pluralize(found.pairs, 'run')} of each, unpaired: an upper bound"
    is_ratio = found.ratio is not None or found.difference is None
    of = "against itself is" if is_ratio else "differs from itself by"
    said = f"Noise floor: {study.baseline} {of} {figure.removeprefix(DIFFERENCE)} ({ends})."
    if study.power is None:
        return said
    return (
        f"{said} By the spread of pairs {pluralize(study.seeds, 'seed')} find a gain of {1 - study.power.ratio:.1%} in "
        f"{study.power.power:.0%} of studies; one of 1% takes {study.power.seeds_for_1_percent}."
    )


def command(study: Study) -> str:
    """The command that runs the study again."""
    return study.command or f"make study STUDY={shlex.quote(f'studies/{study.name}.yaml')}"


def headline(study: Study) -> str:
    """What the study found, in a sentence or two."""
    compared = [row.comparison for row in rows(study) if row.comparison is not None]
    if not compared:
        return f"{study.baseline} alone: nothing was compared with it."
    if len(compared) == 1:
        return _one(compared[0], study)
    groups = {name: [c for c in compared if c.verdict == name] for name in dict.fromkeys(_known(compared))}
    parts = [f"{len(found)} {_group(name)} ({_names(found)})" for name, found in groups.items()]
    return f"Of {len(compared)} methods against {study.baseline}, {', '.join(parts)}."


def _known(compared: list[Comparison]) -> list[str]:
    """The verdicts that there are, the well known ones first."""
    there = [c.verdict for c in compared]
    return [name for name in (BETTER, WORSE, ALIKE, APART) if name in there] + there


def _group(verdict: str) -> str:
    return {ALIKE: "without a difference", APART: "that cannot be compared"}.get(verdict, verdict)


def _names(found: list[Comparison]) -> str:
    texts = [(c.arm, ABSENT if c.verdict == APART else estimated(c)[0]) for c in found[:NAMED]]
    named = [name if figure == ABSENT else f"{name} {figure}" for name, figure in texts]
    more = len(found) - NAMED
    return ", ".join([*named, f"{more} more"] if more > 0 else named)


def _one(c: Comparison, study: Study) -> str:
    """The finding on a single method."""
    if c.verdict == APART:
        return f"{c.arm} cannot be compared with {c.baseline}{f': {c.why}' if c.why else ''}."
    estimate, t, _ = estimated(c)
    ends = pluralize(c.pairs, "pair") if t == ABSENT else f"{100 * c.level:g}% interval {t}"
    name = plain(study.measure.name)
    figure = f"{estimate} times its {name} ({ends})"
    if c.ratio is None:
        figure = f"a difference of {estimate.removeprefix(DIFFERENCE)} in {name} ({ends})"
    if c.verdict not in (BETTER, WORSE):
        return f"{c.arm} against {c.baseline}, {c.verdict}: {figure}."
    spent = next((o for o in others(study) if (o.arm, o.quantity) == (c.arm, "tokens_to_target")), None)
    tokens = (
        f" It needs {ratio(spent.ratio)} times the {quantity(spent.quantity, study)}." if spent and spent.ratio else ""
    )
    return f"{c.arm} is {c.verdict} than {c.baseline}: {figure}.{tokens}"
