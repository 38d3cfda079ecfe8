"""Whether a study shows what a paper says of a method, computed from the study's result alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from flows.arena.statistics.flags import ENDED
from flows.arena.statistics.intervals import Interval
from flows.arena.statistics.ratios import Better, Comparison, Pair
from flows.arena.statistics.sequential import compare_at
from lm.config import Config, ConfigError, mistakes

Verdict = Literal["shown", "not shown at this size", "contradicted", "cannot be shown here"]


class Expected(Config):
    """The ratio, arm over baseline, that would show a claim here; on the other side of 1 than `better`, a margin within
    which the arm must be no worse."""

    ratio: float = Field(gt=0)
    better: Literal["lower", "higher"] = "lower"

    @property
    def is_margin(self) -> bool:
        """Whether the claim is that the arm is no worse."""
        return self.ratio > 1 if self.better == "lower" else self.ratio < 1


class Claim(Config):
    """What a paper says of a method, and how it would show here. room, method: what the arm of this name sets. paper: id
    of the paper in the project's table. quantity: of the study's comparisons. control: an arm that must be beaten too."""

    room: str
    method: Any
    paper: str | None = None
    source: str
    headline: str
    study: str | None = None
    quantity: str = "value"
    expects: Expected | None = None
    control: str | None = None
    cannot: str | None = Field(None, description="why it cannot be shown here, in place of a study")

    @model_validator(mode="after")
    def _either(self) -> "Claim":
        if (self.study is None) == (self.cannot is None):
            raise ValueError("a claim has a study, or says why it `cannot` be shown here")
        if self.study is not None and self.expects is None:
            raise ValueError("expects: what ratio would show it?")
        return self


def claims_of(values: Any, where: str) -> dict[str, Claim]:
    """The claims by method. Raises ConfigError, a line for every claim that is none."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: holds no claims by name")
    found, wrong = {}, []
    for name, value in values.items():
        try:
            found[name] = Claim.model_validate(value)
        except ValidationError as error:
            wrong.append(f"{where}: {name}: {mistakes(error)}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return found


def verdict_of(name: str, claim: Claim, result: dict[str, Any] | None) -> tuple[Verdict, str]:
    """(verdict, why in one line) of a claim by the result of its study."""
    if claim.cannot is not None or result is None or claim.expects is None:
        return "cannot be shown here", claim.cannot or "its study has not been held"
    row = row_of(name, claim, result)
    found = by_row(name, claim.expects, row, result)
    if found is None:
        return "not shown at this size", row["why"] or "too few pairs for an interval"
    verdict, why = found
    if row["verdict"] == "cannot be compared":
        return "not shown at this size", row["why"]
    same = equal_arms(result, name) if claim.quantity == "value" else []
    if result["baseline"] in same and not claim.expects.is_margin:
        return "not shown at this size", "its value is the baseline's in every run: it finds nothing here to act on"
    if verdict != "shown":
        return verdict, why
    if row["verdict"] == "worse" and row["pairs"] < len(pairs_of(result, name, result["baseline"])):
        return "not shown at this size", row["why"]  # within its margin in the pairs that it did not lose
    arm = next(each for each in result["arms"] if each["name"] == name)
    if doubt := next((line for line in arm["warnings"] if ENDED in line), None):
        return "not shown at this size", doubt
    if claim.control is not None:
        beside = beside_control(result, name, claim.control, row["level"])
        if beside.verdict != "better":
            return "not shown at this size", f"no better than its control {claim.control}: {beside.verdict}"
    return verdict, f"with the value of {' and '.join(same)} in every run" if same else why


def by_row(name: str, expected: Expected, row: dict[str, Any], result: dict[str, Any]) -> tuple[Verdict, str] | None:
    """(verdict, why) of a comparison alone, None where it has too few pairs: by its ratio; by the difference of the measure
    where that has none, as of an accuracy that is 0 in a run."""
    if None not in (row["ratio"], row["t"], row["bootstrap"]):
        return by_interval(expected, row["ratio"], row["t"], row["bootstrap"])
    if row.get("difference") is None or row["quantity"] != "value":
        return None
    found = by_difference(expected, pairs_of(result, name, result["baseline"]), result["looks"], row["level"])
    return found and (found[0], "; ".join(filter(None, (found[1], row["why"]))))


@dataclass(frozen=True)
class Apart:
    """How far an arm is from two things, each an interval of which the wider end of two counts, below 0 where it is better.

    one: from its baseline. other: from what was expected. by, most, allowed: in words, how far it is, may be, and what was
    expected. level: in words, what the interval holds where there may be no difference.
    """

    one: Interval
    other: Interval
    by: str
    most: str
    allowed: str
    level: str


def by_interval(expected: Expected, ratio: float, t: Interval, bootstrap: Interval) -> tuple[Verdict, str]:
    """(verdict, why) of a ratio with two intervals. Percentages are of the baseline's value."""
    one = wider(t, bootstrap, 1.0, expected.better)
    other = wider(t, bootstrap, expected.ratio, expected.better)
    return verdict_of_distances(
        expected,
        Apart(one, other, f"{abs(ratio - 1):.1%}", f"{abs(one[1]):.1%}", f"{abs(expected.ratio - 1):.1%}", "1"),
    )


def by_difference(
    expected: Expected, pairs: Sequence[Pair], looks: Sequence[int], level: float
) -> tuple[Verdict, str] | None:
    """(verdict, why) of pairs that have no ratio, since a value may be 0; None of too few.

    arm - ratio * baseline is better than 0 in the mean where the mean of the arm is better than `ratio` times that of the
    baseline, so that it answers what a ratio would, and divides by nothing.
    """
    scaled = [(arm, None if base is None else expected.ratio * base) for arm, base in pairs]
    one, other = (compare_at(each, looks, level, expected.better, scale="difference") for each in (pairs, scaled))
    if one.estimate is None or one.t is None or one.bootstrap is None or other.t is None or other.bootstrap is None:
        return None
    values = [base for arm, base in pairs if arm is not None and base is not None]
    ends = [
        wider(each, wide, 0.0, expected.better) for each, wide in ((one.t, one.bootstrap), (other.t, other.bootstrap))
    ]
    allowed = f"{abs(expected.ratio - 1):.1%} of {sum(values) / len(values):.4g}"
    return verdict_of_distances(
        expected, Apart(ends[0], ends[1], f"{abs(one.estimate):.4g}", f"{abs(ends[0][1]):.4g}", allowed, "0")
    )


def wider(t: Interval, bootstrap: Interval, origin: float, better: Better) -> Interval:
    """The ends of two intervals that lie furthest out, from an origin, turned so that below 0 is better."""
    low, high = min(t[0], bootstrap[0]) - origin, max(t[1], bootstrap[1]) - origin
    return (low, high) if better == "lower" else (-high, -low)


def verdict_of_distances(expected: Expected, apart: Apart) -> tuple[Verdict, str]:
    """(verdict, why) of how far an arm is from its baseline and from what was expected."""
    (best, worst), (best_beyond, worst_beyond) = apart.one, apart.other
    if expected.is_margin:
        if worst_beyond < 0:
            return "shown", ""
        if best_beyond > 0:
            return "contradicted", f"worse by more than the {apart.allowed} that were allowed"
        return "not shown at this size", f"may be worse by up to {apart.most}, and {apart.allowed} were allowed"
    if best > 0:
        return "contradicted", f"worse by {apart.by}"
    if not worst < 0:
        return "not shown at this size", f"the interval holds {apart.level}"
    if best_beyond > 0:
        return "not shown at this size", f"better by {apart.by}, where {apart.allowed} would show it"
    return "shown", ""


def row_of(name: str, claim: Claim, result: dict[str, Any]) -> dict[str, Any]:
    """The comparison of a claim's arm with its study's baseline. Raises ConfigError for an arm or a quantity that it has
    not."""
    for row in result["comparisons"]:
        if (row["arm"], row["quantity"]) == (name, claim.quantity):
            return dict(row)
    there = sorted({(row["arm"], row["quantity"]) for row in result["comparisons"]})
    raise ConfigError(
        f"claims.yaml: {name}: studies/{claim.study}.yaml compares no {claim.quantity} of it "
        f"(it has: {', '.join(' '.join(each) for each in there)})"
    )


def equal_arms(result: dict[str, Any], name: str) -> list[str]:
    """The other arms whose values are this one's with every seed that both had, to rounding."""
    runs = {arm["name"]: {run["seed"]: run["value"] for run in arm["runs"]} for arm in result["arms"]}
    return [
        other
        for other, values in runs.items()
        if other != name and (seeds := runs[name].keys() & values.keys())
        if all(None not in (pair := (runs[name][seed], values[seed])) and isclose(*pair) for seed in seeds)
    ]


def beside_control(result: dict[str, Any], name: str, control: str, level: float) -> Comparison:
    """The arm beside another one of its study, by the measure and over the seeds that both have, as its looks have it."""
    arms = [arm["name"] for arm in result["arms"]]
    if control not in arms:
        raise ConfigError(f"claims.yaml: {name}: control: the study has no arm {control!r} (arms: {', '.join(arms)})")
    return compare_at(pairs_of(result, name, control), result["looks"], level, result["measure"]["better"])


def pairs_of(result: dict[str, Any], name: str, other: str) -> list[Pair]:
    """(arm, other) of each seed that both have run, in their order."""
    runs = {arm["name"]: {run["seed"]: run["value"] for run in arm["runs"]} for arm in result["arms"]}
    return [(runs[name][seed], runs[other][seed]) for seed in sorted(runs[name].keys() & runs[other].keys())]
