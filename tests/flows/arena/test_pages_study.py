"""The page of a study holds what result.json has, asks for nothing, and nothing that a name says can break it."""

import json
import re
import time
from typing import Any

import pytest

from flows.arena.pages import axis, plot
from flows.arena.pages.study_page import HUES, page
from tests.flows.arena import pages_examples as examples
from tests.flows.arena.pages_examples import words_of
from tests.report.test_page import Page

EXAMPLES = {
    "full": examples.study(), "alone": examples.alone(), "one pair": examples.one_pair(), "crowd": examples.crowd(),
}  # fmt: skip


def text_of(result: dict[str, Any]) -> str:
    return page(json.dumps(result))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_is_whole_asks_for_nothing_and_is_the_same_every_time(name: str) -> None:
    html = text_of(EXAMPLES[name])
    read = Page(html)
    asked = [
        attributes[a]
        for _, attributes in read.tags
        for a in ("src", "href", "srcset", "data", "action")
        if a in attributes
    ]
    assert set(asked) <= {"#warnings"}
    assert not {tag for tag, _ in read.tags} & {"script", "img", "link", "iframe", "object", "image", "use"}
    assert "@import" not in html and "url(" not in html and "://" not in html
    assert html.startswith("<!doctype html>") and not re.search(r"\b(nan|inf)\b", html, re.IGNORECASE)
    assert text_of(EXAMPLES[name]) == html


def test_every_figure_of_the_result_is_on_the_page() -> None:
    words = words_of(text_of(EXAMPLES["full"]))
    for figure in (
        "2.2100", "2.3750", "2.3710", "2.6300",  # means of the arms
        "0.930 0.918 to 0.943 0.922 to 0.940 better 4 pairs, stopped early", "0.998 0.986 to 1.010 0.990 to 1.008 no difference 5 pairs",
        "1.107 1.095 to 1.119", "5 of 5 runs diverged", "90.5 s 9.12e12 FLOP", "64.4 s 6.25e12 FLOP",
        "tokens to 2.4 0.713", "FLOP to 2.4", "seconds 1.083", "slow did not reach the target",
        "Noise floor: adamw against itself is 1.001 (t 0.997 to 1.004, bootstrap 0.998 to 1.003, 5 runs of each, unpaired: an upper bound).",
        "the schedule had not decayed at the budget", "muon: best lr 0.03 lies at the edge of its range",
        "make study STUDY=studies/optimizers.yaml", "Intel Xeon, 2 cores, avx512", "21855c9", "2026-11-28", "512,000", "300,000 tokens", "120",
        "evaluate@pretrain", "lower is better", "Study optimizers of pretrain.optimizer", "name: muon",
    ):  # fmt: skip
        assert figure in words, figure


def test_every_run_and_trial_is_there_in_figures() -> None:
    words = words_of(text_of(EXAMPLES["full"]))
    # runs: value 2.21 + 0.004 (seed - 3), seconds 12.125 + seed / 4, tokens to the target 210,000 + 1,111 seed
    assert "muon 1 2.2020 12.4 s 1.25e12 FLOP 300,000 211,111 7.26e11 FLOP 9.2 s" in words
    assert "muon 5 2.2180 13.4 s 1.25e12 FLOP 300,000 215,555 7.3e11 FLOP 13.2 s" in words
    assert "slow 2 2.6260 12.6 s 1.25e12 FLOP 300,000 not reached" in words
    assert "sgd 3 - 12.9 s 1.25e12 FLOP 300,000 not reached diverged" in words
    assert "muon 4 2.2600 16.5 s 1.54e12 FLOP pretrain.optimizer.lr=0.01194" in words
    assert "muon 5 diverged 17.5 s 1.55e12 FLOP pretrain.optimizer.lr=0.03" in words


def test_a_line_a_run_over_tokens_seconds_and_flop() -> None:
    html = text_of(EXAMPLES["full"])
    lines = re.findall(r'<polyline class="run ([^"]*)"[^>]*><title>([^<]*)</title>', html)
    assert len(lines) == 3 * 20  # the five runs that diverged have none
    assert lines.count(("base", "adamw, seed 3: 2.3750, 12.9 s")) == 3
    for label in ("over tokens", "over seconds", "over FLOP"):
        assert f"training bits per byte {label}" in html
    assert html.count(">1.25T</text>") == 1  # a run's FLOP at the end of its tokens


def test_a_curve_goes_from_its_first_point_to_its_last() -> None:
    line = plot.Line("r", "base", [(0.0, 3.0), (0.5, 2.5), (1.0, 2.0)])
    svg = plot.curves([line], axis.linear([0.0, 1.0]), axis.linear([2.0, 3.0]), "l", "x")
    wide, high = plot.X_END - plot.LEFT, plot.Y_END - plot.TOP
    assert f'points="0.0,0.0 {wide / 2:.1f},{high / 2:.1f} {wide:.1f},{high:.1f}"' in svg
    alone = plot.curves(
        [plot.Line("r", "base", [(1.0, 2.0)])], axis.linear([0.0, 1.0]), axis.linear([2.0, 3.0]), "l", "x"
    )
    assert f'cx="{wide:.1f}" cy="{high:.1f}"' in alone


def test_curves_show_the_end_of_runs_and_let_the_beginning_leave() -> None:
    chart = re.search(
        r'<svg [^>]*aria-label="training bits per byte over tokens">.*?</svg>.*?</svg>',
        text_of(EXAMPLES["full"]),
        re.DOTALL,
    )
    assert chart
    labels = [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)</text>', chart[0])]
    assert min(labels) <= 2.2 and 3 < max(labels) < 5 < examples.WORST
    line = plot.Line("r", "base", [(0.0, 1e300), (1.0, 2.0)])
    assert "nan" not in plot.curves([line], axis.linear([0.0, 1.0]), axis.linear([2.0, 3.0]), "l", "x")


def test_a_model_that_grows_has_a_curve_over_the_flop_that_its_result_has() -> None:
    full = EXAMPLES["full"]
    grown = {**full, "arms": [{**arm, "runs": [{**run, "grows": True} for run in arm["runs"]]} for arm in full["arms"]]}
    assert "training bits per byte over FLOP" in text_of(full)
    assert "training bits per byte over FLOP" not in text_of(grown)
    assert "training bits per byte over tokens" in text_of(grown)
    for arm in grown["arms"]:
        arm["runs"] = [{**run, "flops": [3.0 * at for at, *_ in run["curve"]]} for run in arm["runs"]]
    assert "training bits per byte over FLOP" in text_of(grown)


def test_a_long_curve_of_a_model_that_grows_is_read_once() -> None:
    """Its page took 147 s where each of its points looked for its FLOP among all."""
    full = json.loads(json.dumps(EXAMPLES["full"]))
    curve = [[step + 1, None, 2 + 1 / (step + 1)] for step in range(4_000)]
    for arm in full["arms"]:
        for run in arm["runs"]:
            run.update(grows=True, curve=curve, flops=[2.0 * tokens for tokens, *_ in curve])
    began = time.process_time()
    assert "training bits per byte over FLOP" in text_of(full)
    assert time.process_time() - began < 20


def test_tuning_marks_the_chosen_the_ends_and_what_diverged() -> None:
    html = text_of(EXAMPLES["full"])
    charts = re.findall(r'<svg [^>]*aria-label="(\w+): bits per byte over pretrain.optimizer.lr">(.*?)</svg>', html)
    assert [name for name, _ in charts] == ["muon", "lion", "adamw", "slow", "sgd"]
    for _, chart in charts:
        assert (chart.count('class="chosen"'), chart.count('class="end"'), chart.count('class="cross"')) == (1, 2, 1)
        assert len(re.findall('<circle class="point ', chart)) == 5
    best = re.search(
        r'cx="([\d.]+)"[^>]*><title>chosen, trial 4: 2.2600 at [^<]*</title></circle><circle class="chosen" cx="([\d.]+)"',
        html,
    )
    assert best and best[1] == best[2]


def test_ranges_that_the_result_does_not_have_are_not_drawn() -> None:
    arms = [{k: v for k, v in examples.arm("adamw", 2.0).items() if k != "tune"}]
    html = text_of(examples.study(arms=arms, comparisons=[]))
    assert 'class="end"' not in html and 'class="chosen"' in html


def test_a_forest_plot_a_quantity_with_noise_on_the_value_alone() -> None:
    html = text_of(EXAMPLES["full"])
    assert re.findall(r"<h3>([^<]* is better)</h3>", html) == [
        "bits per byte: left of 1 is better", "tokens to 2.4: left of 1 is better", "FLOP to 2.4: left of 1 is better",
        "seconds: left of 1 is better",
    ]  # fmt: skip
    assert html.count('class="noise"') == 3  # muon, lion, slow: sgd has no ratio
    assert html.count('<span class="lane scale"') == 4
    accuracy = {"name": "accuracy", "unit": "", "better": "higher", "stage": ""}
    turned = text_of(examples.study(measure=accuracy))
    assert "accuracy: right of 1 is better" in turned and "seconds: left of 1 is better" in turned
    assert 'class="noise"' not in text_of(EXAMPLES["one pair"]) and "grey band" not in text_of(EXAMPLES["one pair"])


def test_markup_in_any_text_stays_text() -> None:
    html = text_of(EXAMPLES["crowd"])
    assert "<script" not in html and "alert(&#39;x&#39;)" in html
    shown = "<script>alert('x')</script>&\"|`*_[a](b)\ufffd[31m"
    assert shown in words_of(html) and "\x1b" not in html
    assert sum(a.get("aria-label", "").startswith(f"{shown}: ") for _, a in Page(html).tags) >= 1


def everything_hostile(value: Any) -> Any:
    """A result in which every text, and every key that is data, is markup."""
    if isinstance(value, dict):
        kept = {"better": value.get("better"), "baseline": value.get("baseline")}
        made = {k: everything_hostile(v) for k, v in value.items()}
        return {**made, **{k: v for k, v in kept.items() if v is not None}}
    if isinstance(value, list):
        return [everything_hostile(v) for v in value]
    return f'"><img src=x onerror=alert(1)>{value}' if isinstance(value, str) else value


def test_no_text_of_a_result_is_markup() -> None:
    result = everything_hostile(examples.study())
    result["budget"] = {"<img>tokens": 5}
    for one in result["arms"]:
        one["params"] = {"<img src=y>": {"<img>": "<img>"}}
        for trial in one["trials"]:
            trial["params"] = {"<img src=z>": 0.01}
    read = Page(text_of(result))
    assert not [tag for tag, _ in read.tags if tag == "img"]
    assert not [a for _, attributes in read.tags for a in attributes if a.startswith("on")]
    assert "<img src=z>" in read.words


def test_arms_beyond_the_colours_have_broken_lines() -> None:
    html = text_of(EXAMPLES["crowd"])
    kinds = set(re.findall(r'<polyline class="run ([^"]*)"', html))
    assert kinds == {"base", *(f"a{i}" for i in range(HUES)), *(f"a{i} broken" for i in range(11 - HUES))}


def test_what_is_not_there_is_said() -> None:
    words = words_of(text_of(EXAMPLES["alone"]))
    for said in (
        "nothing was compared",
        "There is no ratio to draw.",
        "No run has left a curve.",
        "Nothing was tuned.",
        "Warnings None.",
    ):
        assert said in words
    assert "warning" not in re.findall(r"<header>.*</header>", text_of(EXAMPLES["alone"]), re.DOTALL)[0]
    assert "0.930 - - cannot be compared 1 pair, one pair" in words_of(text_of(EXAMPLES["one pair"]))


def test_its_own_command_is_shown_where_the_result_has_one() -> None:
    own = 'make study ROOM=pretrain.optimizer METHODS="adamw muon" SEEDS=5'
    assert own in words_of(text_of(examples.study(command=own)))
    assert "STUDY='studies/a b.yaml'" in words_of(text_of(examples.study(name="a b")))
