"""Strategies of decoding: what holds of each, and each beside a case by hand or a slow way to the same answer."""

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lm import strategies
from lm.config import ConfigError, methods_of
from lm.problems.example import unit_hash
from lm.sampler import ROWS, Completion, generate
from lm.strategies import (
    Beam,
    BestOf,
    BudgetForcing,
    ByDifficulty,
    Greedy,
    Majority,
    ProxyTuned,
    Revise,
    Sample,
    Speculative,
    Tree,
)
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy, best_answer
from lm.strategies.best_of import mean_logp, select_index
from lm.strategies.majority import vote_of, winner
from lm.temperature import COLDEST
from tests.lm.strategies import CONTEXT, END, MODEL, MOST, PROMPTS, TOKENIZER, asked, lively, saved, without_cache

EVERY: dict[str, Strategy] = {
    "beam": Beam(beams=3),
    "best_of": BestOf(samples=3),
    "by_likelihood": BestOf(samples=3, by="likelihood"),
    "judged": BestOf(samples=3, by="likelihood", judge_temperature=0.5),
    "budget_forcing": BudgetForcing(minimum=6, maximum=8, trigger=" so", final=":"),
    "by_difficulty": ByDifficulty(first=2, samples=3, most=8, easy=0.9, hard=0.6, hard_by="tree", temperature=0.8),
    "greedy": Greedy(),
    "majority": Majority(samples=3),
    "proxy_tuned": ProxyTuned(tuned="tuned", untuned="untuned", weight=0.5),
    "revise": Revise(ask="so?"),
    "sample": Sample(),
    "filtered": Sample(temperature=1.5, top_p=0.8, min_p=0.02),
    "speculative": Speculative(draft="tuned"),
    "tree": Tree(samples=4, keep=2, depth=3, step=2),
}
EVERY |= {m().name: m() for m in methods_of(strategies) if m not in {type(strategy) for strategy in EVERY.values()}}


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with assistants; and answers are written in fewer rows than there are prompts, so that some join others that go on:
    a pass takes as long as its rows do, whether anything is in them or not."""
    with pytest.MonkeyPatch.context() as patch:
        written = generate.__wrapped__  # type: ignore[attr-defined]
        assert written.__defaults__[0] == ROWS
        patch.setattr(written, "__defaults__", (ROWS // 4, *written.__defaults__[1:]))
        patch.chdir(tmp_path_factory.mktemp("project"))
        for name, model in {"tuned": lively(2), "untuned": lively(3), "same": MODEL}.items():
            saved(name, model)
        saved("short", lively(2, context=32))
        saved("wide", lively(2, vocab_size=280))
        yield


def texts(strategy: Strategy, given: PromptBatch) -> list[list[int]]:
    return [found.ids for found in strategy(MODEL, given)]


ALONE: dict[str, list[DecodedAnswer]] = {}


def alone(name: str) -> list[DecodedAnswer]:
    """What becomes of each prompt by itself."""
    if name not in ALONE:
        ALONE[name] = [EVERY[name](MODEL, asked([prompt]))[0] for prompt in PROMPTS]
    return ALONE[name]


@pytest.mark.parametrize("name", EVERY)
@settings(deadline=None, max_examples=4)
@given(mix=st.lists(st.sampled_from(range(len(PROMPTS))), min_size=1, max_size=70))
def test_an_answer_depends_on_its_prompt_alone(name: str, mix: list[int]) -> None:
    """And on its name: neither on the others nor on how many they are, nor on the order."""
    assert EVERY[name](MODEL, asked([PROMPTS[place] for place in mix])) == [alone(name)[place] for place in mix]


@pytest.mark.parametrize("name", EVERY)
def test_an_answer_has_no_more_tokens_than_it_may_and_says_what_it_took(name: str) -> None:
    for prompt, found in zip(PROMPTS, alone(name), strict=True):
        assert 1 <= len(found.ids) <= min(MOST, CONTEXT - len(prompt)) and END not in found.ids[:-1]
        assert found.passes <= found.tokens and len(found.ids) <= found.tokens
    assert EVERY[name](MODEL, asked([])) == []


def test_the_examples_end_by_themselves_and_by_the_budget() -> None:
    """Else the tests above would say little."""
    for name in ("greedy", "sample", "beam", "speculative"):
        ends = [found.ids[-1] == END for found in alone(name)]
        assert 0 < sum(ends) < len(ends), name


@pytest.mark.parametrize("name", EVERY)
def test_names_beside_each_other_differ(name: str) -> None:
    """In answers, but where greedy ones are promised, and where no two of several long answers end alike, of which the first is
    then that of the majority; test_the_majority_of_drawn_answers has those that do."""
    same = {other for other in EVERY if [f.ids for f in alone(other)] == [f.ids for f in alone(name)]}
    assert same in ({name}, {"greedy", "speculative"}, {"majority", "sample"})


def test_labels() -> None:
    assert [strategy.metric_label for strategy in EVERY.values()] == [
        *("beam_3", "best_of_3", "best_of_3_by_likelihood", "best_of_3_by_likelihood", "budget_forcing_6_to_8"),
        "by_difficulty_2_3_8_by_tree",
        *("greedy", "majority_3", "proxy_tuned", "revise_1", "sample", "sample", "speculative", "tree_4_to_3"),
    ]
    assert Greedy(label="mine").metric_label == "mine"
    with pytest.raises(ValidationError, match="pattern"):
        Greedy(label="Mine!")


def test_greedy_is_the_samplers() -> None:
    expected = generate(MODEL, PROMPTS, MOST, 0.0, END, 0)
    found = Greedy()(MODEL, asked())
    assert [f.ids for f in found] == [c.ids for c in expected]
    assert all(f.tokens == f.passes == len(f.ids) for f in found)


def test_a_sample_is_the_samplers_with_the_draws_of_its_name_and_seed() -> None:
    given = asked(seed=7)
    numbers = [int(unit_hash(f"draws:{name}:0") * 2**53) for name in given.names]
    expected = generate(MODEL, PROMPTS, MOST, 0.7, END, 7, draws=numbers)
    assert texts(Sample(temperature=0.7), given) == [completion.ids for completion in expected]
    assert texts(Sample(temperature=0.7), asked(seed=8)) != texts(Sample(temperature=0.7), given)
    assert texts(BestOf(samples=1, temperature=0.7), given) == texts(Sample(temperature=0.7), given)


def test_more_samples_are_those_of_fewer_and_others() -> None:
    three, five = (BestOf(samples=n).sample_completions(MODEL, asked(), n) for n in (3, 5))
    assert [some[:3] for some in five] == three
    assert all(len({tuple(c.ids) for c in some}) > 2 for some in five[:5])


def test_the_best_of_several_by_hand() -> None:
    assert select_index([1.0, None, 3.0, 3.0], 0.0, 0.99) == 2
    assert select_index([None, -2.0], 0.0, 0.0) == 1 and select_index([None, None], 0.0, 0.5) == 0
    # softmax of 0, ln 2, ln 5 is 1/8, 2/8, 5/8; the place without a score has no share
    scores = [0.0, 0.6931471805599453, None, 1.6094379124341003]
    points = {0.0: 0, 0.124: 0, 0.126: 1, 0.374: 1, 0.376: 3, 0.999: 3}
    assert {point: select_index(scores, 1.0, point) for point in points} == points
    # at twice the temperature weights are 1, sqrt 2, sqrt 5: the first ends at 0.215
    assert select_index(scores, 2.0, 0.214) == 0 and select_index(scores, 2.0, 0.216) == 1
    assert select_index([-1e6, 0.0], 1e-3, 0.5) == 1
    assert mean_logp(Completion([1, 2], [-1.0, -3.0])) == -2.0 and mean_logp(Completion()) is None


def test_the_best_answer_is_that_of_the_highest_score() -> None:
    given = asked()
    drawn = BestOf(samples=5).sample_completions(MODEL, given, 5)
    for place, (found, some) in enumerate(zip(BestOf(samples=5)(MODEL, given), drawn, strict=True)):
        values = [-1.0 if len(text) % 2 else len(text) for text in (TOKENIZER.decode(c.ids) for c in some)]
        assert found.ids == some[values.index(max(values))].ids, place
        assert found.tokens == sum(len(c.ids) for c in some) and found.passes == max(len(c.ids) for c in some)
    likeliest = BestOf(samples=5, by="likelihood")(MODEL, given)
    for found, some in zip(likeliest, drawn, strict=True):
        means = [sum(c.logps) / len(c.logps) for c in some]
        assert found.ids == some[means.index(max(means))].ids


@pytest.mark.parametrize("method", [m for m in methods_of(strategies) if "temperature" in m.model_fields])
def test_a_temperature_that_logits_cannot_be_divided_by_is_refused(method: type[Strategy]) -> None:
    """In fp32 they would be infinite, and no token could be drawn."""
    # the models beside it, which some cannot be without
    beside = {name: name for name, field in method.model_fields.items() if field.is_required()}
    assert method(**beside, temperature=COLDEST).model_dump()["temperature"] == COLDEST
    with pytest.raises(ValidationError, match="temperature"):
        method(**beside, temperature=1e-38)


def test_a_judge_at_a_temperature_draws_by_name_and_seed() -> None:
    hot = BestOf(samples=4, by="likelihood", judge_temperature=1e6)
    prompts = [[5, place] for place in range(60)]
    picked = []
    for seed in (0, 1):
        drawn = hot.sample_completions(MODEL, asked(prompts, seed), 4)
        ids = texts(hot, asked(prompts, seed))
        picked.append([[c.ids for c in some].index(own) for some, own in zip(drawn, ids, strict=True)])
    # each of 4 has 15 of 60 on average, sd 3.4: fewer than 3 by chance once in 5,000 runs
    assert all(min(Counter(some)[place] for place in range(4)) >= 3 for some in picked) and picked[0] != picked[1]


def test_nobody_to_score() -> None:
    given = PromptBatch(TOKENIZER, PROMPTS, [""] * len(PROMPTS), MOST)
    with pytest.raises(ConfigError, match=r"best_of: there is nobody to score answers: take by: likelihood"):
        BestOf()(MODEL, given)


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ("7+8=15: 42", (Fraction(42), False)),
        ("so #### 1,234", (Fraction(1234), False)),
        ("\\boxed{0.5} and", (Fraction(1, 2), False)),
        ("half: 1/2", (Fraction(1, 2), False)),
        ("a: b:  c   d ", "c d"),
        ("2: #### 3\nmore: 4", (Fraction(3), False)),
        ("  ", None),
        ("working:", None),
    ],
)
def test_what_a_text_votes_for(text: str, vote: Any) -> None:
    assert vote_of(text) == vote


def test_the_majority_by_hand() -> None:
    assert winner(["a", "b", "b", None, None, None]) == 1
    assert winner(["a", "b", "b", "a"]) == 0 and winner([None, "c", "a", "a", "c"]) == 1
    assert winner([None, None]) == 0 and winner([Fraction(1, 2), Fraction(2, 4), "x"]) == 0


def test_the_majority_of_drawn_answers() -> None:
    """Of one token, so that several agree; it is often not the first drawn."""
    model = lively(5, scale=3.0)
    prompts = [[7, place] for place in range(40)]
    given = asked(prompts, most=1)
    strategy = Majority(samples=9, top_p=0.6)
    found, drawn = strategy(model, given), strategy.sample_completions(model, given, 9)
    moved = 0
    for answer, some in zip(found, drawn, strict=True):
        votes = [" ".join(TOKENIZER.decode(c.ids).rpartition(":")[2].split()) for c in some]
        counts = Counter(vote for vote in votes if vote)
        if counts:
            most = max(counts.values())
            expected = next(c.ids for c, vote in zip(some, votes, strict=True) if vote and counts[vote] == most)
            assert TOKENIZER.decode(answer.ids).strip() == TOKENIZER.decode(expected).strip()
            moved += answer.ids != some[0].ids
        assert answer == best_answer(some, [c.ids for c in some].index(answer.ids))
    assert moved > 5


def forced(
    prompt: list[int], minimum: int, maximum: int, trigger: list[int], times: int, final: list[int]
) -> list[int]:
    """Budget forcing a token at a time and without a cache."""
    ids: list[int] = []
    room, triggers = CONTEXT - len(prompt), 0
    while len(ids) < min(maximum, room):
        with torch.no_grad():
            token = int(MODEL(torch.tensor([prompt + ids]))[0, -1].argmax())
        if token != END:
            ids.append(token)
        elif len(ids) + 1 < minimum and triggers < times and len(ids) + len(trigger) < min(maximum, room):
            ids, triggers = ids + trigger, triggers + 1
        else:
            return [*ids, END]
    if not final or len(ids) + len(final) >= min(MOST, room):
        return ids
    ids = ids + final
    return ids + without_cache(lambda x: MODEL(x)[0, -1], prompt + ids, min(MOST, room) - len(ids))


@settings(deadline=None, max_examples=12)
@given(
    st.integers(0, 9),
    st.integers(5, 8),
    st.sampled_from(["W", " so", "abcdef"]),
    st.integers(0, 3),
    st.sampled_from(["", "=", "::"]),
)
def test_budget_forcing_is_what_it_is_a_token_at_a_time(
    minimum: int, maximum: int, trigger: str, times: int, final: str
) -> None:
    if final and maximum + len(final) >= MOST:
        final = ""
    strategy = BudgetForcing(minimum=min(minimum, maximum), maximum=maximum, trigger=trigger, times=times, final=final)
    prompts = [*PROMPTS, *([5, n] for n in range(4))]
    expected = [
        forced(p, strategy.minimum, maximum, TOKENIZER.encode(trigger), times, TOKENIZER.encode(final)) for p in prompts
    ]
    assert texts(strategy, asked(prompts)) == expected


def test_budget_forcing_without_a_budget_is_greedy_and_what_is_put_counts() -> None:
    assert BudgetForcing()(MODEL, asked()) == Greedy()(MODEL, asked())
    prompt = next([5, n] for n in range(200) if len(without_cache(lambda x: MODEL(x)[0, -1], [5, n], 9)) == 3)
    (plain,) = Greedy()(MODEL, asked([prompt]))
    assert plain.ids[-1] == END
    assert BudgetForcing(minimum=3, trigger="ab")(MODEL, asked([prompt])) == [plain]  # is long enough
    (longer,) = BudgetForcing(minimum=4, times=1, trigger="ab")(MODEL, asked([prompt]))
    assert longer.ids[:4] == [*plain.ids[:2], *TOKENIZER.encode("ab")]
    # 3 tokens, of which the end is taken away, 2 that are put there, and what follows
    assert longer.passes == 3 + len(longer.ids) - 4 and longer.tokens == longer.passes + 2


def test_a_drawn_answer_is_forced_with_draws_of_its_own() -> None:
    strategy = BudgetForcing(minimum=9, trigger="W", temperature=1.0)
    assert texts(BudgetForcing(temperature=1.0), asked()) == texts(Sample(), asked())
    assert texts(strategy, asked()) == texts(strategy, asked()) != texts(strategy, asked(seed=1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"minimum": 9, "maximum": 8}, "minimum: 9 tokens are more than the maximum, 8"),
        ({"final": "x"}, "final: stands behind an answer that was cut"),
    ],
)
def test_budgets_that_do_not_fit_each_other(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        BudgetForcing(**settings)


def test_budgets_that_do_not_fit_the_answer() -> None:
    for strategy in (BudgetForcing(maximum=11), BudgetForcing(minimum=11), BudgetForcing(maximum=10, final="x")):
        with pytest.raises(ValueError, match=r"budget_forcing: m\w+ 1\d .*lower it"):
            strategy.check(10)
        strategy.check(12)
    with pytest.raises(ConfigError, match=r"8 tokens and 4 of `final` leave no room in max_new_tokens, 10"):
        BudgetForcing(maximum=8, final="abcd")(MODEL, asked())


@pytest.mark.parametrize("weight", [0.5, 1.0, -1.0])
def test_proxy_tuned_answers_are_those_of_the_sum_of_logits(weight: float) -> None:
    tuned, untuned = lively(2), lively(3)

    def logits(ids: torch.Tensor) -> torch.Tensor:
        base, plus, minus = (model(ids)[0, -1].double().log_softmax(-1) for model in (MODEL, tuned, untuned))
        return base + weight * (plus - minus)

    strategy = ProxyTuned(tuned="tuned", untuned="untuned", weight=weight)
    room = [min(MOST, CONTEXT - len(prompt)) for prompt in PROMPTS]
    expected = [without_cache(logits, prompt, most) for prompt, most in zip(PROMPTS, room, strict=True)]
    assert (
        texts(strategy, asked(PROMPTS * 20)) == expected * 20
    )  # more than there are rows: some join others that go on
    assert expected != texts(Greedy(), asked())


def test_without_weight_or_beside_itself_the_tuned_model_is_told() -> None:
    assert ProxyTuned(tuned="tuned", untuned="untuned", weight=0.0)(MODEL, asked()) == Greedy()(MODEL, asked())
    beside = ProxyTuned(tuned="tuned", untuned="same")(MODEL, asked())
    assert [found.ids for found in beside] == [found.ids for found in Greedy()(lively(2), asked())]
    drawn = ProxyTuned(tuned="tuned", untuned="untuned", weight=0.0, temperature=0.9, top_p=0.7, min_p=0.05)
    assert texts(drawn, asked(seed=3)) == texts(Sample(temperature=0.9, top_p=0.7, min_p=0.05), asked(seed=3))


@pytest.mark.parametrize(
    "kind", [lambda name: ProxyTuned(tuned="same", untuned=name), lambda name: Speculative(draft=name)]
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", r"data/assistants/nobody: no such folder: copy a model there"),
        ("link", r"data/assistants/link is a link to a folder, behind which DVC does not look"),
        ("torn", r"data/assistants/torn/config.json: no such file"),
        ("short", r"data/assistants/short: reads 32 tokens, the model it assists 96: take one that reads as many"),
        ("wide", r"data/assistants/wide: has other tokens than the model it assists"),
    ],
)
def test_assistants_that_cannot_be_used(kind: Any, name: str, said: str) -> None:
    Path("data/assistants/torn").mkdir(exist_ok=True)
    if not Path("data/assistants/link").exists():
        Path("data/assistants/link").symlink_to("tuned")
    with pytest.raises(ConfigError, match=said):
        kind(name)(MODEL, asked())


def test_names_that_are_no_folders_names() -> None:
    for name in ("../a", "", "a/b", ".."):
        with pytest.raises(ValidationError, match="pattern"):
            Speculative(draft=name)
    with pytest.raises(ValidationError, match="tuned and untuned are both a"):
        ProxyTuned(tuned="a", untuned="a")
    assert ProxyTuned(tuned="a", untuned="b").assistants == ["a", "b"] and Speculative(draft="c").assistants == ["c"]
