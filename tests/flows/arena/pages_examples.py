"""Results of studies and rows of claims as the arena leaves them, made by formulas: several arms, one that diverged, one that never
reached the target, a study without a noise floor, one with a single pair, and the extremes that a page must bear."""

import json
import math
from typing import Any

from tests.report.test_page import Page

BASELINE = "adamw"
LONG = "a_method_whose_name_goes_on_and_on_" * 4 + "to_the_end"
HOSTILE = "<script>alert('x')</script>&\"|`*_[a](b)\x1b[31m"
RATE = "pretrain.optimizer.lr"
WORST = 7.9  # bits per byte before anything is learned


def curve(end: float, tokens: int, seconds: float, points: int = 40) -> list[list[float]]:
    """Falls from WORST to near `end`, steep at first."""
    shares = [(i + 1) / points for i in range(points)]
    return [[tokens * s, seconds * s, end + (WORST - end) * math.exp(-9 * s) + 0.01 * math.sin(40 * s)] for s in shares]


def run(
    seed: int, value: float | None, seconds: float, target: float | None = 2.4, tokens: int = 300_000
) -> dict[str, Any]:
    """A run; without a value it diverged, and has no curve."""
    points = [] if value is None else curve(value, tokens, seconds)
    reached = target is not None and value is not None and value < target
    spent = {"tokens": 210_000 + 1_111 * seed, "flop": 7.25e11 + 1e9 * seed, "seconds": 8.25 + seed}
    return {
        "seed": seed, "value": value, "seconds": seconds, "flop": 1.25e12, "tokens": tokens, "diverged": value is None,
        "curve": points, "to_target": spent if reached else None,
    }  # fmt: skip


def trial(number: int, rate: float, value: float | None) -> dict[str, Any]:
    return {
        "number": number, "params": {RATE: rate}, "value": value, "seconds": 12.5 + number, "flop": 1.5e12 + 1e10 * number,
        "diverged": value is None,
    }  # fmt: skip


def arm(
    name: str, value: float | None, seeds: int = 5, best: int = 2, low: float = 3e-4, high: float = 3e-2
) -> dict[str, Any]:
    """An arm whose runs end about `value`; trial `best` of its six was the best, the last one diverged."""
    rates = [low * (high / low) ** (i / 5) for i in range(6)]
    trials = [
        trial(i, r, None if i == 5 else (value or 3.0) + 0.05 + 0.08 * (i - best) ** 2) for i, r in enumerate(rates)
    ]
    runs = [
        run(seed, None if value is None else value + 0.004 * (seed - 3), 12.125 + seed / 4)
        for seed in range(1, seeds + 1)
    ]
    return {
        "name": name, "params": {"method": {"name": name}, RATE: rates[best]}, "trials": trials, "runs": runs,
        "search": {"seconds": 90.5, "flop": 9.125e12}, "warnings": [], "tune": {RATE: [low, high]},
    }  # fmt: skip


def comparison(
    name: str, quantity: str, ratio: float | None, verdict: str, width: float = 0.012, **more: Any
) -> dict[str, Any]:
    ends = None if ratio is None else [ratio - width, ratio + width]
    inner = None if ratio is None else [ratio - 0.7 * width, ratio + 0.8 * width]
    made = {
        "arm": name, "baseline": BASELINE, "quantity": quantity, "ratio": ratio, "t": ends, "bootstrap": inner, "level": 0.95,
        "pairs": 5, "stopped_early": False, "verdict": verdict, "why": "",
    }  # fmt: skip
    return {**made, **more}


def study(**changes: Any) -> dict[str, Any]:
    """Five arms: muon is better, lion no different, sgd diverged, slow is worse and never reaches the target."""
    muon = {**arm("muon", 2.21, best=4), "warnings": ["best lr 0.03 lies at the edge of its range"]}
    arms = [arm(BASELINE, 2.375), muon, arm("lion", 2.371), arm("sgd", None), arm("slow", 2.63)]
    compared = [
        comparison("muon", "value", 0.9305, "better", stopped_early=True, pairs=4),
        comparison("lion", "value", 0.9983, "no difference"),
        comparison("sgd", "value", None, "cannot be compared", pairs=0, why="5 of 5 runs diverged"),
        comparison("slow", "value", 1.1074, "worse"),
        comparison("muon", "tokens_to_target", 0.7125, "better", 0.05),
        comparison("muon", "flop_to_target", 0.7175, "better", 0.05),
        comparison("lion", "tokens_to_target", 0.991, "no difference", 0.06),
        comparison("slow", "tokens_to_target", None, "cannot be compared", why="slow did not reach the target"),
        comparison("slow", "flop_to_target", None, "cannot be compared", why="slow did not reach the target"),
        comparison("muon", "seconds", 1.0825, "worse", 0.02),
    ]
    made = {
        "name": "optimizers", "room": "pretrain.optimizer", "baseline": BASELINE,
        "measure": {"name": "bits_per_byte", "unit": "bits/byte", "better": "lower", "stage": "evaluate@pretrain"},
        "budget": {"tokens": 300_000}, "target": 2.4, "seeds": 5, "trials": 6, "threads": 1,
        "machine": "Intel Xeon, 2 cores, avx512", "commit": "21855c9", "date": "2026-11-28", "parameters": 512_000, "steps": 120,
        "arms": arms, "comparisons": compared,
        "noise": {"ratio": 1.0012, "t": [0.9968, 1.0044], "bootstrap": [0.9979, 1.0031], "pairs": 5},
        "warnings": ["the schedule had not decayed at the budget"],
    }  # fmt: skip
    return {**made, **changes}


def alone() -> dict[str, Any]:
    """A study with no arm but the baseline, nothing compared and no curves."""
    only = arm(BASELINE, 2.375)
    runs = [{**one, "curve": []} for one in only["runs"]]
    return study(arms=[{**only, "runs": runs, "trials": []}], comparisons=[], noise=None, warnings=[], target=None)


def one_pair() -> dict[str, Any]:
    """A study of one pair of seeds, which leaves no interval, and no noise floor."""
    compared = comparison(
        "muon", "value", 0.9305, "cannot be compared", pairs=1, t=None, bootstrap=[None, None], why="one pair"
    )
    return study(
        arms=[arm(BASELINE, 2.375, 1), arm("muon", 2.21, 1)], comparisons=[compared], noise=None, warnings=[], seeds=1
    )


def crowd() -> dict[str, Any]:
    """Twelve arms of long or hostile names, ratios far from 1 and long warnings."""
    names = [LONG, HOSTILE, *(f"method_{i}" for i in range(9))]
    arms = [arm(BASELINE, 2.375), *(arm(name, 2.2 + 0.03 * i) for i, name in enumerate(names))]
    ratios = [0.02, 55.0, 1e-5, *(0.93 + 0.02 * i for i in range(8))]
    compared = [
        comparison(name, "value", ratio, "better" if ratio < 1 else "worse", min(0.2, ratio / 3))
        for name, ratio in zip(names, ratios, strict=True)
    ]
    return study(name=LONG, arms=arms, comparisons=compared, warnings=[LONG * 3, HOSTILE], machine=LONG)


def claim(method: str, **changes: Any) -> dict[str, Any]:
    made = {
        "method": method, "room": "pretrain.optimizer", "paper": "002-194", "headline": "2x fewer FLOP than AdamW", "study": "optimizers",
        "control": None, "ratio": 0.9305, "t": [0.9185, 0.9425], "bootstrap": [0.9221, 0.9401], "quantity": "value",
        "parameters": 512_000, "tokens": 300_000, "seeds": 5, "seconds": 260.5, "flop": 2.125e13, "verdict": "shown", "why": "",
        "commit": "21855c9", "machine": "Intel Xeon, 2 cores, avx512", "date": "2026-11-28",
    }  # fmt: skip
    return {**made, **changes}


def claims(count: int = 40) -> list[dict[str, Any]]:
    """Rows of four rooms and all verdicts; every fourth cannot be shown and has no ratio."""
    rooms = ("pretrain.optimizer", "dedup.method", "curriculum.order", "quantize.method")
    verdicts = ("shown", "not shown at this size", "contradicted", "cannot be shown here")
    nothing = {"ratio": None, "t": None, "bootstrap": None, "seeds": None, "seconds": None, "flop": None, "study": None}
    found = []
    for i in range(count):
        verdict, ratio = verdicts[i % 4], 0.8 + 0.0125 * i
        row = claim(
            f"method_{i:02d}", room=rooms[(i // 4) % 4], paper=f"002-{i:03d}", verdict=verdict, ratio=ratio,
            t=[ratio - 0.03, ratio + 0.03], bootstrap=[ratio - 0.02, ratio + 0.025], study=f"study_{i % 3}", parameters=100_000 + 7 * i,
        )  # fmt: skip
        found.append({**row, **nothing, "why": "needs 3B parameters"} if verdict == verdicts[3] else row)
    return found


def extreme_claims() -> list[dict[str, Any]]:
    """As `claims`, with names that go on and on, markup in every text, and ratios that leave the axis."""
    texts = dict.fromkeys(
        ("method", "room", "headline", "study", "control", "verdict", "why", "machine", "commit"), HOSTILE
    )
    longest = dict.fromkeys(
        ("method", "paper", "source", "headline", "study", "control", "why", "machine", "commit", "date"), LONG
    )
    return [*claims(40), claim(LONG) | longest | {"ratio": 55.0, "t": [0.01, 90.0]}, claim(HOSTILE) | texts]


class _Spaced(Page):
    """Keeps texts of neighbouring elements apart, as cells of a table."""

    def handle_data(self, data: str) -> None:
        super().handle_data(f" {data} ")


def words_of(html: str) -> str:
    """What a page says, a space between words."""
    return " ".join(_Spaced(html).words.split())


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
