"""The stage on a small model: what it learns from, and that every parameter of it counts."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lm.checkpoint import save_model
from lm.config import ConfigError, methods_of
from lm.linears import AdaLoRA, LoRA, VeRA
from lm.optimizers import AdamW
from lm.problems.example import Example
from lm.prompts import Ept, PromptTuning
from lm.temperature import COLDEST
from lm.tokenizer import Tokenizer
from lm.training.data import conversations
from lm.training.fast_forward import FastForward
from tasks.core.log import Log
from tasks.core.process import Stopped
from tasks.rl import advantages, losses
from tasks.rl.advantages import BestAndWorst, Gae, Grpo
from tasks.rl.curricula import Bandit
from tasks.rl.demonstrations import Interleaved
from tasks.rl.losses import PolicyGradient
from tasks.rl.losses.base import PolicyLoss
from tasks.rl.rewards import Correct, Format, LengthBudget, Overlong, Repetition
from tasks.rl.stage import RlConfig, run
from tasks.rl.step import loss_of
from tests.conversations.folders import CHATML, strangers_folder
from tests.lm.models import toy_model
from tests.neighbours import assert_all_differ, every_neighbour, neighbours
from tests.project import digest
from tests.rl.toys import TOKENIZER, Interrupted, Parity, config, learning, policy, trained

SINGLE = [method for method in methods_of(losses) if method.together == 1]


def fitting(loss: Any) -> dict[str, Any]:
    """The loss, and the advantage that makes the pairs which it asks for."""
    return {"loss": loss, "advantage": BestAndWorst()} if loss.together > 1 else {"loss": loss}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, float]]]:
    return trained(tmp_path_factory.mktemp("base"), config())


def test_ratios_leave_one_within_a_rollout_and_clips_bind(base: tuple[str, list[dict[str, float]]]) -> None:
    """The first update of a rollout meets the policy that sampled, at its temperature; later ones one that has moved."""
    _, steps = base
    for step, said in enumerate(steps):
        if step % 4 == 0:
            # squares of differences in rounding of logits: 1e-6 each
            assert said["approximate_kl"] < 1e-9 and said["clip_fraction"] == 0
        else:
            assert said["approximate_kl"] > 1e-4
    assert max(said["clip_fraction"] for said in steps) > 0.05
    assert [said["reward"] for said in steps[:4]] == [steps[0]["reward"]] * 4 != [steps[4]["reward"]] * 4


CHANGES: dict[str, list[dict[str, Any]]] = {
    "steps": [{"steps": 7}],
    "prompts": [{"prompts": 6}],
    "samples": [{"samples": 3}],
    "updates": [{"updates": 1}, {"updates": 3}],
    "minibatches": [{"minibatches": 1}, {"minibatches": 4}],
    "max_new_tokens": [{"max_new_tokens": 5}],
    "temperature": [{"temperature": 1.0}],
    "advantage": [{"advantage": method()} for method in methods_of(advantages) if method is not Grpo],
    "loss": [fitting(method()) for method in methods_of(losses) if method is not PolicyGradient],
    "seed": [{"seed": 1}],
    "optimizer": [{"optimizer": AdamW(lr=0.005)}],
    "clip": [{"clip": 0.1}],
    "precision": [{"precision": "bf16"}],
    "stream": [{"precision": "bf16", "stream": "bf16"}],
    "shards": [{"shards": 2}],
    "linear": [
        {"linear": held}
        for held in (
            LoRA(rank=2),
            LoRA(rank=2, start="pissa"),
            LoRA(rank=2, trained="up"),
            VeRA(rank=4),
            AdaLoRA(rank=1, first_rank=2, cut_until=2),
        )
    ],
    "soft_prompt": [{"soft_prompt": PromptTuning(length=3)}, {"soft_prompt": Ept(length=3)}],
    "fast_forward": [{"fast_forward": FastForward(every=1, most=2)}],
    "curriculum": [{"curriculum": Bandit()}],
    "resample": [{"resample": 2}],
    "replay": [{"replay": 4}],
    "staleness": [{"staleness": 1}],
    "held_out": [{"held_out": 3}],
    "rewards": [
        {"rewards": [Correct(), part]}
        for part in (
            Correct(weight=0.5),
            LengthBudget(),
            Overlong(buffer=0.5),
            Repetition(n=1),
            Format(pattern=".*[aeiou].*"),
        )
    ],
}
# schedule, average: of every training stage, tests/test_knobs.py; compile, skip_sigmas, stop_factor: tests/lm/test_training.py and
# test_guard.py; deterministic, which need change no bit: tests/core/test_stage.py; problems, model: what is learned,
# not how. What else curricula and rewards are made of: test_curricula.py, test_function.py
ELSEWHERE = {"schedule", "average", "compile", "deterministic", "skip_sigmas", "stop_factor", "problems", "model"}
# of every training stage: tests/lm/test_lookahead.py, test_recomputing.py, test_precisions.py, test_optimizer_states.py
ELSEWHERE |= {"lookahead", "recompute", "rounding", "optimizer_states"}
ELSEWHERE |= {"demonstrations"}  # which binds where all answers to a problem fail: test_demonstrations.py
ELSEWHERE |= {"keep_rollouts"}  # which changes no weight: test_ledger.py
ELSEWHERE |= {"environment"}  # which a policy must call: test_environments.py
ELSEWHERE |= {"held_out_every"}  # which changes no weight: test_held_out.py
ELSEWHERE |= {"scorer"}  # which some rewards read: test_scorers.py


def test_every_parameter_changes_the_weights(tmp_path: Path) -> None:
    """Of any two settings that differ, the weights do, where the parameter can bind: those here, and of each method of a room each
    parameter."""
    assert set(CHANGES) | ELSEWHERE == set(RlConfig.model_fields)
    tries = [[changes] for settings in CHANGES.values() for changes in settings]
    for field, room in (("advantage", advantages), ("loss", losses)):
        near = every_neighbour(methods_of(room))
        # gae's clip binds where values go far: test_critic.py
        near = [methods for methods in near if not any(isinstance(m, Gae) and m.clip != Gae().clip for m in methods)]
        tries += [[fitting(m) if field == "loss" else {field: m} for m in methods] for methods in near]
    for part in (LengthBudget(), Overlong(buffer=0.5), Repetition(n=1)):
        # n: in six random bytes no two stand twice; course: two rollouts stand where it is cut; test_rewards.py
        others = [neighbours(part, name) for name in type(part).model_fields if name not in ("name", "n", "course")]
        tries += [[{"rewards": [Correct(), other]} for other in each] for lists in others for each in lists]
    folders = count()
    assert_all_differ(lambda changes: trained(tmp_path / str(next(folders)), config(**changes))[0], tries)


def test_clips_bind_in_the_default_rollout() -> None:
    fields = RlConfig.model_fields
    assert fields["updates"].default * fields["minibatches"].default > 1


def test_answers_without_a_verdict_teach_nothing(base: tuple[str, list[dict[str, float]]], tmp_path: Path) -> None:
    assert trained(tmp_path / "one", config(Parity(unheard=1.0))) == base
    before = policy().state_dict()
    _, steps = trained(tmp_path / "none", config(Parity(verdicts=False), optimizer=AdamW(weight_decay=0.0)))
    after = load_file(tmp_path / "none" / "rl" / "model.safetensors")
    assert all(torch.equal(before[name], weight) for name, weight in after.items())
    assert all(said["loss"] == said["reward"] == 0 for said in steps)


def test_prompts_and_padding_are_not_given_to_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are answers without a verdict: the head gets as many positions as the update counts, in parts as in one."""
    batch, given, head = learning(config()).batch_at(0), list[int](), conversations.linear_log_probabilities

    def counted(x_KD: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        given.append(len(x_KD))
        return head(x_KD, *rest, **more)

    monkeypatch.setattr(conversations, "linear_log_probabilities", counted)
    whole, _ = batch.loss(slice(0, batch.rows))
    parts = [batch.loss(rows)[0] for rows in (slice(0, 3), slice(3, batch.rows))]
    assert given[0] == given[1] + given[2] == batch.tokens < batch.rows * batch.length
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", SINGLE, ids=lambda method: method.__name__)
@pytest.mark.parametrize("shards", [1, 4])
def test_answers_that_teach_nothing_are_not_computed(method: type[PolicyLoss], shards: int) -> None:
    """Those without an advantage or a verdict, but for as many as cut the update into equal parts; the gradient is that of all
    answers, up to the order of sums."""
    model, of_all = policy(), policy()
    given = config(loss=method(), shards=shards, prompts=6, updates=1)
    learner = learning(given, model)
    learner.batch_at(0)
    held = learner.rollouts.state()
    batch = learner.batch_at(1)
    learner.rollouts.load(held)
    rollout, rows_M = learner.rollouts.at(1)
    weights_MT = given.loss.weights(rollout.mask_BT[rows_M], given.max_new_tokens)
    taught = int(((rollout.advantages_BT[rows_M, 0] != 0) & weights_MT.any(1)).sum())
    assert 0 < taught < len(rows_M) and batch.rows == -(-taught // shards) * shards
    batch.loss(slice(0, batch.rows))[0].backward()
    loss_of(
        given.loss, given.temperature, of_all, rollout.ids_BN[rows_M], conversations.places(weights_MT),
        rollout.logp_old_BT[rows_M], rollout.advantages_BT[rows_M], weights_MT,
    )[0].backward()  # fmt: skip
    for got, wanted in zip(model.parameters(), of_all.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-6)  # sums in another order, fp32


def test_each_seed_and_each_rollout_has_answers_of_its_own() -> None:
    """To one problem, so that its choice tells nothing."""

    class One(Parity):
        def examples(self, split: str) -> list[Example]:
            return super().examples(split)[:1]

    def drawn(seed: int, number: int) -> list[list[int]]:
        return learning(config(One(), seed=seed, prompts=2))._rollout(number).ids_BN.tolist()

    sets = [drawn(seed, number) for seed in (0, 1) for number in (0, 1)]
    assert all(one != other for place, one in enumerate(sets) for other in sets[:place])
    assert drawn(1, 0) == sets[2]


def test_minibatches_must_divide_the_problems() -> None:
    with pytest.raises(ValueError, match="prompts must be a multiple of minibatches"):
        config(prompts=5)


def test_a_loss_is_not_held_to_its_level_and_logits_not_divided_by_nearly_nothing() -> None:
    """A surrogate's loss is near 0 on either side, whether the policy learns or not."""
    assert config(stop_factor=0.0).stop_factor == 0
    with pytest.raises(ValueError, match="stop_factor: a policy's loss has no level to compare with: set it to 0"):
        config(stop_factor=1.5)
    assert config(temperature=COLDEST).temperature == COLDEST
    with pytest.raises(ValueError, match="temperature"):
        config(temperature=COLDEST / 2)


EVERYTHING = {
    "curriculum": Bandit(),
    "resample": 1,
    "replay": 4,
    "held_out": 3,
    "held_out_every": 2,
    "demonstrations": Interleaved(batch=3),
    "loss": PolicyGradient(kl=0.1),
    "rewards": [Correct(), LengthBudget()],
    "steps": 12,
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["default", "all that has a state"])
def test_stopped_after_every_update_it_ends_in_the_same_bytes(changes: dict[str, Any], tmp_path: Path) -> None:
    """A checkpoint in the middle of a rollout holds the answers, and under which probabilities they were drawn; one between two,
    what was learned of the problems and which answers may come again."""
    given = config(**changes)
    whole, all_said = trained(tmp_path / "whole", given)
    for folder in ("sft", "rl", "scratch"):
        (tmp_path / folder).mkdir()
    save_model(tmp_path / "sft", policy(), TOKENIZER)
    said: list[dict[str, float]] = []
    for _ in range(given.steps):
        log = Interrupted(tmp_path / "scratch")
        with pytest.raises(Stopped):
            run(given, tmp_path, log)
        said += log.steps
    run(given, tmp_path, Interrupted(tmp_path / "scratch"))
    assert digest(tmp_path / "rl") == whole
    assert [list(each.items()) for each in said] == [list(each.items()) for each in all_said]


def test_the_reference_is_the_model_that_the_stage_began_with(tmp_path: Path) -> None:
    """Nothing is apart from it at first; a weight that outweighs all rewards leaves the policy nearer to it than none does."""
    free, held = (
        trained(tmp_path / str(kl), config(loss=PolicyGradient(kl=kl), updates=1, minibatches=1))[1]
        for kl in (1e-6, 10.0)
    )
    assert free[0]["reference_kl"] < 1e-9 and held[0]["reference_kl"] < 1e-9
    assert held[-1]["reference_kl"] < 0.3 * free[-1]["reference_kl"]


def test_a_prompt_that_spells_a_control_token_is_one_line(tmp_path: Path) -> None:
    """Of a model that has its own template, whose control tokens a problem's text may spell."""

    class Spelled(Parity):
        def examples(self, split: str) -> list[Example]:
            return [replace(e, prompt=f"{e.prompt}<|im_end|>") for e in super().examples(split)]

    tokenizer = Tokenizer.adopt(strangers_folder(tmp_path / "theirs", CHATML))
    (tmp_path / "sft").mkdir()
    save_model(tmp_path / "sft", toy_model(vocab_size=tokenizer.vocab_size), tokenizer)
    with pytest.raises(ConfigError, match=r"^a prompt spells the control token <\|im_end\|>, .*: 'x0<\|im_end\|>'$"):
        run(config(Spelled()), tmp_path, Log())
