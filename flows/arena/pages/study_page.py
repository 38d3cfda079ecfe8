"""The page of a study: from the text of its result.json one HTML file that shows what was found and how to find it again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from markupsafe import Markup

from flows.arena.fit_law import in_words
from flows.arena.pages import axis, findings, forest, plot
from flows.arena.pages.findings import Row
from flows.arena.pages.number_format import FLOP_IS, format_compact, format_measured
from flows.arena.pages.records import Arm, Comparison, Run, Study, read_study
from flows.arena.pages.templates import render_template
from tasks.core.yaml import dump_yaml
from tasks.report.words import duration

SETTLED = 0.2  # share of a run's tokens after which the chart of curves shows its values whole
HUES = 8  # colours of page and template; an arm beyond has one of them with a broken line
Figure = tuple[str, Markup]


@dataclass(frozen=True)
class Forest:
    """The ratios of one quantity.

    side: where an arm that is better stands; lanes: comparison and SVG; scale: the axis' labels; arrows: whether some
    lie beyond it.
    """

    quantity: str
    side: str
    lanes: list[tuple[Comparison, Markup]]
    scale: Markup
    arrows: bool


def page(text: str) -> str:
    """The page of the study whose result.json has this text; the same text gives the same page. Raises ValueError."""
    study = read_study(text)
    arms = findings.rows(study)
    hues = hues_of(arms, study)
    return render_template(
        "study.html",
        study=study,
        headline=findings.headline(study),
        arms=arms,
        hues=hues,
        said=findings.comparison_texts,
        kind=forest.kind,
        plain=findings.plain,
        budget=findings.budget(study),
        others=[(findings.quantity(c.quantity, study), c) for c in findings.others(study)],
        noise=findings.noise(study),
        flop_is=FLOP_IS,
        forests=forests(arms, study),
        curves=curves(arms, hues),
        tunings=tunings(arms, hues, study),
        setting=findings.setting,
        warnings=findings.warnings(study),
        command=findings.command(study),
        fit=in_words(study.fit),
        params=[(row.arm.name, dump_yaml(row.arm.params).strip()) for row in arms if row.arm.params],
    )


def hues_of(arms: list[Row], study: Study) -> dict[str, str]:
    """Class of each arm's colour: the baseline's own, then HUES in turn, with broken lines from the second turn on."""
    names = [row.arm.name for row in arms if row.arm.name != study.baseline]
    found = {name: f"a{i % HUES}" + (" broken" if i >= HUES else "") for i, name in enumerate(names)}
    return {study.baseline: "base", **found}


def forests(arms: list[Row], study: Study) -> list[Forest]:
    """A forest plot for each compared quantity that has a ratio, the value first; the noise floor is the value's."""
    of_value = [row.comparison for row in arms if row.comparison is not None]
    groups: dict[str, list[Comparison]] = {}
    for c in [*of_value, *findings.others(study)]:
        if c.ratio is not None:
            groups.setdefault(c.quantity, []).append(c)
    found = []
    for name, compared in groups.items():
        band = study.noise.t or study.noise.bootstrap if study.noise and name == findings.VALUE else None
        marks = [forest.Mark(c.arm, c.ratio or 0.0, c.t, c.bootstrap, c.verdict) for c in compared]
        on = forest.axis(marks, band)
        lanes = [(c, Markup(forest.lane(mark, on, band))) for c, mark in zip(compared, marks, strict=True)]
        side = "left" if findings.lower_is_better(name, study) else "right"
        scale, arrows = Markup(forest.scale(on)), forest.left_out(marks, on)
        found.append(Forest(findings.quantity(name, study), side, lanes, scale, arrows))
    return found


def curves(arms: list[Row], hues: dict[str, str]) -> list[Figure]:
    """The curves of every run over tokens, seconds and FLOP; empty where no run left one.

    The FLOP of a point are its share of the run's, by tokens; of a model that grows those that its result has of each.
    """
    kinds: dict[str, Callable[[Run], Iterable[float | None]]] = {
        "tokens": lambda run: (tokens for tokens, *_ in run.curve),
        "seconds": lambda run: (seconds for _, seconds, _ in run.curve),
        "FLOP": _flop,
    }
    runs = [(row.arm, run) for row in arms for run in row.arm.runs]
    settled = [y for _, run in runs for y in _settled(run)]
    if not settled:
        return []
    up = axis.linear(settled)
    found = []
    for name, places_of in kinds.items():
        lines = [plot.Line(_says(arm, run), hues[arm.name], _points(run, places_of(run))) for arm, run in runs]
        places = [x for line in lines for x, _ in line.points]
        if places:
            across = axis.linear([0.0, *places], format_compact)
            label = f"training bits per byte over {name}"
            found.append((f"over {name}", Markup(plot.curves(lines, across, up, label, name))))
    return found


def _flop(run: Run) -> Iterable[float | None]:
    if run.flops:
        return run.flops
    even = bool(run.tokens) and not run.grows
    return (run.flop * tokens / (run.tokens or 1) if even else None for tokens, *_ in run.curve)


def _settled(run: Run) -> list[float]:
    """Values of a run's curve once the steep beginning is over; all of a curve that has no later ones."""
    points = [(tokens, y) for tokens, _, y in run.curve if y is not None]
    late = [y for tokens, y in points if tokens >= SETTLED * points[-1][0]]
    return late or [y for _, y in points]


def _points(run: Run, places: Iterable[float | None]) -> list[plot.Place]:
    found = zip(places, (y for *_, y in run.curve), strict=True)
    return [(x, y) for x, y in found if x is not None and y is not None]


def _says(arm: Arm, run: Run) -> str:
    return f"{arm.name}, seed {run.seed}: {format_measured(run.value)}, {duration(run.seconds)}"


def tunings(arms: list[Row], hues: dict[str, str], study: Study) -> list[tuple[str, list[Figure]]]:
    """A chart for each tuned parameter and arm, by parameter; none of a parameter without positive numbers."""
    keys = dict.fromkeys(key for row in arms for trial in row.arm.trials for key in trial.params)
    found = [
        (key, [(row.arm.name, chart) for row in arms if (chart := _tuning(row.arm, key, hues, study))]) for key in keys
    ]
    return [(key, charts) for key, charts in found if charts]


def _tuning(arm: Arm, key: str, hues: dict[str, str], study: Study) -> Markup | None:
    """The trials of an arm over a parameter; None where there is nothing to draw."""
    chosen = findings.chosen_trial(arm)
    dots = []
    for trial in arm.trials:
        x = trial.params.get(key)
        if isinstance(x, int | float) and not isinstance(x, bool) and x > 0:
            what = "diverged" if trial.value is None else format_measured(trial.value)
            says = f"{'chosen, ' if trial is chosen else ''}trial {trial.number}: {what} at {findings.setting(trial)}"
            dots.append(plot.Dot(says, float(x), trial.value, trial is chosen))
    values = [dot.y for dot in dots if dot.y is not None]
    if not values:
        return None
    ends = arm.tune.get(key)
    across = axis.logarithmic([dot.x for dot in dots] + [end for end in ends or () if end > 0])
    label = f"{arm.name}: {findings.plain(study.measure.name)} over {key}"
    return Markup(plot.trials(dots, ends, hues[arm.name], across, axis.linear(values), label, key))
