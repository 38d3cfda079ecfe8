"""Demonstrations beside rollouts: of which problems, instead of which answers, with which share of the loss."""

import math
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from lm.optimizers import AdamW
from lm.problems.example import Example, Score
from lm.training.data.conversations import places, token_logps
from tasks.rl.demonstrations import Hybrid, Interleaved, NextToken, Unused
from tasks.rl.update import answers_of, in_parts, prediction_mask, with_demonstrations
from tests.neighbours import assert_all_differ
from tests.rl.toys import TOKENIZER, Parity, config, learning, policy, trained

NAN = math.nan
# of four problems three quarters, nothing, a quarter and nothing were right; of a fifth nothing is known
SCORES = torch.tensor([[1, 1, 0, 1], [0, 0, NAN, 0], [0, 1, 0, 0], [0, 0, 0, 0], [NAN] * 4])


def test_hybrid_shows_what_fails_in_the_place_of_its_answers() -> None:
    shown = Hybrid(weight=2.0).selector().select([7, 3, 5, 9, 1], SCORES)
    assert shown.places_D == [3, 9] and shown.instead_G.tolist() == [False, True, False, True, False]
    assert shown.share == pytest.approx(2 / 5)
    assert Hybrid(gate=0.25).selector().select([7, 3, 5, 9, 1], SCORES).places_D == [3, 5, 9]


def test_interleaved_waits_for_a_batch_and_keeps_each_problem_once() -> None:
    keeper = Interleaved(batch=3).selector()
    assert keeper.select([7, 3, 5, 9, 1], SCORES).places_D == []
    assert keeper.select([0, 9, 2, 3, 4], SCORES).places_D == []  # both wait already
    again = Interleaved(batch=3).selector()
    again.load(keeper.state())
    for each in (keeper, again):
        shown = each.select([0, 11, 2, 12, 4], SCORES)
        assert shown.places_D == [3, 9, 11] and not shown.instead_G.any() and shown.share == pytest.approx(1 / 3)
        assert each.state()["waiting"].tolist() == [12]
    assert Unused().selector().select([0, 1], SCORES[:2]).places_D == []


class Hopeless(Parity):
    """Every answer is wrong."""

    def score(self, example: Example, text: str) -> Score:
        return Score(0.0)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("method", [Hybrid(weight=0.5), Interleaved(batch=4, weight=0.5)], ids=lambda m: m.name)
def test_where_all_fails_an_update_is_one_of_fine_tuning(method: Hybrid | Interleaved, shards: int) -> None:
    """Of the demonstrations' own tokens, each with the share of its demonstration, in two minibatches as in the whole."""
    model, plain = policy(), policy()
    given = config(Hopeless(), demonstrations=method, temperature=1.0, updates=1, shards=shards)
    learner = learning(given, model)
    batches = [learner.batch_at(step) for step in (0, 1)]
    for batch in batches:
        assert batch.rows == max(2, shards)
        (batch.loss(slice(0, batch.rows))[0] / 2).backward()
    asked = [each.index for each in learning(given).chooser.choose(0, 0, 4)]
    examples = given.problems.examples("rl")
    for place in asked:
        prompt = TOKENIZER.chat(examples[place].prompt)
        ids = torch.tensor([[*prompt, *TOKENIZER.encode("shown"), TOKENIZER.end_id]])
        answer = torch.arange(ids.shape[1] - 1)[None] >= len(prompt) - 1
        logps = token_logps(plain, ids, places(answer.float()))
        (-0.5 / 4 * logps[answer].mean()).backward()
    for got, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-6)  # sums in another order, fp32


def test_rows_beside_answers_have_no_share_of_the_policy() -> None:
    learner = learning(config())
    learner.batch_at(0)
    rollout, rows_M = learner.rollouts.at(1)
    weights_MT = rollout.mask_BT[rows_M] / 9
    rows = answers_of(rollout, rows_M, weights_MT, every=False)
    shown = torch.tensor([[5, 6, 7]]).repeat(2, 1)
    both = with_demonstrations(rows, shown, torch.tensor([[0.0, 0.5], [0.25, 0.25]]), pad_id=0)
    M = len(rows["ids"])
    assert M > 0 and not both["weights"][M:].any() and not both["advantages"][M:].any() and not both["old"][M:].any()
    assert torch.equal(both["weights"][:M], rows["weights"]) and torch.equal(
        both["shown"][M:, :2].sum(1), torch.full((2,), 0.5)
    )
    assert both["ids"][M:, :3].tolist() == shown.tolist() and not both["shown"][:M].any()
    cut = in_parts(both, 8)
    assert len(cut["ids"]) % 8 == 0 and int(prediction_mask(cut).sum()) == int((rows["weights"] > 0).sum()) + 3
    assert prediction_mask(cut).any(0)[-1] and cut["ids"].shape[1] == cut["old"].shape[1] + 1


def test_a_demonstration_that_does_not_fit_the_context_is_left_out() -> None:
    class Long(Hopeless):
        def examples(self, split: str) -> list[Example]:
            found = super().examples(split)
            return [replace(e, demonstration="shown" * (100 if place % 2 else 1)) for place, e in enumerate(found)]

    rollout = learning(config(Long(), demonstrations=Hybrid()))._rollout(0)
    assert rollout.shown_DN is not None and 0 < len(rollout.shown_DN) < 4
    assert rollout.shown_DN.shape[1] <= policy().config.context
    assert rollout.metrics["demonstrations"] == len(rollout.shown_DN)


class Hard(Parity):
    """Answers to problems with an even number are all wrong."""

    def score(self, example: Example, text: str) -> Score:
        return Score(0.0) if int(example.id) % 2 == 0 else super().score(example, text)


@pytest.mark.parametrize("resample", [0, 20])
def test_a_problem_that_gives_way_to_another_one_is_gathered(resample: int) -> None:
    """All that failed in the first rollout waits, whether its answers are learned from or not."""
    given = config(Hard(), resample=resample, demonstrations=Interleaved(batch=99))
    own = learning(given)
    drawn = own._asked(0)
    failed = drawn.verdicts.scores_GS.nanmean(1) == 0
    wanted = {problem.index for problem, each in zip(drawn.problems, failed.tolist(), strict=True) if each}
    assert wanted and (len(drawn.problems) > 4) == bool(resample)
    again = learning(given)
    again._rollout(0)
    assert set(again.selector.state()["waiting"].tolist()) == wanted


def test_with_resample_demonstrations_are_shown() -> None:
    rollout = learning(config(Hopeless(), resample=2, demonstrations=Interleaved(batch=5)))._rollout(0)
    assert rollout.metrics["problems_asked"] == 12 and rollout.metrics["demonstrations"] == 5
    assert rollout.shown_DN is not None and len(rollout.shown_DN) == 5 and len(rollout.mask_BT) == 16


def test_the_text_of_every_problem_is_read_as_in_pretraining() -> None:
    """The whole gradient, of answers that all fail: each prompt's tokens behind the end of a text, by a mean each, and nothing of
    what is asked."""
    model, plain = policy(), policy()
    given = config(Hopeless(), demonstrations=NextToken(weight=0.5), temperature=1.0, updates=1)
    learner = learning(given, model)
    for step in (0, 1):
        batch = learner.batch_at(step)
        (batch.loss(slice(0, batch.rows))[0] / 2).backward()
    examples = given.problems.examples("rl")
    for asked in learning(given).chooser.choose(0, 0, 4):
        ids = torch.tensor([[TOKENIZER.eos_id, *TOKENIZER.encode(examples[asked.index].prompt)]])
        logps = token_logps(plain, ids, torch.arange(ids.shape[1] - 1))
        (-0.5 / 4 * logps.mean()).backward()
    for got, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-6)  # sums in another order, fp32
    rollout = learning(given)._rollout(0)
    assert rollout.metrics["demonstrations"] == 4 and rollout.advantages_BT.shape[0] == 16


def test_hybrid_does_not_go_with_resample() -> None:
    with pytest.raises(ValueError, match=r"hybrid puts one .*: set resample to 0, or take interleaved") as raised:
        config(resample=1, demonstrations=Hybrid())
    assert config(resample=0, demonstrations=Hybrid()) and config(resample=1, demonstrations=Interleaved())
    assert len([line for line in str(raised.value).splitlines() if "hybrid" in line]) == 1


def test_every_parameter_changes_the_weights(tmp_path: Path) -> None:
    """Of two answers to a problem both fail often enough, at a rate that does not unteach that within a rollout."""
    methods = [
        Hybrid(),
        Hybrid(gate=0.5),
        Hybrid(weight=0.5),
        Interleaved(batch=1),
        Interleaved(batch=2),
        Interleaved(batch=2, weight=0.5),
        NextToken(),
        NextToken(weight=0.2),
    ]
    folders = count()
    assert_all_differ(
        lambda changes: trained(tmp_path / str(next(folders)), config(samples=2, optimizer=AdamW(lr=0.001), **changes))[
            0
        ],
        [[{"demonstrations": method}] for method in methods],
    )
