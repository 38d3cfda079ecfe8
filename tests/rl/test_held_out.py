"""Problems that a policy is never asked: which they are, how they are read, and when it is said that reward and they part ways."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from lm.problems import Segments
from lm.problems.example import Example
from tasks.rl.answers import answer_problems
from tasks.rl.contracts import held_out as found_wrong
from tasks.rl.held_out import WINDOW, HeldOut, parted_ways, split_held_out
from tasks.rl.learning import Learning
from tasks.rl.rewards import Correct
from tasks.rl.stage import run
from tests.rl.toys import TOKENIZER, Parity, Said, config, learning, policy, trained

quick = settings(deadline=None, max_examples=25, derandomize=True)


def problems(prompts: list[str]) -> list[Example]:
    return [Example(str(place), prompt, "", "") for place, prompt in enumerate(prompts)]


@quick
@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=20), st.integers(0, 20))
def test_every_problem_is_asked_or_held_out_and_none_of_one_prompt_is_both(prompts: list[str], count: int) -> None:
    every = problems(prompts)
    try:
        asked, held_out = split_held_out(every, count)
    except ConfigError:
        assert count > 0
        return
    assert sorted(asked + held_out, key=lambda example: int(example.id)) == every
    assert not {e.prompt for e in asked} & {e.prompt for e in held_out}
    assert count <= len(held_out) if count else held_out == []
    if len(set(prompts)) == len(prompts):
        assert len(held_out) == count


def test_what_is_held_out_depends_on_the_prompt_alone_and_something_is_left() -> None:
    every = problems([f"question {number}" for number in range(30)])
    _, held_out = split_held_out(every, 5)
    _, turned = split_held_out(every[::-1], 5)
    assert held_out == turned[::-1]
    for count in (30, 31):
        with pytest.raises(ConfigError, match=rf"^rl.held_out: {count} of 30 problems leave none to ask"):
            split_held_out(every, count)


def test_a_text_is_held_out_whole(tmp_path: Path) -> None:
    """What is asked of a text stands in the prompts of its other problems, which `next_token` learns."""
    texts = [" ".join(f"Text {n} has w{n}x{k} in it." for k in range(5)) for n in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    chosen = Segments(folder=str(tmp_path), words=1)
    asked, held_out = split_held_out(chosen.examples("rl"), 30, chosen)
    assert len(held_out) >= 30 and not {chosen.key(e) for e in asked} & {chosen.key(e) for e in held_out}
    given = config(chosen, held_out=10_000)
    (finding,) = found_wrong(given)
    assert "leave none to ask" in str(finding)
    given = config(chosen, held_out=len(asked + held_out) - 1)
    (finding,) = found_wrong(given)
    assert "leave none to ask, as one text or question is never divided; hold fewer out" in str(finding)


def test_a_run_asks_nothing_of_a_text_that_is_held_out(tmp_path: Path) -> None:
    texts = [f"Has w{n} in it, too. Of w{n} it is." for n in range(30)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    given = config(Segments(folder=str(tmp_path), words=1), held_out=3, steps=1, samples=2, max_new_tokens=2)
    fit = [e for e in given.problems.examples("rl") if len(TOKENIZER.chat(e.prompt)) <= 46]
    asked, held_out = split_held_out(fit, 3, given.problems)
    assert len(held_out) == 4 and len(asked) > 4  # a text is of four problems
    trained(tmp_path / "run", given)
    assert run(given, tmp_path / "run", Said())["problems"] == len(asked)


def test_parting_ways_by_hand() -> None:
    # 3 readings of 100 problems: 0.6 and then 0.5 are 0.1 apart, of which two standard errors are 2 sqrt(2 x 0.55 x 0.45 / 300) = 0.081
    rewards, fell = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.6] * 3 + [0.5] * 3
    assert parted_ways(rewards, fell, 100)
    assert not parted_ways(rewards, fell, 60)  # 0.105
    assert not parted_ways(rewards[::-1], fell, 100) and not parted_ways(rewards, fell[::-1], 100)
    assert not parted_ways(rewards[1:], fell[1:], 100)
    assert parted_ways([9.0, *rewards], [0.0, *fell], 100)  # the oldest is beyond the window
    assert not parted_ways(rewards, [0.0] * 6, 100) and not parted_ways(rewards, [1.0] * 6, 100)


def test_it_reads_every_so_many_rollouts_and_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Killed in the middle it says the same."""
    accuracies = [0.9] * WINDOW + [0.4] * (WINDOW + 2)
    asked = iter(accuracies)
    whole = HeldOut(lambda: next(asked), 200, 2)
    metrics = []
    for number in range(2 * len(accuracies)):
        metrics.append(whole.observe(number, number / 100)["held_out_accuracy"])
        other = HeldOut(lambda: next(asked), 200, 2)
        other.load({name: tensor.clone() for name, tensor in whole.state().items()})
        if number == 2 * (2 * WINDOW - 1) - 1:
            assert capsys.readouterr().err == ""
            whole = other
    assert metrics == [value for value in accuracies for _ in range(2)]
    # readings at 0, 2, 4 and 6, 8, 10: means of the rollouts since the one before, 0, 0.015, 0.035 and 0.055, 0.075, 0.095
    said = "the reward rose from 0.017 to 0.075, while 40% of the problems held out are right and not 90%"
    assert capsys.readouterr().err == (
        f"rl: rollout 10: {said} (means of 3 readings): what earns is no longer what is asked\n"
    )


def test_the_curve_is_the_greedy_accuracy_of_the_weights_that_sampled(tmp_path: Path) -> None:
    """Of the problems that are held out, before the first update and after it; nothing of it is in the weights."""
    given = config(held_out=5, held_out_every=1, minibatches=1, updates=1, steps=2)
    examples = Parity().examples("rl")
    asked, held_out = split_held_out(examples, 5)
    found = answer_problems(
        policy(), TOKENIZER, Parity(), given.environment, [Correct()], learning(given).reward_context(0), held_out, [[]] * 5, 1, 0.0, 3
    )  # fmt: skip
    learners = [
        Learning(given.model_copy(update={"seed": seed}), policy(), TOKENIZER, asked, held_out=held_out)
        for seed in range(6)
    ]
    assert {learner._right() for learner in learners} == {found.scores_GS.nanmean().item()}  # greedy: no seed matters
    _, steps = trained(tmp_path / "read", given)
    assert steps[0]["held_out_accuracy"] == pytest.approx(found.scores_GS.nanmean().item())
    assert 0 < len(asked) == len(examples) - 5 and torch.isfinite(found.scores_GS).any()
    weights, rare = trained(tmp_path / "rarely", given.model_copy(update={"held_out_every": 9}))
    assert weights == trained(tmp_path / "again", given)[0]
    assert rare[1]["held_out_accuracy"] == rare[0]["held_out_accuracy"] == steps[0]["held_out_accuracy"]
    assert "held_out_accuracy" not in trained(tmp_path / "none", config(steps=1))[1][0]
