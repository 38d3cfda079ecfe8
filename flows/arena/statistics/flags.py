"""Warnings in one line each about what makes a comparison unfair or its winner doubtful; [] where there is nothing to say.

Pure checks of what a study has measured. Names are those of arms and parameters as the study file has them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flows.arena.statistics.ratios import Comparison

Range = tuple[float, float]  # low, high of a parameter that is tuned on a log scale
# Of a range of a factor 100, as of learning rates, a tenth is a factor 1.6, within which the loss around an optimum is flat
EDGE = 0.1
DECAYED = 0.2  # of the peak; the default schedule ends at 0.1
ROUNDING = 1e-9
# Words of a warning that takes a win away: a claim of such an arm is not shown
ENDED = "wins only because"


@dataclass(frozen=True)
class Tuning:
    """How an arm was tuned: trials, and a range a parameter; a parameter without one, or with an empty one, is pinned."""

    trials: int
    ranges: Mapping[str, Range] = field(default_factory=dict)


def at_edge(best: Mapping[str, float], ranges: Mapping[str, Range], share: float = EDGE) -> list[str]:
    """A warning a parameter whose best value lies within `share` of its log range from either end, or beyond.

    A pinned parameter has no edge. Raises ValueError for a range that has no logarithm or is upside down.
    """
    said = []
    for key, (low, high) in ranges.items():
        wide = width(key, (low, high))
        if key in best and wide and not share < math.log(best[key] / low) / wide < 1 - share:
            said.append(f"best {key} {best[key]:g} lies at the edge of its range {low:g} to {high:g}")
    return said


def tuned_less(
    baseline: str, less: Tuning, arm: str, more: Tuning, only_of_arm: Sequence[str] = (), rounding: float = ROUNDING
) -> list[str]:
    """Warnings where the baseline was not tuned as hard as an arm: fewer trials, a parameter pinned, a narrower log range.

    only_of_arm: parameters that the baseline does not have, which it cannot tune. rounding: by how much of its width a range
    may be narrower.
    """
    said = []
    if less.trials < more.trials:
        said.append(f"{baseline} was not tuned as hard as {arm}: {less.trials} trials, not {more.trials}")
    for key, of_arm in more.ranges.items():
        wide, own = width(key, of_arm), width(key, less.ranges.get(key, (1.0, 1.0)))
        if key in only_of_arm or not wide:
            continue
        if not own:
            said.append(f"{baseline} was not tuned as hard as {arm}: {key} is pinned")
        elif own < wide * (1 - rounding):
            factors = f"a factor {math.exp(own):.3g}, not {math.exp(wide):.3g}"
            said.append(f"{baseline} was not tuned as hard as {arm}: {key} over {factors}")
    return said


def undecayed(arm: str, at_end: Mapping[str, float], share: float = DECAYED) -> list[str]:
    """A warning where the schedule of an arm had not decayed at the budget, and that of another arm had.

    at_end: an arm's factor at its last step over its peak; `share`: at or below it a schedule has decayed.
    """
    others = [f"{name} at {factor:.2g}" for name, factor in at_end.items() if name != arm and factor <= share]
    if at_end[arm] <= share or not others:
        return []
    return [
        f"the schedule of {arm} had not decayed: at {at_end[arm]:.2g} of its peak at the budget, {', '.join(others)}"
    ]


def none_decayed(at_end: Mapping[str, float], share: float = DECAYED) -> list[str]:
    """A warning where no arm's schedule had decayed at the budget, of which `undecayed` has nothing to say. at_end, share: as
    there."""
    if not at_end or min(at_end.values()) <= share:
        return []
    low, high = (f"{end(at_end.values()):.2g}" for end in (min, max))
    return [f"no schedule had decayed at the budget: at {low}{f' to {high}' if low != high else ''} of its peak"]


def won_by_decay(
    arm: str,
    end: Comparison,
    before: Comparison | None = None,
    at_end: tuple[float, float] | None = None,
    share: float = DECAYED,
) -> list[str]:
    """A warning where an arm is better than its baseline only because its schedule ended and the baseline's did not.

    end: the arm beside the baseline at the budget; what is not better there has won nothing. before: both at the same point
    before the arm's decay, where the arm was not ahead. at_end: factor over peak of (arm, baseline) at the budget, if known;
    `before` says nothing where the baseline had decayed too or the arm had not.
    """
    ended_alone = at_end is None or at_end[0] <= share < at_end[1]
    if end.verdict != "better" or not before or not ended_alone or before.verdict not in ("no difference", "worse"):
        return []
    return [f"{arm} {ENDED} its schedule ended: before its decay {in_words(before)}"]


def unbeaten(
    arm: str,
    baseline: str,
    control: str,
    end: Comparison,
    beside: Comparison,
    at_end: Mapping[str, float],
    share: float = DECAYED,
) -> list[str]:
    """A warning where an arm is better than its baseline and not than its study's control.

    The win is called one of the schedule alone where that of the control had ended and the baseline's had not, and the two
    could be compared. end: the arm beside the baseline. beside: it beside the control. at_end, share: as in `undecayed`.
    """
    if end.verdict != "better" or beside.verdict == "better":
        return []
    decayed = {control, baseline} <= at_end.keys() and at_end[control] <= share < at_end[baseline]
    if decayed and beside.verdict in ("no difference", "worse"):
        why = f"the schedule of {baseline} had not ended: beside {control}, whose had, {in_words(beside)}"
        return [f"{arm} {ENDED} {why}"]
    return [f"{arm} is better than {baseline}, not than its control {control}: {in_words(beside)}"]


def other_data(baseline: str, digests: Mapping[str, Sequence[str]]) -> list[str]:
    """A warning an arm that saw other data than the baseline. digests: of the data, an arm's runs in the order of the seeds,
    "" where it is not known, as of a run that diverged."""
    said = []
    for arm, seen in digests.items():
        pairs = [pair for pair in zip(seen, digests[baseline], strict=False) if all(pair)]
        if other := sum(one != two for one, two in pairs):
            said.append(f"{arm} saw other data than {baseline} in {other} of {len(pairs)} pairs")
    return said


def other_tokens(baseline: str, tokens: Mapping[str, int]) -> list[str]:
    """A warning an arm that was trained on more or fewer tokens than the baseline. tokens: of a run of each arm."""
    own = tokens.get(baseline)
    return [
        f"{arm} was trained on {count:,} tokens, {baseline} on {own:,}"
        for arm, count in tokens.items()
        if own is not None and count != own
    ]


def noisy(baseline: str, again: Comparison) -> list[str]:
    """A warning where the baseline is not level with its second self, which is the same method: by chance, or because the
    study finds differences where there are none; and where the two cannot be compared."""
    if again.verdict == "no difference":
        return []
    if again.verdict == "cannot be compared":
        return [f"no noise floor: {baseline} beside itself cannot be compared{f': {again.why}' if again.why else ''}"]
    return [
        f"{baseline}, tuned and run again with other seeds, is {in_words(again)} beside itself: "
        "a difference of that size is no finding here"
    ]


def diverged(arm: str, runs: Sequence[bool], trials: Sequence[bool] = ()) -> list[str]:
    """A warning that counts the runs, and one the tuning trials, of an arm that diverged; True is one that did."""
    return [
        f"{arm} diverged in {sum(which)} of {len(which)} {kind}"
        for kind, which in (("runs", runs), ("tuning trials", trials))
        if any(which)
    ]


def width(key: str, limits: Range) -> float:
    """The log of high / low. Raises ValueError for a range that has no logarithm or is upside down."""
    low, high = limits
    if not 0 < low <= high < math.inf:
        raise ValueError(f"the range of {key} is no log range: {low:g} to {high:g}")
    return math.log(high / low)


def in_words(found: Comparison) -> str:
    """A verdict with its number, as in "no difference (ratio 0.998)"."""
    return found.verdict if found.estimate is None else f"{found.verdict} ({found.scale} {found.estimate:.4g})"
