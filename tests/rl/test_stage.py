"""The stage on a small model: what it learns from, and that every parameter of it counts."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lm.averages import Last
from lm.checkpoint import save_model
from lm.config import methods_of
from lm.linears import LoRA
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.problems.example import Example, Score
from lm.sampler import Completion
from lm.schedules import Cosine
from lm.training.data import conversations
from tasks.core.log import Log
from tasks.core.process import Stopped
from tasks.rl import advantages, losses
from tasks.rl.advantages import Grpo
from tasks.rl.losses import PolicyGradient
from tasks.rl.rollout import Rollout, Rollouts, Verdicts, rollout_of
from tasks.rl.stage import Learning, RlConfig, run
from tests.lm.models import toy_model, toy_tokenizer
from tests.neighbours import assert_all_differ, every_neighbour
from tests.project import digest

TOKENIZER = toy_tokenizer()


class Parity:
    """Twelve problems. Answers with an even sum of characters are right; of those that begin with a character divisible by
    three there is no verdict, but a value, which must not matter."""

    def __init__(self, unheard: float = 0.0, verdicts: bool = True) -> None:
        self._unheard, self._verdicts = unheard, verdicts

    def examples(self, split: str) -> list[Example]:
        assert split == "rl"
        return [Example(str(i), "x" * (1 + i % 3) + str(i), "", "") for i in range(12)]

    def score(self, example: Example, text: str) -> Score:
        heard = self._verdicts and (not text or ord(text[0]) % 3)
        return Score(float(sum(map(ord, text)) % 2 == 0)) if heard else Score(self._unheard, valid=False)


class Said(Log):
    """Keeps what is said of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def __call__(self, step: int, **values: float) -> None:
        self.steps.append(values)


def policy() -> Decoder:
    """A model that ends its answers now and then, so that they differ in length."""
    model = toy_model(seed=4, tied=False)
    with torch.no_grad():
        x_D = model.hidden(torch.arange(40)[None])[0].mean(0)
        model.head.weight[TOKENIZER.end_id] = 4 * x_D / x_D.square().sum()
    return model


def config(problems: Any = None, **changes: Any) -> RlConfig:
    """Two rollouts of four updates each, at a rate at which clips bind."""
    given = {
        "model": "sft", "steps": 8, "prompts": 4, "samples": 4, "updates": 2, "minibatches": 2, "max_new_tokens": 6, "temperature": 0.7,
        "advantage": Grpo(), "loss": PolicyGradient(), "optimizer": AdamW(lr=0.01), "schedule": Cosine(), "average": Last(),
        "seed": 0,
    }  # fmt: skip
    checked = RlConfig.model_validate({**given, **changes, "problems": {"name": "arithmetic"}})
    return checked.model_copy(update={"problems": problems or Parity()})


def trained(folder: Path, given: RlConfig, model: Decoder | None = None) -> tuple[str, list[dict[str, float]]]:
    """(digest of the model, what was said of each step)."""
    (folder / "sft").mkdir(parents=True)
    (folder / "rl").mkdir()
    save_model(folder / "sft", model or policy(), TOKENIZER)
    said = Said()
    run(given, folder, said)
    return digest(folder / "rl"), said.steps


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
    "loss": [{"loss": method()} for method in methods_of(losses) if method is not PolicyGradient],
    "seed": [{"seed": 1}],
    "optimizer": [{"optimizer": AdamW(lr=0.005)}],
    "clip": [{"clip": 0.1}],
    "precision": [{"precision": "bf16"}],
    "stream": [{"precision": "bf16", "stream": "bf16"}],
    "shards": [{"shards": 2}],
    "linear": [{"linear": LoRA(rank=2)}],
}
# schedule, average: of every training stage, tests/test_knobs.py; compile, skip_sigmas, stop_factor: tests/lm/test_training.py and
# test_guard.py; deterministic, which need change no bit: tests/core/test_stage.py; problems, model: what is learned,
# not how
ELSEWHERE = {"schedule", "average", "compile", "deterministic", "skip_sigmas", "stop_factor", "problems", "model"}


def test_every_parameter_changes_the_weights(tmp_path: Path) -> None:
    """Of any two settings that differ, the weights do, where the parameter can bind: those here, and of each method of a room each
    parameter."""
    assert set(CHANGES) | ELSEWHERE == set(RlConfig.model_fields)
    tries = [[changes] for settings in CHANGES.values() for changes in settings]
    for field, room in (("advantage", advantages), ("loss", losses)):
        tries += [[{field: method} for method in methods] for methods in every_neighbour(methods_of(room))]
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


def test_an_update_reads_what_was_sampled() -> None:
    """Tokens of answers with a verdict, each with its own log-probability; neither prompts, nor padding, nor the others."""
    sampled = Verdicts(
        [[1, 2, 3], [4], [1, 2]],
        [
            Completion([5, 6], [-0.5, -0.25], True),
            Completion([7], [-2.0], False),
            Completion([8, 9], [-1.0, -3.0], True),
        ],
        torch.tensor([[1.0, 0.5, 9.0]]),
        torch.tensor([[1.0, 1.0, 0.0]]),
    )
    got = rollout_of(sampled, torch.tensor([[0.25, -0.25, 0.0]]), 0)
    assert got.ids_BN.tolist() == [[1, 2, 3, 5, 6], [4, 7, 0, 0, 0], [1, 2, 8, 9, 0]]
    assert got.mask_BT.tolist() == [[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert (got.logp_old_BT * got.mask_BT).tolist() == [[0, 0, -0.5, -0.25], [-2, 0, 0, 0], [0, 0, 0, 0]]
    assert got.advantages_B.tolist() == [0.25, -0.25, 0]
    assert got.metrics() == {
        "reward": 0.75,
        "completion_tokens": pytest.approx(5 / 3),
        "finished": pytest.approx(2 / 3),
    }


def test_prompts_and_padding_are_not_given_to_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are answers without a verdict: the head gets as many positions as the update counts, in parts as in one."""
    learning = Learning(config(), policy(), TOKENIZER, Parity().examples("rl"))
    batch, given, head = learning.batch_at(0), list[int](), conversations.linear_log_probabilities

    def counted(x_KD: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        given.append(len(x_KD))
        return head(x_KD, *rest, **more)

    monkeypatch.setattr(conversations, "linear_log_probabilities", counted)
    whole, _ = batch.loss(slice(0, batch.rows))
    parts = [batch.loss(rows)[0] for rows in (slice(0, 3), slice(3, batch.rows))]
    assert given[0] == given[1] + given[2] == batch.tokens < batch.rows * batch.length
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)


def test_each_seed_and_each_rollout_has_answers_of_its_own() -> None:
    """To one problem, so that its choice tells nothing."""
    only, model = Parity().examples("rl")[:1], policy().eval()

    def drawn(seed: int, number: int) -> list[list[int]]:
        learning = Learning(config(seed=seed, prompts=2), model, TOKENIZER, only)
        return learning._rollout(number).ids_BN.tolist()

    sets = [drawn(seed, number) for seed in (0, 1) for number in (0, 1)]
    assert all(one != other for place, one in enumerate(sets) for other in sets[:place])
    assert drawn(1, 0) == sets[2]


def _rollout(problems: int, samples: int = 2) -> Rollout:
    B = problems * samples
    numbers = torch.arange(B * 3.0).view(B, 3)
    mask = torch.ones(B, 3)
    mask[1] = 0
    return Rollout(
        torch.arange(B * 4).view(B, 4),
        mask,
        -numbers,
        numbers[:, 0],
        torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64),
    )


def test_a_pass_is_over_every_answer_once_in_whole_problems() -> None:
    rollouts = Rollouts(lambda number: _rollout(6), 6, updates=2, minibatches=3, seed=0)
    orders = []
    for turn in range(4):
        rows = [rollouts.at(3 * turn + part)[1] for part in range(3)]
        assert sorted(torch.cat(rows).tolist()) == list(range(12))
        assert all((part.view(2, 2)[:, 0] % 2 == 0).all() and (part.view(2, 2).diff() == 1).all() for part in rows)
        orders.append(torch.cat(rows).tolist())
    assert len(set(map(tuple, orders))) > 1


def test_a_rollout_is_made_once_and_carried_over() -> None:
    made: list[int] = []

    def make(number: int) -> Rollout:
        made.append(number)
        return _rollout(4 + number, 2)

    whole, parts = (Rollouts(make, 4, updates=2, minibatches=2, seed=0) for _ in range(2))
    expected = [whole.at(step) for step in range(4)]
    assert made == [0] and not whole.state()
    for step in range(4):
        found, rows = parts.at(step)
        assert all(
            torch.equal(a, b) for a, b in zip(vars(found).values(), vars(expected[step][0]).values(), strict=True)
        )
        assert torch.equal(rows, expected[step][1])
        state = {name: tensor.clone() for name, tensor in parts.state().items()}
        assert bool(state) == (step < 3)
        parts = Rollouts(make, 4, updates=2, minibatches=2, seed=0)
        parts.load(state)
    assert made == [0, 0]


def test_minibatches_must_divide_the_problems() -> None:
    with pytest.raises(ValueError, match="prompts must be a multiple of minibatches"):
        config(prompts=5)


class Interrupted(Said):
    """Asked to stop after every step."""

    stopping = True

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self.scratch = scratch


def test_stopped_after_every_update_it_ends_in_the_same_bytes(
    base: tuple[str, list[dict[str, float]]], tmp_path: Path
) -> None:
    """A checkpoint in the middle of a rollout holds the answers, and under which probabilities they were drawn."""
    for folder in ("sft", "rl", "scratch"):
        (tmp_path / folder).mkdir()
    save_model(tmp_path / "sft", policy(), TOKENIZER)
    said: list[dict[str, float]] = []
    for _ in range(8):
        log = Interrupted(tmp_path / "scratch")
        with pytest.raises(Stopped):
            run(config(), tmp_path, log)
        said += log.steps
    run(config(), tmp_path, Interrupted(tmp_path / "scratch"))
    assert (digest(tmp_path / "rl"), said) == base
