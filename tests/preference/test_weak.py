"""Pairs that a weaker model stands in for people in: by hand, on models, and what is refused."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lm.checkpoint import save_model
from lm.config import ConfigError
from lm.pairs import Weak
from lm.pairs.base import Pair, SkippedRow, SourceInputs
from lm.pairs.weak import majority_vote
from lm.problems.answers import vote_of
from lm.sampler import generate
from tasks.about.pairs import check_files
from tasks.about.sections import Sections
from tasks.tokenize.methods.bpe import Bpe
from tests.lm.models import toy_model
from tests.preference.made import TOKENIZER, Parity, writer
from tests.project import TINY

OWN: Any = [([1], "4"), ([2], "4"), ([1], "4"), ([3], "5"), ([4], None)]
WEAKER: Any = [([7], "5"), ([8], "4"), ([7], "5"), ([9], None), ([6], "6")]
SAMPLED: dict[str, Any] = {"samples": 16, "max_new_tokens": 6, "confidence": 0.1, "most": 3}


class Unasked(Parity):
    """Problems whose verifier must not be asked, and whose demonstrations tell nothing."""

    def score(self, example: Any, text: str) -> Any:
        raise AssertionError("nobody but the models says what is right")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("preferences")
    for name, seed in (("weak", 5), ("same", 4)):
        (found / name).mkdir()
        save_model(found / name, writer(seed), TOKENIZER)
    return found


def given_of(folder: Path) -> SourceInputs:
    return SourceInputs("preference.pairs", folder, lambda: [], Unasked(), writer(), TOKENIZER, 0)


def test_the_share_that_agrees_by_hand() -> None:
    assert majority_vote(["4", "5", "4", None]) == ("4", 0.5)
    assert majority_vote(["5", "4", "4", "5"]) == ("5", 0.5), "the first of equals"
    assert majority_vote([None, None]) == (None, 0.0) and majority_vote([]) == (None, 0.0)


def test_pairs_by_hand() -> None:
    """Three of the start model's five answers end in 4, two of the weaker one's five in 5."""
    judged, labelled = Weak(most=9), Weak(judge="weak", most=9, confidence=0.4)
    assert judged.pairs_of(OWN, WEAKER) == [([1], [7]), ([2], [6])]
    assert Weak().pairs_of(OWN, WEAKER) == [([1], [7])]
    assert labelled.pairs_of(OWN, WEAKER) == [([3], [1])]


@pytest.mark.parametrize(
    ("judge", "confidence", "own", "weaker", "reason"),
    [
        ("self", 0.61, OWN, WEAKER, "not_sure"),
        ("weak", 0.41, OWN, WEAKER, "not_sure"),
        ("self", 0.6, [([1], None)], WEAKER, "no_answer_ended"),
        ("weak", 0.6, OWN, [], "no_answer_ended"),
        ("self", 0.6, OWN, [([8], "4"), ([9], None)], "all_answers_right"),
        ("weak", 0.6, OWN, [([8], "9")], "no_answer_right"),
        ("weak", 0.6, OWN[:2], [([8], "4")], "all_answers_right"),
    ],
)
def test_a_problem_without_a_pair_says_why(judge: Any, confidence: float, own: Any, weaker: Any, reason: str) -> None:
    assert Weak(judge=judge, confidence=confidence).pairs_of(own, weaker) == reason


def answers(model: Any, prompts: list[list[int]], seed: int) -> list[list[tuple[list[int], Any]]]:
    """The slow way: 16 answers to each prompt, each with what it ends in."""
    every = [prompt for prompt in prompts for _ in range(16)]
    found = generate(model, every, 6, 1.0, TOKENIZER.end_id, seed)
    votes = [(c.ids, vote_of(TOKENIZER.decode(c.ids)) if c.finished else None) for c in found]
    return [votes[n : n + 16] for n in range(0, len(votes), 16)]


@pytest.mark.parametrize(("judge", "seed"), [("self", 0), ("weak", 0), ("self", 3)])
def test_each_side_is_of_the_model_that_it_is_to_be_of(folder: Path, judge: Any, seed: int) -> None:
    given = replace(given_of(folder), seed=seed)
    made = [one for one in Weak(**SAMPLED, judge=judge)(given) if isinstance(one, Pair)]
    assert len(made) > 2
    problems = Parity().examples("rl")
    prompts = [TOKENIZER.chat(example.prompt) for example in problems]
    own, weaker = (answers(writer(4 + n), prompts, seed * 1_000_003 + n) for n in (0, 1))
    places = {example.id: place for place, example in enumerate(problems)}
    for pair in made:
        place = places[pair.where]
        judging = own[place] if judge == "self" else weaker[place]
        [(right, count)] = Counter(vote for _, vote in judging if vote is not None).most_common(1)
        assert count / 16 >= 0.1 and pair.prompt_ids == prompts[place]
        assert (pair.chosen, right) in own[place]
        texts = [TOKENIZER.decode(ids) for ids, _ in (weaker if judge == "self" else own)[place]]
        rejected = TOKENIZER.decode(pair.rejected)
        assert rejected in texts and vote_of(rejected) != right and pair.rejected[-1] == TOKENIZER.end_id


def test_another_weaker_model_gives_other_pairs_and_the_same_model_draws_otherwise(folder: Path) -> None:
    found = [list(Weak(**SAMPLED, model=name)(given_of(folder))) for name in ("weak", "same")]
    assert found[0] != found[1] and any(isinstance(one, Pair) for one in found[1])


def test_prompts_that_do_not_fit_the_weaker_model_have_none_of_its_answers(folder: Path) -> None:
    (folder / "short").mkdir()
    save_model(folder / "short", toy_model(seed=5, tied=False, context=13), TOKENIZER)  # 7 tokens and 6 new ones
    problems = Parity().examples("rl")
    fitting = {e.id for e in problems if len(TOKENIZER.chat(e.prompt)) <= 7}
    assert 0 < len(fitting) < len(problems)
    source = Weak(**SAMPLED, model="short", judge="weak")
    silent = {e.id for e in problems} - fitting
    left_out = {one.where: one.reason for one in source(given_of(folder)) if isinstance(one, SkippedRow)}
    assert {left_out.get(where) for where in silent} == {"no_answer_ended"}


def test_answers_in_other_tokens_are_read_in_the_start_models(folder: Path) -> None:
    other = Bpe(vocab_size=300)(iter(["the quick brown fox " * 9, "12 + 34 = 46 x"]), Path())
    assert other.to_json() != TOKENIZER.to_json()
    (folder / "other").mkdir()
    model = toy_model(seed=5, tied=False, vocab_size=other.vocab_size)
    with torch.no_grad():
        model.head.weight[other.end_id] = 4 * (x := model.hidden(torch.arange(40)[None])[0].mean(0)) / x.square().sum()
    save_model(folder / "other", model, other)
    made = [one for one in Weak(**SAMPLED, model="other")(given_of(folder)) if isinstance(one, Pair)]
    assert made
    for pair in made:
        assert pair.rejected == [*TOKENIZER.encode(TOKENIZER.decode(pair.rejected)), TOKENIZER.end_id]
        assert len(pair.rejected) <= 6


def test_no_such_model_is_a_line(folder: Path) -> None:
    for name, said in (("none", "no such folder"), ("torn", "torn")):
        (folder / "torn").mkdir(exist_ok=True)
        with pytest.raises(
            ConfigError, match=rf"^preference.pairs: weak: {folder}/{name}.*{said if name == 'none' else ''}"
        ) as raised:
            list(Weak(model=name)(given_of(folder)))
        assert "\n" not in str(raised.value)


def test_preflight_says_that_it_is_not_there(folder: Path) -> None:
    def said(name: str) -> list[str]:
        section = {**TINY["preference"], "pairs": [{"name": "weak", "model": name}], "folder": str(folder)}
        return [str(found) for found in check_files("preference", Sections({**TINY, "preference": section}))]

    assert said("weak") == []
    assert said("none") == [
        f"params.yaml: preference.pairs: weak: {folder}/none: no such folder: copy the weaker model there"
    ]
