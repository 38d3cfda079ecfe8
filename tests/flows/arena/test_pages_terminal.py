"""The table of a study in the terminal: every figure it promises, in lines of at most 100 columns, whatever names say."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.arena.pages.terminal import WIDTH, table
from tests.flows.arena import pages_examples as examples

EXAMPLES = {
    "full": examples.study(), "alone": examples.alone(), "one pair": examples.one_pair(), "crowd": examples.crowd(),
}  # fmt: skip


def lines_of(result: dict) -> list[str]:
    return table(json.dumps(result)).splitlines()


def row(lines: list[str], first: str, having: str) -> str:
    (found,) = [line for line in lines if line.startswith(f"{first} ") and having in line]
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_lines_are_short_and_plain_and_the_same_every_time(name: str) -> None:
    text = table(json.dumps(EXAMPLES[name]))
    assert max(map(len, text.splitlines())) <= WIDTH == 100
    assert not [c for c in text if unicodedata.category(c) == "Cc" and c != "\n"]
    assert all(line == line.rstrip() for line in text.splitlines())
    assert table(json.dumps(EXAMPLES[name])) == text


def test_arms_stand_by_their_value_with_both_intervals_and_verdict() -> None:
    lines = lines_of(EXAMPLES["full"])
    assert row(lines, "muon", "0.918").split() == [
        "muon", "2.2100", "0.930", "0.918", "to", "0.943", "0.922", "to", "0.940", "better"
    ]  # fmt: skip
    assert row(lines, "adamw", "baseline").split() == ["adamw", "2.3750", "-", "-", "-", "baseline"]
    assert row(lines, "sgd", "cannot").split() == ["sgd", "-", "-", "-", "-", "cannot", "be", "compared"]
    head = lines.index(next(line for line in lines if line.startswith("arm")))
    assert [line.split()[0] for line in lines[head + 1 : head + 6]] == ["muon", "lion", "adamw", "slow", "sgd"]


def test_higher_is_better_turns_the_order_round() -> None:
    measure = {"name": "accuracy", "unit": "", "better": "higher", "stage": "evaluate@rl"}
    lines = lines_of(examples.study(measure=measure))
    head = lines.index(next(line for line in lines if line.startswith("arm")))
    assert [line.split()[0] for line in lines[head + 1 : head + 6]] == ["slow", "adamw", "lion", "muon", "sgd"]


def test_costs_noise_and_warnings_are_said() -> None:
    full = EXAMPLES["full"]
    lines = lines_of(full)
    # five runs of 12.125 + seed / 4 seconds are 64.375 s, of 1.25e12 FLOP 6.25e12
    assert row(lines, "muon", "90.5 s").split() == [
        "muon",
        "90.5",
        "s",
        "9.12e12",
        "64.4",
        "s",
        "6.25e12",
        "5",
        "0",
        "5",
    ]
    assert row(lines, "sgd", "90.5 s").split()[-3:] == ["5", "5", "0"]
    assert row(lines, "slow", "90.5 s").split()[-3:] == ["5", "0", "0"]
    text = " ".join(" ".join(lines).split())
    noise = "(t 0.997 to 1.004, bootstrap 0.998 to 1.003, 5 runs of each, unpaired: an upper bound)."
    assert f"Noise floor: adamw against itself is 1.001 {noise}" in text
    assert "warning: the schedule had not decayed at the budget" in lines
    assert "warning: muon: best lr 0.03 lies at the edge of its range" in lines
    assert "warning: sgd: 5 of 5 runs diverged" in lines
    assert len([line for line in lines if line.startswith("warning: ")]) == 3
    named = {**full["arms"][1], "warnings": ["muon diverged in 1 of 5 runs"]}
    assert "warning: muon diverged in 1 of 5 runs" in lines_of({**full, "arms": [full["arms"][0], named]})
    assert (
        "muon, bits per byte: stopped early at 4 pairs" in lines and "sgd, bits per byte: 5 of 5 runs diverged" in lines
    )
    assert "slow, tokens to 2.4, FLOP to 2.4: slow did not reach the target" in lines
    assert "again: make study STUDY=studies/optimizers.yaml" in lines
    assert "Intel Xeon, 2 cores, avx512, commit 21855c9, 2026-11-28" in lines


def test_what_is_spent_to_the_target_stands_beside_what_it_is() -> None:
    lines = lines_of(EXAMPLES["full"])
    assert "  0.713  0.662 to 0.763  0.677 to 0.753  better" in row(lines, "muon", "tokens to 2.4")
    assert "cannot be compared" in row(lines, "slow", "tokens to 2.4")
    assert row(lines, "muon", "FLOP to 2.4") and row(lines, "muon", " seconds ")


def test_what_is_spent_stands_by_quantity_and_then_as_arms_do() -> None:
    full = examples.study()
    spent = [c for c in full["comparisons"][4:] if (c["arm"], c["quantity"]) != ("slow", "flop_to_target")]
    swapped = [*full["comparisons"][:4], *reversed(spent)]
    lines = lines_of({**full, "comparisons": swapped})
    place = lines.index(next(line for line in lines if "quantity" in line)) + 1
    assert [tuple(line.split("  ")[:1] + line.split()[1:2]) for line in lines[place : place + 5]] == [
        ("muon", "seconds"), ("muon", "tokens"), ("lion", "tokens"), ("slow", "tokens"), ("muon", "FLOP"),
    ]  # fmt: skip


def test_the_trial_that_the_runs_have_stands_with_its_parameters() -> None:
    """Which is not the one of the best value where a neighbourhood was better."""
    full = examples.study()
    found = row(lines_of(full), "muon", "pretrain.optimizer.lr=")
    assert found.split() == ["muon", "6", "1", "2.2600", "pretrain.optimizer.lr=0.01194"]
    muon = full["arms"][1]
    muon["params"] = {**muon["params"], **muon["trials"][3]["params"]}
    found = row(lines_of(full), "muon", "pretrain.optimizer.lr=")
    assert found.split() == ["muon", "6", "1", "2.3400", "pretrain.optimizer.lr=0.004755"]
    muon["trials"] = [{**trial, "value": None, "diverged": True} for trial in muon["trials"]]
    assert row(lines_of(full), "muon", " 6 ").split() == ["muon", "6", "6", "-", "-"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("full", "Of 4 methods against adamw, 1 better (muon 0.930), 1 worse (slow 1.107), 1 without a difference (lion 0.998), 1 that cannot be compared (sgd)."),
        ("alone", "adamw alone: nothing was compared with it."),
        ("one pair", "muon cannot be compared with adamw: one pair."),
    ],
)  # fmt: skip
def test_the_first_sentence_says_what_was_found(name: str, said: str) -> None:
    assert " ".join(" ".join(lines_of(EXAMPLES[name])).split()).startswith(said)


def test_a_single_method_is_said_with_its_interval_and_tokens() -> None:
    full = examples.study()
    compared = [c for c in full["comparisons"] if c["arm"] == "muon"]
    lines = lines_of({**full, "arms": full["arms"][:2], "comparisons": compared})
    assert " ".join(" ".join(lines).split()).startswith(
        "muon is better than adamw: 0.930 times its bits per byte (95% interval 0.918 to 0.943). "
        "It needs 0.713 times the tokens to 2.4."
    )


def test_a_difference_stands_where_there_is_no_ratio() -> None:
    difference = {"mean": -0.02, "t": [-0.03, -0.01], "bootstrap": [-0.028, -0.0125]}
    compared = examples.comparison("muon", "value", None, "better", difference=difference)
    noise = {"ratio": None, "t": None, "bootstrap": None, "pairs": 5, "difference": {**difference, "mean": 0.001}}
    full = examples.study()
    lines = lines_of({**full, "arms": full["arms"][:2], "comparisons": [compared], "noise": noise})
    found = row(lines, "muon", "  diff")
    assert "  diff -0.0200  -0.0300 to -0.0100  -0.0280 to -0.0125  better" in found
    text = " ".join(" ".join(lines).split())
    assert text.startswith(
        "muon is better than adamw: a difference of -0.0200 in bits per byte (95% interval -0.0300 to -0.0100)."
    )
    ends = "t -0.0300 to -0.0100, bootstrap -0.0280 to -0.0125, 5 runs of each, unpaired: an upper bound"
    assert f"adamw differs from itself by +0.0010 ({ends})." in text


def test_nothing_measured_is_no_figure() -> None:
    assert "Noise floor: not measured." in lines_of(EXAMPLES["alone"])
    assert row(lines_of(EXAMPLES["one pair"]), "muon", "0.930").split()[2:5] == ["0.930", "-", "-"]


def test_a_file_that_is_no_result_is_refused_in_a_line() -> None:
    result = examples.study()
    del result["room"]
    result["seeds"] = "five"
    with pytest.raises(ValueError, match=r"^result\.json: room: Field required; seeds: [^\n]*$"):
        table(json.dumps(result))
    with pytest.raises(ValueError, match=r"^result\.json: [^\n]*$"):
        table("{")


NUMBERS = st.floats(-1e12, 1e12)


@given(
    names=st.lists(st.text(max_size=200), min_size=1, max_size=4, unique=True), ratio=NUMBERS, low=NUMBERS, high=NUMBERS,
    verdict=st.text(max_size=60), measure=st.text(max_size=60), warning=st.text(max_size=300),
)  # fmt: skip
def test_no_name_and_no_number_makes_a_line_too_long(
    names: list[str], ratio: float, low: float, high: float, verdict: str, measure: str, warning: str
) -> None:
    compared = [
        examples.comparison(n, q, ratio, verdict, t=[low, high], why=warning) for n in names for q in ("value", measure)
    ]
    arms = [examples.arm(name, 2.0) for name in names]
    measured = {"name": measure, "better": "lower", "unit": "", "stage": ""}
    result = examples.study(arms=arms, comparisons=compared, measure=measured, warnings=[warning], baseline=names[0])
    assert max(map(len, lines_of(result))) <= WIDTH
