"""Whether a study shows what a paper says of a method, computed from the study's result alone."""

from math import isclose
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from flows.arena.statistics.flags import ENDED
from flows.arena.statistics.ratios import Comparison
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
    if row["ratio"] is None or row["t"] is None or row["bootstrap"] is None:
        return "not shown at this size", row["why"] or "too few pairs for an interval"
    verdict, why = by_interval(claim.expects, row["ratio"], row["t"], row["bootstrap"])
    if row["verdict"] == "cannot be compared":
        return "not shown at this size", row["why"]
    same = equal_arms(result, name)
    if result["baseline"] in same and not claim.expects.is_margin:
        return "not shown at this size", "its value is the baseline's in every run: it finds nothing here to act on"
    if verdict != "shown":
        return verdict, why
    arm = next(each for each in result["arms"] if each["name"] == name)
    if doubt := next((line for line in arm["warnings"] if ENDED in line), None):
        return "not shown at this size", doubt
    if claim.control is not None:
        beside = beside_control(result, name, claim.control, claim.expects.better, row["level"])
        if beside.verdict != "better":
            return "not shown at this size", f"no better than its control {claim.control}: {beside.verdict}"
    return verdict, f"with the value of {' and '.join(same)} in every run" if same else why


def by_interval(
    expected: Expected, ratio: float, t: tuple[float, float], bootstrap: tuple[float, float]
) -> tuple[Verdict, str]:
    """(verdict, why) of a ratio with two intervals, of which the wider end counts on either side. Percentages are of the
    baseline's value."""
    best, worst = min(t[0], bootstrap[0]), max(t[1], bootstrap[1])
    if expected.better == "higher":
        best, worst = worst, best

    def is_worse(one: float, other: float) -> bool:
        return one > other if expected.better == "lower" else one < other

    allowed = f"{abs(expected.ratio - 1):.1%}"
    if expected.is_margin:
        if is_worse(expected.ratio, worst):
            return "shown", ""
        if is_worse(best, expected.ratio):
            return "contradicted", f"worse by more than the {allowed} that were allowed"
        return "not shown at this size", f"may be worse by up to {abs(worst - 1):.1%}, and {allowed} were allowed"
    if is_worse(best, 1):
        return "contradicted", f"worse by {abs(ratio - 1):.1%}"
    if not is_worse(1, worst):
        return "not shown at this size", "the interval holds 1"
    if is_worse(best, expected.ratio):
        return "not shown at this size", f"better by {abs(ratio - 1):.1%}, where {allowed} would show it"
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


def beside_control(
    result: dict[str, Any], name: str, control: str, better: Literal["lower", "higher"], level: float
) -> Comparison:
    """The arm beside another one of its study, by the measure and over the seeds that both have, as its looks have it."""
    runs = {arm["name"]: {run["seed"]: run["value"] for run in arm["runs"]} for arm in result["arms"]}
    if control not in runs:
        raise ConfigError(f"claims.yaml: {name}: control: the study has no arm {control!r} (arms: {', '.join(runs)})")
    both = sorted(runs[name].keys() & runs[control].keys())
    pairs = [(runs[name][seed], runs[control][seed]) for seed in both]
    return compare_at(pairs, result["looks"], level, better)
