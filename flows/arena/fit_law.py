"""Laws fitted over the runs of a study's result, by the name of the law; flows/arena/fits has the laws."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flows.arena import fits
from flows.arena.fits.law import CannotFit, Law
from lm.config import methods_of

Run = dict[str, Any]
AHEAD = 4.0  # a curve is forecast to this many times the tokens that it was fitted to
WARM_UP = 0.1  # of a run's tokens, as Extrapolation.skip_fraction has it: no law holds there


def runs_of(arm: dict[str, Any]) -> list[Run]:
    """The runs of an arm that have a value, with its best parameters alone."""
    return [run for run in arm["runs"] if run["value"] is not None]


def column(runs: list[Run], name: str) -> list[float]:
    """A number of each run."""
    return [float(run[name]) for run in runs]


def columns_of(points: list[tuple[float, float]]) -> list[list[float]]:
    """The two numbers of each point, a list each."""
    return [list(numbers) for numbers in zip(*points, strict=True)] or [[], []]


def over_runs(*names: str) -> Callable[[Any, dict[str, Any]], Iterator[tuple[str, Callable[[], Law]]]]:
    """A law over these numbers of all runs of a study, whose arms are sizes or lengths of one method."""

    def cases(law: Any, result: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Law]]]:
        runs = [run for arm in result["arms"] for run in runs_of(arm)]
        yield "all arms", lambda: law(*(column(runs, name) for name in names))

    return cases


def steady(run: Run) -> list[tuple[float, float]]:
    """(tokens, loss) of the run's curve behind the warm-up and before its rate decays."""
    last = max((tokens for tokens, *_ in run["curve"]), default=0.0)
    until = run["decays_from"] or last
    return [(tokens, loss) for tokens, _, loss in run["curve"] if WARM_UP * last <= tokens <= until]


def saying_where(law: Any, runs: list[Run], *columns: Any) -> Law:
    """The law of these columns, which `steady` gave of the runs. Raises CannotFit, with the tokens from which the first
    rate decays."""
    try:
        found: Law = law(*columns)
    except CannotFit as error:
        decays = sorted({run["decays_from"] for run in runs if run["decays_from"]})
        if not decays:
            raise
        raise CannotFit(f"{error} (before a rate decays, the first from {decays[0]:,.0f} tokens on)") from None
    return found


def cannot(why: str) -> Law:
    """No law. Raises CannotFit."""
    raise CannotFit(why)


def each_curve(law: Any, result: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Law]]]:
    """The forecast of each arm's first curve, for a rate that does not decay."""
    for arm in result["arms"]:
        for run in runs_of(arm)[:1]:
            tokens, losses = columns_of(steady(run))
            target = AHEAD * max(tokens, default=1.0)
            yield arm["name"], partial(saying_where, law, [run], tokens, losses, target)


def beside_baseline(law: Any, result: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Law]]]:
    """How much more FLOP the baseline needs, by the curves of every arm and of the baseline before their rates decay; not
    beside a model that grows, where a result of before has not the FLOP along its curve."""
    arms = {arm["name"]: runs_of(arm) for arm in result["arms"]}
    untold = {name for name, runs in arms.items() if any(run.get("grows") and not run.get("flops") for run in runs)}
    points = {name: columns_of([point for run in runs for point in over_flop(run)]) for name, runs in arms.items()}
    base = result["baseline"]
    for name, runs in arms.items():
        if name == base:
            continue
        if grown := sorted({name, base} & untold):
            why = f"the model of {' and '.join(grown)} grows, and this result has no FLOP along its curve: run the study again"
            yield name, partial(cannot, why)
        else:
            yield name, partial(saying_where, law, [*arms[base], *runs], *points[base], *points[name])


def over_flop(run: Run) -> list[tuple[float, float]]:
    """(FLOP, loss) of the run's curve where `steady` has it."""
    if not run.get("flops"):
        return [(tokens / run["tokens"] * run["flop"], loss) for tokens, loss in steady(run)]
    spent = dict(zip((at for at, *_ in run["curve"]), run["flops"], strict=True))
    return [(spent[tokens], loss) for tokens, loss in steady(run)]


def to_the_target(law: Any, result: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Law]]]:
    """Tokens to the target by tokens a step, over all runs that reached it."""
    runs = [run for arm in result["arms"] for run in runs_of(arm) if run["to_target"]]
    yield "all arms", lambda: law(column(runs, "tokens_a_step"), [run["to_target"]["tokens"] for run in runs])


LAWS: dict[str, Callable[[Any, dict[str, Any]], Iterator[tuple[str, Callable[[], Law]]]]] = {
    "tokens": over_runs("tokens", "value"),
    "parameters": over_runs("parameters", "tokens", "value"),
    "seconds": over_runs("parameters", "copies", "tokens", "seconds", "value"),
    "depth": over_runs("layers", "parameters", "value"),
    "extrapolation": each_curve,
    "compute_gain": beside_baseline,
    "critical_batch": to_the_target,
}


def fit_law(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """The law of this name over a result: by what it was fitted to, its report, or `cannot` with the reason."""
    law = next(method for method in methods_of(fits) if method.model_fields["name"].default == name)()
    said: dict[str, Any] = {"law": name, "fits": {}}
    for case, fit in LAWS[name](law, result):
        try:
            said["fits"][case] = fit().report()
        except CannotFit as error:
            said["fits"][case] = {"cannot": str(error)}
    return said


def in_words(said: dict[str, Any]) -> list[str]:
    """A fit for the terminal, a line each."""
    lines = []
    for case, found in said.get("fits", {}).items():
        if "cannot" in found:
            lines.append(f"{said['law']}: {case}: {found['cannot']}")
            continue
        values = []
        for name, each in found["parameters"].items():
            low, high = ("infinite" if end is None else f"{end:.4g}" for end in each["interval"])
            values.append(f"{name} {each['value']:.4g} ({low}, {high})")
        lines.append(f"{said['law']}: {case}: {found['formula']}: {', '.join(values)}; {found['points']} points")
    return lines
