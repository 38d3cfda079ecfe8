"""Curricula: what every one of them must do, and cases worked by hand."""

import math
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lm.config import methods_of
from lm.optimizers import AdamW
from lm.problems.example import Example, Score
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation
from tasks.core.config import ConfigError
from tasks.rl import curricula
from tasks.rl.curricula import Bandit, ByEntropy, Hints, Shuffled
from tasks.rl.curricula.bandit import softmax, upper_bounds
from tasks.rl.curricula.base import Chooser, Curriculum, CurriculumContext, DrawnProblem, Outcome
from tasks.rl.curricula.by_entropy import entropies, levels_of, mixture, prompt_entropies
from tasks.rl.curricula.hints import next_level
from tasks.rl.demonstrations import NextToken
from tasks.rl.learning import Learning
from tasks.rl.rewards import Overlong, Repetition
from tests.conversations.folders import LLAMA2, strangers_folder
from tests.lm.models import other_tokenizer, toy_model
from tests.neighbours import assert_all_differ, neighbours
from tests.rl.toys import TOKENIZER, Parity, config, learning, policy, trained

METHODS = methods_of(curricula)
EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
EXAMPLES = [Example(str(i), f"p{i}", "", "0123456789", "easy" if i < 4 else "hard") for i in range(10)]
NAN = float("nan")


def outcome(
    asked: list[DrawnProblem], scores: list[list[float]], advantages: list[list[float]] | None = None
) -> Outcome:
    given = torch.tensor(scores, dtype=torch.float32)
    assert len(given) == len(asked)
    return Outcome(given, torch.tensor(advantages) if advantages else given - given.nanmean(1, keepdim=True))


def random_outcome(asked: list[DrawnProblem], seed: int) -> Outcome:
    return outcome(asked, torch.randint(0, 2, (len(asked), 3), generator=torch.Generator().manual_seed(seed)).tolist())


@EVERY
def test_as_many_problems_are_asked_as_are_wanted_and_the_same_again(method: type[Curriculum]) -> None:
    for number, draw, wanted in ((0, 0, 3), (1, 0, 12), (0, 1, 25)):
        first, again = (method().chooser(EXAMPLES, 5).choose(number, draw, wanted) for _ in range(2))
        assert first == again and len(first) == wanted
        assert all(0 <= asked.index < len(EXAMPLES) and 0 <= asked.hint < 1 for asked in first)
    other = method().chooser(EXAMPLES, 6)
    assert [other.choose(n, 0, 8) for n in range(2)] != [
        method().chooser(EXAMPLES, 5).choose(n, 0, 8) for n in range(2)
    ]


@EVERY
def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(method: type[Curriculum]) -> None:
    whole, parts = (method().chooser(EXAMPLES, 1) for _ in range(2))
    for number in range(6):
        for draw in range(2):
            expected, found = (each.choose(number, draw, 4) for each in (whole, parts))
            assert expected == found and whole.metrics(expected) == parts.metrics(found)
            for each in (whole, parts):
                each.learn(expected, random_outcome(expected, number))
            state = {name: tensor.clone() for name, tensor in parts.state().items()}
            parts = method().chooser(EXAMPLES, 1)
            parts.load(state)


@EVERY
def test_answers_without_a_verdict_tell_nothing(method: type[Curriculum]) -> None:
    with_them, without = (method().chooser(EXAMPLES, 1) for _ in range(2))
    for number in range(4):
        asked, same = (each.choose(number, 0, 5) for each in (with_them, without))
        assert asked == same
        known = random_outcome(asked, number)
        blind = torch.full((5, 1), NAN)
        with_them.learn(asked, known)
        without.learn(
            asked, Outcome(torch.cat([known.scores_GS, blind], 1), torch.cat([known.advantages_GS, blind], 1))
        )


def test_shuffled_asks_each_once_a_pass_and_then_in_another_order() -> None:
    chooser = Shuffled().chooser(EXAMPLES, 0)
    asked = [problem.index for number in range(4) for problem in chooser.choose(number, 0, 5)]
    assert sorted(asked[:10]) == sorted(asked[10:]) == list(range(10)) and asked[:10] != asked[10:]
    assert type(chooser) is Chooser and chooser.state() == {} == chooser.metrics([])


def test_the_bounds_and_their_softmax_by_hand() -> None:
    # 8 asked of the first and 0 of the second: 2 ln 9 is 4.394
    bounds = upper_bounds(np.array([0.5, 0.25]), np.array([8, 0]))
    assert bounds.tolist() == pytest.approx([0.5 + np.sqrt(4.394449 / 9), 0.25 + np.sqrt(4.394449)], abs=1e-6)
    assert softmax(np.array([1.0, 1.0 + 0.5 * np.log(3)]), 0.5).tolist() == pytest.approx([0.25, 0.75])


def test_a_level_that_teaches_is_asked_more_and_one_that_was_forgotten_again() -> None:
    chooser = Bandit(temperature=0.1, window=4).chooser(EXAMPLES, 0)
    assert chooser.probabilities_L.tolist() == [0.5, 0.5]
    easy, hard = DrawnProblem(0), DrawnProblem(5)
    for _ in range(50):
        chooser.learn([easy, hard], outcome([easy, hard], [[0, 0], [0, 1]], [[0.0, 0.0], [1.0, -1.0]]))
    assert chooser.probabilities_L[1] > 0.99  # 0.1 of exp(10)
    chosen = [problem.index >= 4 for problem in chooser.choose(0, 0, 40)]
    assert sum(chosen) > 35
    # the window is of four advantages: two problems of two answers each, and what was before is forgotten
    chooser.learn([hard, hard], outcome([hard, hard], [[1, 1], [1, 1]], [[0.0, 0.0], [0.0, 0.0]]))
    assert chooser.probabilities_L[1] < 0.5


def test_a_level_passes_over_its_own_problems() -> None:
    chooser = Bandit().chooser(EXAMPLES, 3)
    asked = [problem.index for number in range(6) for problem in chooser.choose(number, 0, 10)]
    for members in (range(4), range(4, 10)):
        of_level = [index for index in asked if index in members]
        turns = [of_level[start : start + len(members)] for start in range(0, len(of_level), len(members))]
        assert len(turns) > 2 and all(sorted(turn) == list(members) for turn in turns[:-1])
    assert chooser.metrics([DrawnProblem(0), DrawnProblem(1), DrawnProblem(9)]) == {
        "asked 0 easy": 2 / 3,
        "asked 1 hard": 1 / 3,
    }


def test_a_bandit_without_levels_says_so() -> None:
    with pytest.raises(ConfigError, match="rl.curriculum: bandit chooses between levels, .* none: .* or take shuffled"):
        Bandit().chooser([Example("1", "p", "", "")], 0)


@pytest.mark.parametrize(
    ("level", "scores", "expected"),
    [
        (0, [0.0, 0.0], 1),
        (2, [0.0, NAN], 3),
        (3, [0.0, 0.0], 3),
        (2, [0.0, 1.0], 2),
        (2, [0.5, 0.5], 2),
        (2, [1.0, 1.0, NAN], 1),
        (0, [1.0], 0),
        (2, [NAN, NAN], 2),
    ],
)
def test_a_hint_grows_where_all_fail_and_shrinks_where_all_are_right(
    level: int, scores: list[float], expected: int
) -> None:
    assert next_level(level, scores, 3) == expected


def test_a_problem_is_asked_with_its_own_hint() -> None:
    chooser = Hints(levels=4).chooser(EXAMPLES, 0)
    first = chooser.choose(0, 0, 10)
    assert {problem.hint for problem in first} == {0.0}
    chooser.learn(first, outcome(first, [[0.0, float(problem.index > 2)] for problem in first]))
    again = chooser.choose(1, 0, 10)
    assert {problem.index: problem.hint for problem in again} == {i: 0.2 if i <= 2 else 0.0 for i in range(10)}
    assert chooser.metrics(again) == {"hinted": pytest.approx(0.3), "hint": pytest.approx(0.06)}


def test_entropies_by_hand() -> None:
    """Of two equal chances ln 2, of one that is sure nothing, of 3/4 and 1/4 what the formula says."""
    logits = torch.tensor([[0.0, 0.0], [50.0, 0.0], [math.log(3.0), 0.0]])
    expected = [math.log(2), 0.0, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert entropies(logits).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("softcap", [None, 0.5])
@torch.no_grad()
def test_what_follows_a_prompt_is_measured_in_plain_text_one_at_a_time_or_together(softcap: float | None) -> None:
    """By the logits that the model samples from, capped where it caps them."""
    model = toy_model(seed=3, logit_softcap=softcap)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    examples = [Example(str(i), "some text " * i + "x", "", "") for i in range(9)]
    found_N = prompt_entropies(examples, model.train(), TOKENIZER)
    assert model.training and len({round(value, 6) for value in found_N}) > 3
    for example, value in zip(examples, found_N, strict=True):
        ids = [TOKENIZER.eos_id, *TOKENIZER.encode(example.prompt)][-48:]
        p_V = model(torch.tensor([ids]))[0, -1].softmax(-1).double()
        assert value == pytest.approx(-(p_V * p_V.log()).sum().item(), rel=1e-4)


@torch.no_grad()
def test_an_adopted_tokenizer_begins_a_text_as_a_document(tmp_path: Path) -> None:
    other_tokenizer().save(str(tmp_path / "tokenizer.json"))
    theirs = Tokenizer.adopt(tmp_path)
    model, example = toy_model(seed=3, vocab_size=theirs.vocab_size), Example("1", "some text", "", "")
    assert theirs.before
    begin = [theirs.eos_id, *theirs.before]
    p_V = model(torch.tensor([[*begin, *theirs.encode("some text")]]))[0, -1].softmax(-1).double()
    assert prompt_entropies([example], model, theirs)[0] == pytest.approx(-(p_V * p_V.log()).sum().item(), rel=1e-6)
    assert NextToken().conversation(theirs, example) == Conversation(begin, theirs.encode("some text"))


def test_a_mixture_moves_from_the_first_level_to_the_last() -> None:
    """Two draws: (1/4, 1/2, 1/4) half way; of a floor of 0.3 a tenth each."""
    assert [mixture(share, 3, 0.0).tolist() for share in (0, 0.5, 1)] == [[1, 0, 0], [0.25, 0.5, 0.25], [0, 0, 1]]
    assert mixture(1.0, 3, 0.3).tolist() == pytest.approx([0.1, 0.1, 0.8])
    assert levels_of(np.array([3.0, 1.0, 2.0, 1.0, 9.0]), 2) == [[1, 3, 2], [0, 4]]


def test_what_is_sure_is_asked_first_and_what_is_not_at_the_end() -> None:
    known = CurriculumContext(5, np.array([(7 * place) % 10 for place in range(10)], dtype=float))
    chooser = ByEntropy(levels=2, floor=0.0).chooser(EXAMPLES, 3, known)
    asked = [[known.entropy_N[problem.index] for problem in chooser.choose(number, 0, 10)] for number in range(5)]
    assert (
        max(asked[0]) <= 4 and min(asked[4]) >= 5 and sorted(asked[0]) == [value for value in range(5) for _ in (0, 1)]
    )
    means = [sum(each) / len(each) for each in asked]
    assert means[0] < means[2] < means[4]
    metrics = chooser.metrics([DrawnProblem(0), DrawnProblem(7)])
    assert metrics == {"asked_entropy": (0 + 49 % 10) / 2, "asked_level": 0.5}
    assert ByEntropy(levels=2, floor=0.2).at(0.25) == pytest.approx([0.8 * 0.75 + 0.1, 0.8 * 0.25 + 0.1])


def test_a_run_knows_its_rollouts_and_what_its_model_is_sure_of() -> None:
    """Of eight steps, four a rollout, the second is the last: nothing of the first level is left without a floor."""
    given = config(curriculum=ByEntropy(levels=2, floor=0.0), prompts=4)
    learner = learning(given)
    entropy_N = prompt_entropies(given.problems.examples("rl"), policy(), TOKENIZER)
    halves = [set(each) for each in levels_of(entropy_N, 2)]
    for number in range(2):
        assert {problem.index for problem in learner.chooser.choose(number, 0, 4)} <= halves[number]


class Failing(Parity):
    """Problems at which every answer fails, with the texts that were scored."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def score(self, example: Example, text: str) -> Score:
        self.texts.append(text)
        return Score(0.0)


def test_an_answer_goes_on_from_its_hint_which_is_scored_and_not_learned() -> None:
    """The loss has the model's own tokens alone; a part that counts tokens, too."""
    problems = Failing()
    whole = learning(config(problems, curriculum=Hints(levels=1), rewards=[Repetition(n=1)], prompts=12))
    plain, hinted = whole._rollout(0), whole._rollout(1)
    # half of "shown"
    assert not any(text.startswith("sh") for text in problems.texts[:48])
    assert all(text.startswith("sh") for text in problems.texts[48:])
    assert hinted.metrics["hinted"] == 1 and plain.metrics["hinted"] == 0
    prompts = [
        TOKENIZER.chat(problems.examples("rl")[problem.index].prompt) for problem in whole.chooser.choose(1, 0, 12)
    ]
    for row, prompt in zip(range(0, 48, 4), prompts, strict=True):
        start = len(prompt) + 2
        assert hinted.ids_BN[row, : len(prompt) + 2].tolist() == prompt + TOKENIZER.encode("sh")
        assert hinted.mask_BT[row].nonzero()[0].item() == start - 1


def test_a_hint_begins_as_an_adopted_template_begins_an_answer(tmp_path: Path) -> None:
    """With the blank that Llama 2's puts before it, and never with what ends it."""
    llama = Tokenizer.adopt(strangers_folder(tmp_path, LLAMA2))
    model, examples = toy_model(vocab_size=llama.vocab_size), Parity().examples("rl")
    whole = Learning(config(curriculum=Hints()), model, llama, examples)
    assert llama.spell(whole._hint(DrawnProblem(0, 1.0))) == f" {examples[0].demonstration} "
    assert (
        whole._hint(DrawnProblem(0, 0.4))
        == whole._hint(DrawnProblem(0, 1.0))[: int(0.4 * len(whole._hint(DrawnProblem(0, 1.0))))]
    )
    assert learning(config())._hint(DrawnProblem(0, 1.0)) == TOKENIZER.encode(examples[0].demonstration)


def test_a_hint_leaves_room_in_the_context() -> None:
    problems = Failing()
    whole = learning(
        config(problems, curriculum=Hints(levels=1), rewards=[Repetition(n=1)], prompts=12, max_new_tokens=41)
    )
    assert whole._rollout(1).ids_BN.shape[1] <= 48


class Long(Failing):
    """The same with demonstrations long enough that every step of a hint is a token at least."""

    def examples(self, split: str) -> list[Example]:
        return [replace(example, demonstration="shown" * 4) for example in super().examples(split)]


def changes(curriculum: Curriculum) -> dict[str, Any]:
    """Eight rollouts of twelve problems, of which some come again; the policy learns slowly enough to be still of two minds."""
    few = {"samples": 2, "updates": 1, "minibatches": 1, "max_new_tokens": 4, "optimizer": AdamW(lr=0.0005)}
    return {**few, "curriculum": curriculum, "rewards": [Overlong(buffer=1.0)]}


def test_every_parameter_changes_the_weights(tmp_path: Path) -> None:
    base = [Bandit(window=4), Hints(), Shuffled(), ByEntropy()]
    assert {type(method) for method in base} == set(METHODS)
    lists = [[method] for method in base[1:]]
    for method in base:
        lists += [each for name in type(method).model_fields if name != "name" for each in neighbours(method, name)]
    folders = count()

    def made(given: dict[str, Any]) -> str:
        return trained(tmp_path / str(next(folders)), config(Long(), **(given or changes(base[0]))))[0]

    assert_all_differ(made, [[changes(method) for method in each] for each in lists])
