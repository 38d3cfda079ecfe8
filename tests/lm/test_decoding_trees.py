"""Trees of steps, revisions and answers by difficulty: by hand, and beside a slow way to the same answer."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from lm.config import ConfigError
from lm.problems.answers import vote_of
from lm.sampler import Completion, generate
from lm.strategies import BestOf, ByDifficulty, Greedy, Majority, Revise, Tree
from lm.strategies.base import DecodedAnswer, PromptBatch, number_of
from lm.strategies.best_of import mean_logp, select_index
from lm.strategies.by_difficulty import EASY, HARD, MIDDLING, bin_of
from lm.strategies.named import strategy_of
from lm.strategies.tree import _Search, step_of
from tests.lm.strategies import CONTEXT, END, MODEL, MOST, PROMPTS, TOKENIZER, asked


def test_a_step_ends_with_its_delimiter_or_after_so_many_tokens() -> None:
    ids = TOKENIZER.encode("ab\ncd\n")
    assert step_of(ids, TOKENIZER, "\n", 16) == 3 and step_of(ids, TOKENIZER, "\n", 2) == 2
    assert step_of(ids, TOKENIZER, "x", 16) == 6 and step_of([], TOKENIZER, "\n", 16) == 0


@pytest.mark.parametrize("by", ["verifier", "likelihood"])
def test_a_tree_of_one_round_is_the_best_of_as_many(by: Any) -> None:
    assert Tree(samples=4, keep=2, depth=1, by=by)(MODEL, asked()) == BestOf(samples=4, by=by)(MODEL, asked())


def grown(place: int, given: PromptBatch, by: str, rounds: int, samples: int, keep: int, step: int) -> DecodedAnswer:
    """The slow way: one prompt, a beginning at a time, with nothing but the sampler."""
    prompt, name = given.prompts[place], given.names[place]
    beginnings: list[Completion] = [Completion()]
    everything, tokens, passes = list[tuple[float | None, list[int]]](), 0, 0
    for turn in range(rounds):
        worths: dict[tuple[int, ...], list[float]] = {}
        kept: dict[tuple[int, ...], Completion] = {}
        each, longest = (samples if turn == 0 else samples // keep), 0
        for n, beginning in enumerate(beginnings):
            if len(beginning.ids) >= min(MOST, CONTEXT - len(prompt)):
                continue
            fitting = [b for b in beginnings if len(b.ids) < min(MOST, CONTEXT - len(prompt))]
            numbers = [
                number_of(name, f"{turn}:{fitting.index(beginning) * each + m}" if turn else m) for m in range(each)
            ]
            drawn = generate(MODEL, [prompt + beginning.ids] * each, MOST, 1.0, END, given.seed, draws=numbers)
            for completion in drawn:
                left = MOST - len(beginning.ids)
                tokens += len(completion.ids[:left])
                longest = max(longest, len(completion.ids[:left]))
                whole = Completion(beginning.ids + completion.ids[:left], beginning.logps + completion.logps[:left])
                assert given.score is not None
                value = given.score(place, TOKENIZER.decode(whole.ids)) if by == "verifier" else mean_logp(whole)
                everything.append((value, whole.ids))
                cut = min(len(beginning.ids) + step, len(whole.ids))
                if value is not None and whole.ids[cut - 1] != END:
                    worths.setdefault(tuple(whole.ids[:cut]), []).append(value)
                    kept.setdefault(tuple(whole.ids[:cut]), Completion(whole.ids[:cut], whole.logps[:cut]))
            assert n < keep
        passes += longest
        order = sorted(worths, key=lambda one: -sum(worths[one]) / len(worths[one]))
        beginnings = [kept[one] for one in order[:keep]]
    best = select_index([value for value, _ in everything], 0.0, 0.0)
    return DecodedAnswer(everything[best][1], tokens, passes)


@pytest.mark.parametrize("by", ["verifier", "likelihood"])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_tree_is_the_slow_ones(by: Any, keep: int) -> None:
    given = asked(seed=3)
    found = Tree(samples=4, keep=keep, depth=3, step=2, by=by, delimiter="\x01")(MODEL, given)
    slow = [grown(place, given, by, 3, 4, keep, 2) for place in range(len(PROMPTS))]
    assert found == slow
    assert found != Tree(samples=4, keep=keep, depth=2, step=2, by=by, delimiter="\x01")(MODEL, given)


def test_a_tree_finds_more_than_as_many_answers_beside_each_other() -> None:
    """What is worth something is early characters of a kind: those who begin with them are gone on from. 20 prompts, 24 answers
    each."""
    prompts = [[5, place] for place in range(20)]

    def score(place: int, text: str) -> float:
        return float(sum(character > "m" for character in text))

    given = replace(asked(prompts), score=score)
    values = {}
    for strategy in (Tree(samples=6, keep=2, depth=4, step=1), BestOf(samples=24)):
        found = strategy(MODEL, given)
        values[strategy.metric_label] = sum(score(0, TOKENIZER.decode(one.ids)) for one in found)
    assert values["tree_6_to_4"] > values["best_of_24"]


def test_a_step_is_worth_the_mean_of_its_answers_by_hand() -> None:
    """Two answers that begin with `a` are worth 2 each, one that begins with `b` 3; `c` has ended with the step, and is the best.
    What counts is the first of equals, and of the tokens those behind the beginning."""
    worth = {"ax": 2.0, "ay": 2.0, "bx": 3.0, "c": 9.0, "dx": 3.0}
    given = replace(asked([[1]]), score=lambda place, text: worth[text])
    drawn = [
        (Completion(), Completion([*TOKENIZER.encode(text), END], [-1.0] * (len(text) + 1), True)) for text in worth
    ]
    search = _Search()
    Tree(samples=5, keep=1, step=1)._grow(given, 0, search, drawn[:3] + drawn[4:])
    assert [TOKENIZER.decode(one.ids) for one in search.open] == ["b"] and (search.tokens, search.passes) == (12, 3)
    search = _Search()
    Tree(samples=6, keep=3, step=2)._grow(given, 0, search, drawn)
    assert [TOKENIZER.decode(one.ids) for one in search.open] == ["bx", "dx", "ax"]
    behind = Completion(TOKENIZER.encode("b"), [-1.0])
    search = _Search()
    Tree(samples=1, keep=1, step=1)._grow(
        given, 0, search, [(behind, Completion([*TOKENIZER.encode("x"), END], [-2.0, -3.0], True))]
    )
    assert search.answers[0].logps == [-1.0, -2.0, -3.0] and (search.tokens, search.passes) == (2, 2)
    assert [one.ids for one in search.open] == [TOKENIZER.encode("bx")]


def test_what_has_no_score_is_no_beginning_and_taken_where_nothing_has_one() -> None:
    given = replace(asked(), score=lambda place, text: None)
    drawn = BestOf(samples=4).sample_completions(MODEL, given, 4)
    for found, some in zip(Tree(samples=4, keep=2, step=2)(MODEL, given), drawn, strict=True):
        assert found == DecodedAnswer(some[0].ids, sum(len(c.ids) for c in some), max(len(c.ids) for c in some))


def test_nobody_to_score_a_tree() -> None:
    with pytest.raises(ConfigError, match=r"^tree: there is nobody to score answers: take by: likelihood"):
        Tree()(MODEL, replace(asked(), score=None))
    with pytest.raises(ConfigError, match=r"^strategy: tree: there is nobody to score answers"):
        strategy_of("tree")
    with pytest.raises(ConfigError, match=r"^strategy.samples: 128 at most"):
        strategy_of({"name": "tree", "by": "likelihood", "samples": 64, "depth": 3})
    assert strategy_of({"name": "tree", "by": "likelihood"}).answers == 32
    with pytest.raises(ValidationError, match=r"samples must be a multiple of keep \(got 5 and 2\)"):
        Tree(samples=5)


def test_a_revision_is_asked_for_with_the_answer_before_it() -> None:
    """Greedily, by the sampler alone. An answer that did not end is the last."""
    again = TOKENIZER.chat("so?")
    found = Revise(turns=2, ask="so?")(MODEL, asked())
    turns = []
    for one, prompt in zip(found, PROMPTS, strict=True):
        answers = []
        for _ in range(3):
            following = prompt + (answers[-1].ids + again if answers else [])
            if len(following) >= CONTEXT or (answers and not answers[-1].finished):
                break
            answers += generate(MODEL, [following], MOST, 0.0, END, 0)
        tokens = sum(len(answer.ids) for answer in answers)
        assert one == DecodedAnswer(answers[-1].ids, tokens, tokens)
        turns.append(len(answers))
    assert max(turns) > 1 and min(turns) == 1
    assert Revise(turns=2, ask="so?")(MODEL, asked()) != Revise(turns=2, ask="no")(MODEL, asked())
    assert Revise(turns=2)(MODEL, asked()) != Greedy()(MODEL, asked())


def test_a_drawn_revision_draws_by_turn_name_and_seed() -> None:
    hot = Revise(turns=3, temperature=1.0, ask="so?")
    found = [[one.ids for one in hot(MODEL, asked(seed=seed))] for seed in (0, 1)]
    assert found[0] != found[1]
    numbers = [number_of(name, 0) for name in asked().names]
    first = generate(MODEL, PROMPTS, MOST, 1.0, END, 0, draws=numbers)
    cut = [place for place, one in enumerate(first) if not one.finished]
    assert cut and all(found[0][place] == first[place].ids for place in cut)


def test_the_majority_of_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [["4", "5", "4", "6"], ["1", "2", "2", "1"]]
    turn = iter(range(4))

    def written(model: Any, prompts: Any, *rest: Any, **more: Any) -> list[Completion]:
        now = next(turn)
        return [Completion([*TOKENIZER.encode(some[now]), END], [], True) for some in said]

    monkeypatch.setattr("lm.strategies.revise.generate", written)
    found = Revise(turns=3, keep="majority")(MODEL, asked(PROMPTS[:2]))
    assert [TOKENIZER.decode(one.ids) for one in found] == ["4", "1"] and [one.tokens for one in found] == [8, 8]


def test_a_template_that_is_not_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TOKENIZER, "own_template", True)
    with pytest.raises(
        ConfigError, match=r"^revise: a turn more can be written behind a prompt in our own chat template"
    ):
        Revise()(MODEL, asked())


def test_how_hard_a_prompt_is_by_hand() -> None:
    """Three of four agree: easy from 0.75 on. Two of four are neither, one of four is hard, and so is nothing said at all."""
    votes = {EASY: ["4", "4", "4", "5"], MIDDLING: ["4", "4", "5", "6"], HARD: ["4", None, None, "5"]}
    assert {kind: bin_of(some, 0.75, 0.4) for kind, some in votes.items()} == {kind: kind for kind in votes}
    assert bin_of([None, None], 0.75, 0.0) == MIDDLING and bin_of([None, None], 0.75, 0.1) == HARD
    assert bin_of(votes[MIDDLING], 0.5, 0.5) == EASY and bin_of(votes[MIDDLING], 0.51, 0.5) == MIDDLING


def test_each_kind_gets_its_answers_and_pays_for_them() -> None:
    prompts = [[5, place] for place in range(40)]
    given, method = asked(prompts), ByDifficulty(first=2, samples=4, most=8, easy=1.0, hard=0.6, temperature=0.05)
    drawn = method.sample_completions(MODEL, given, 8)
    found, kinds = method(MODEL, given), Counter[int]()
    majority = {n: Majority(samples=n, temperature=0.05)(MODEL, given) for n in (2, 8)}
    for place, (one, some) in enumerate(zip(found, drawn, strict=True)):
        votes = [vote_of(TOKENIZER.decode(c.ids)) for c in some]
        kind = EASY if votes[0] == votes[1] is not None else HARD
        kinds[kind] += 1
        expected = majority[2 if kind == EASY else 8][place]
        lengths = [len(c.ids) for c in some]
        passes = max(lengths[:2]) + (0 if kind == EASY else max(lengths[2:]))
        assert one == DecodedAnswer(expected.ids, expected.tokens, passes)
    assert min(kinds.values()) > 4
    odd = ByDifficulty(first=2, samples=4, most=7, easy=1.0, hard=0.6, temperature=0.05)(MODEL, given)
    assert sum(one.tokens for one in odd) < sum(one.tokens for one in found)
    middling = ByDifficulty(first=2, samples=4, most=8, easy=1.0, hard=0.0, temperature=0.05)(MODEL, given)
    four = Majority(samples=4, temperature=0.05)(MODEL, given)
    assert all(one.ids in (four[place].ids, majority[2][place].ids) for place, one in enumerate(middling))
    assert sum(one.tokens for one in middling) < sum(one.tokens for one in found)


def test_a_hard_prompt_may_be_searched_for() -> None:
    given = asked()
    method = ByDifficulty(first=2, samples=2, most=16, easy=1.0, hard=1.0, hard_by="tree", top_p=0.9)
    tree = Tree(samples=4, keep=2, depth=4, by="likelihood", top_p=0.9)(MODEL, given)
    drawn = method.sample_completions(MODEL, given, 2)
    for one, found, some in zip(method(MODEL, given), tree, drawn, strict=True):
        lengths = [len(c.ids) for c in some]
        assert one == DecodedAnswer(found.ids, found.tokens + sum(lengths), found.passes + max(lengths))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first": 9}, r"first, samples and most must not fall \(got 9, 8 and 16\)"),
        ({"samples": 17}, r"first, samples and most must not fall"),
        ({"hard": 0.8}, r"hard: a share of 0.8 is above easy, 0.75"),
        ({"hard_by": "tree", "most": 12}, r"most must be a multiple of 8 where hard_by is tree \(got 12\)"),
    ],
)
def test_what_makes_no_sense_is_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ByDifficulty(**changes)


KNOBS: list[tuple[Any, list[dict[str, Any]]]] = [
    (
        Tree(samples=4, keep=2, depth=3, step=2, by="likelihood"),
        [
            *({"samples": 6}, {"keep": 1}, {"depth": 2}, {"step": 3}, {"by": "verifier"}, {"temperature": 0.7}),
            *({"top_p": 0.7}, {"min_p": 0.1}),  # delimiter: of bytes at random, test_a_step_ends_with_its_delimiter
        ],
    ),
    (Revise(ask="so?"), [{"turns": 2}, {"ask": "no"}, {"temperature": 1.0}]),  # keep: test_the_majority_of_revisions
    (
        ByDifficulty(first=3, samples=4, most=8, easy=0.9, hard=0.5, temperature=0.05),
        [
            *({"first": 2}, {"samples": 6}, {"most": 16}, {"easy": 0.6}, {"hard": 0.8}, {"hard_by": "tree"}),
            *({"temperature": 0.1}, {"top_p": 0.5}, {"min_p": 0.3}),
        ],
    ),
]


@pytest.mark.parametrize(("method", "changes"), KNOBS, ids=lambda each: getattr(each, "name", ""))
def test_every_parameter_changes_what_is_found(method: Any, changes: list[dict[str, Any]]) -> None:
    given = asked([[5, place] for place in range(24)])
    found = [method(MODEL, given)]
    found += [type(method)(**{**method.model_dump(), **change})(MODEL, given) for change in changes]
    same = [[n, m] for n in range(len(found)) for m in range(n) if found[n] == found[m]]
    assert not same, [[changes[n - 1] for n in pair] for pair in same]
