"""Parts of a reward: what every one of them must do, and cases worked by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import methods_of
from lm.problems.example import Example, Score
from tasks.rl import rewards
from tasks.rl.rewards import (
    Agreement,
    Correct,
    Format,
    Function,
    Judge,
    LengthBudget,
    Model,
    Overlong,
    Process,
    Repetition,
)
from tasks.rl.rewards.base import Answer, Part, RewardContext, mean_values, part_names, total_rewards

PARTS = [Agreement(), Correct(), Format(pattern="a*b?"), LengthBudget(), Overlong(), Repetition(n=2)]
# those that ask a process or a model are tried in test_function.py and test_scorers.py
ELSEWHERE = {Function, Judge, Model, Process}
PARTS += [method() for method in methods_of(rewards) if method not in ELSEWHERE | {type(part) for part in PARTS}]
EVERY = pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
quick = settings(deadline=None, max_examples=25, derandomize=True)
NOW = RewardContext(0.0, 10)
EXAMPLE = Example("1", "1+1=", "2", "2")


def answer(ids: list[int], text: str = "", score: Score | None = None) -> Answer:
    return Answer(EXAMPLE, ids, text, True, score or Score(1.0))


written = st.builds(answer, st.lists(st.integers(0, 3), min_size=1, max_size=12), st.text("ab", max_size=5))


@EVERY
@quick
@given(answers=st.lists(written, min_size=1, max_size=5), share=st.floats(0, 1))
def test_a_value_is_of_its_own_answer_alone_and_bounded(part: Part, answers: list[Answer], share: float) -> None:
    context = RewardContext(share, 10)
    values = part(answers, context)
    assert values == [part([one], context)[0] for one in answers]
    assert all(-1 <= value <= 1 for value in values)


@EVERY
@quick
@given(one=written, share=st.floats(0, 1), other=st.floats(0, 1))
def test_what_depends_on_the_moment_is_said(part: Part, one: Answer, share: float, other: float) -> None:
    now, then = RewardContext(share, 10), RewardContext(other, 10)
    assert part.at(now) != part.at(then) or part([one], now) == part([one], then)


def test_correct_is_the_score_and_a_verifier_that_fails_is_no_zero() -> None:
    values = Correct()([answer([1]), answer([1], score=Score(0.25)), answer([1], score=Score(0.0, valid=False))], NOW)
    assert values[:2] == [1.0, 0.25] and math.isnan(values[2])


def test_agreement_is_the_share_of_words_that_an_answer_begins_with() -> None:
    hens = Example("1", "", "Each of them had a name.", "")
    by_hand = {
        "Each of them had a name.": 1.0,
        "Each  of\nthem had a name. And so on.": 1.0,
        "Each of us had a name.": 1 / 3,
        "each of them": 0.0,
        "Each of them had a name": 5 / 6,
        "Why? Hens. #### Each of": 1 / 3,
        "Each of #### ": 0.0,
        "": 0.0,
    }
    for text, share in by_hand.items():
        assert Agreement()([Answer(hens, [1], text, True, Score(0.0))], NOW) == [pytest.approx(share)]


def test_a_format_is_matched_from_the_first_character_to_the_last_over_lines() -> None:
    form = Format(pattern=r"<think>.*</think>\s*<answer>\d+</answer>\s*")
    texts = [
        "<think>a\nb</think>\n<answer>42</answer>\n",
        "x<think></think><answer>4</answer>",
        "<answer>42</answer>",
        "",
    ]
    assert form([answer([1], text) for text in texts], NOW) == [1.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="pattern: .*no regular expression: .*unterminated|missing"):
        Format.model_validate({"pattern": "("})


def test_the_budget_is_cut_at_equal_intervals_and_never_below_a_token() -> None:
    part = LengthBudget(start=1.0, decay=0.5, cuts=4)
    limits = [part.limit(RewardContext(share, 16)) for share in (0.0, 0.24, 0.25, 0.5, 0.99)]
    assert limits == [16, 16, 8, 4, 2]
    assert LengthBudget(decay=0.01).limit(RewardContext(0.9, 16)) == 1


def test_the_length_budget_by_hand() -> None:
    # a budget of 4: whole up to it, half at 6, nothing from 8 on
    part, context = LengthBudget(start=0.5, decay=0.5, cuts=2), RewardContext(0.5, 16)
    assert part([answer([0] * count) for count in (1, 4, 6, 8, 12)], context) == [1, 1, 0.5, 0, 0]


def test_the_dynamic_budget_by_hand() -> None:
    """Falling all the while: half way to its only cut by a half it is 16 / sqrt(2); on either side of 4 a triangle."""
    part = LengthBudget(start=1.0, decay=0.5, cuts=1, course="smooth")
    limits = [part.limit(RewardContext(share, 16)) for share in (0.0, 0.5, 1.0)]
    assert limits == pytest.approx([16, 16 / math.sqrt(2), 8])
    assert LengthBudget(decay=0.01, course="smooth", least=3.0).limit(RewardContext(0.9, 16)) == 3
    triangle, context = LengthBudget(start=0.25, decay=0.5, cuts=1, shape="around"), RewardContext(0.0, 16)
    assert triangle([answer([0] * tokens) for tokens in (0, 1, 4, 6, 8, 12)], context) == [0, 0.25, 1, 0.5, 0, 0]


def test_the_overlong_punishment_by_hand() -> None:
    # of 20 tokens at most the last 5 are the buffer
    part = Overlong(buffer=0.25)
    assert part([answer([0] * count) for count in (1, 15, 17, 20)], RewardContext(0, 20)) == [0, 0, -0.4, -1]


def test_repetition_by_hand() -> None:
    # bigrams of 1 2 1 2 1: 12 21 12 21, two of four are new; three different tokens have none; one token has no bigram
    part = Repetition(n=2)
    assert part([answer([1, 2, 1, 2, 1]), answer([1, 2, 3]), answer([1])], NOW) == [0.5, 0, 0]
    assert part.weight < 0


def test_parts_add_up_by_their_weights_and_any_that_fails_makes_the_answer_invalid() -> None:
    answers = [answer([1, 1, 1], "a"), answer([1, 2, 3], "c"), answer([1], "a", Score(1.0, valid=False))]
    parts = [Correct(weight=2.0), Format(pattern="a", weight=0.5), Repetition(n=1, weight=-0.3)]
    found = total_rewards(parts, answers, NOW)
    rewards, values = found.each, found.values
    # 2 + 0.5 - 0.3 * 2/3, and 2 + 0 - 0
    assert rewards[:2] == pytest.approx([2.3, 2.0]) and math.isnan(rewards[2])
    # means of the first two alone
    assert mean_values(values) == pytest.approx([1.0, 0.5, 1 / 3])
    assert mean_values([[math.nan]]) == [0.0]


def test_parts_of_one_name_are_told_apart() -> None:
    assert part_names([Correct(), Format(pattern="a"), Format(pattern="b")]) == ["correct", "format", "format_2"]
