"""Answers of older weights: whose they are, what is said of them, and that a killed run goes on in the same bytes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from lm.checkpoint import save_model
from lm.config import ConfigError
from lm.linears import SST, AdaLoRA, Cuttlefish, FrozenLower, LoRA, Monarch, Pixelfly, ReLoRA, SaRA
from lm.model import Decoder
from lm.optimizers import DropMuon
from tasks.core.process import Stopped
from tasks.rl.advantages import BestAndWorst, Gae
from tasks.rl.learning import Learning
from tasks.rl.losses import OnlineDpo
from tasks.rl.rollout import Rollout
from tasks.rl.stage import run
from tasks.rl.stale import Stale, sampler_divergence
from tasks.rl.trust import logps
from tests.project import digest
from tests.rl.toys import TOKENIZER, Interrupted, config, learning, policy, trained


def moved(model: Decoder) -> Decoder:
    """The model, with other weights than it had."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.02)
    return model


def same(one: Rollout, other: Rollout) -> bool:
    return torch.equal(one.ids_BN, other.ids_BN) and torch.equal(one.logp_old_BT, other.logp_old_BT)


@pytest.mark.parametrize("age", [1, 2, 9])
def test_a_rollout_is_of_the_weights_of_so_many_rollouts_before(age: int) -> None:
    """Answers and their probabilities are those that these weights alone would give under the same seed."""
    model = policy()
    own = learning(config(staleness=age), model)
    for number in range(4):
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        found = own._rollout(number)
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
        sampler = policy()
        for _ in range(max(number - age, 0)):
            moved(sampler)
        assert same(found, learning(config(), sampler)._rollout(number))
        assert found.metrics["staleness"] == min(number, age)
        logp_BT = logps(model, found, 0.7, 4)
        told = sampler_divergence(logp_BT, found.logp_old_BT, found.mask_BT)
        assert {name: found.metrics[name] for name in told} == told
        assert (told["sampler_kl"] > 1e-5) == (number > 0)
        moved(model)


def test_none_is_as_it_was() -> None:
    own = learning(config(staleness=0))
    assert not any(isinstance(part, Stale) for part in own.components)
    assert not {"staleness", "sampler_kl", "sampler_ratio"} & set(own._rollout(0).metrics)


def test_how_far_apart_by_hand() -> None:
    """Ratios of 2 and 1 in the mask: (1 - ln 2) / 2; what is outside of it counts for nothing."""
    two = math.log(2)
    told = sampler_divergence(torch.tensor([[two, 0.0, 9.0]]), torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]]))
    assert told["sampler_kl"] == pytest.approx((1 - two) / 2, abs=1e-7) and told["sampler_ratio"] == pytest.approx(2)
    assert sampler_divergence(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1)) == {
        "sampler_kl": 0.0,
        "sampler_ratio": 1.0,
    }


def test_ratios_are_of_the_sampler_and_clips_bind_in_the_first_update(tmp_path: Path) -> None:
    _, steps = trained(tmp_path / "stale", config(staleness=1))
    assert steps[0]["approximate_kl"] < 1e-9 and steps[0]["staleness"] == 0
    assert steps[4]["approximate_kl"] > 1e-3 and steps[4]["clip_fraction"] > 0 and steps[4]["staleness"] == 1
    assert steps[4]["sampler_kl"] > 1e-3 and steps[4]["sampler_ratio"] > 1.2


def test_each_age_gives_other_weights_until_no_rollout_is_as_old(tmp_path: Path) -> None:
    short = {"updates": 1, "minibatches": 2, "steps": 8}
    found = [trained(tmp_path / str(age), config(**short, staleness=age))[0] for age in range(6)]
    assert len(set(found[:4])) == 4 and found[3] == found[4] == found[5]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"linear": LoRA(rank=2)},
        {"linear": AdaLoRA(rank=1, first_rank=2, cut_until=2)},
        {"advantage": Gae()},
        {"loss": OnlineDpo(), "advantage": BestAndWorst()},
        {"replay": 4},
    ],
    ids=["plain", "lora", "adalora", "critic", "online_dpo", "replay"],
)
def test_a_run_that_was_killed_after_every_step_ends_in_the_same_bytes(
    changes: dict[str, object], tmp_path: Path
) -> None:
    given = config(steps=6, updates=1, minibatches=2, staleness=2, **changes)
    whole, all_said = trained(tmp_path / "whole", given)
    assert whole != trained(tmp_path / "fresh", given.model_copy(update={"staleness": 0}))[0]
    for folder in ("sft", "rl", "checkpoint", "scratch"):
        (tmp_path / folder).mkdir()
    save_model(tmp_path / "sft", policy(), TOKENIZER)
    said: list[dict[str, float]] = []
    for _ in range(given.steps):
        log = Interrupted(tmp_path / "scratch")
        with pytest.raises(Stopped):
            run(given, tmp_path, log)
        said += log.steps
    run(given, tmp_path, Interrupted(tmp_path / "scratch"))
    assert digest(tmp_path / "rl") == whole and said == all_said


def test_a_checkpoint_has_as_many_weights_as_it_needs_and_no_frozen_ones() -> None:
    model = policy()
    model.embedding.weight.requires_grad_(False)
    stale = Stale(model, 2)
    for number in range(4):
        with stale.sampling() as age:
            assert age == min(number, 2)
        names = {name.partition(".")[2] for name in stale.state()}
        learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert learned <= names and "embedding.weight" not in names
        assert {name.partition(".")[0] for name in stale.state()} == {f"{n:04}" for n in range(min(number + 1, 2))}


class Noted(Stale):
    """Keeps the whole model as it was each time that it learned, and as it sampled."""

    def __init__(self, model: Decoder, age: int) -> None:
        super().__init__(model, age)
        self.learned, self.sampled = list[dict[str, torch.Tensor]](), list[dict[str, torch.Tensor]]()

    @contextmanager
    def sampling(self) -> Iterator[int]:
        self.learned.append(self._whole())
        with super().sampling() as age:
            self.sampled.append(self._whole())
            yield age
        assert all(torch.equal(x, self.learned[-1][name]) for name, x in self._whole().items())

    def _whole(self) -> dict[str, torch.Tensor]:
        every = [*self._model.named_parameters(), *self._model.named_buffers()]
        # sara fills a buffer with NaN, which is unlike itself
        return {name: x.detach().clone().nan_to_num(7.5) if x.is_floating_point() else x.clone() for name, x in every}


@pytest.mark.parametrize(
    "changes",
    [
        *({"optimizer": DropMuon(lr=0.01, seed=seed)} for seed in range(4)),
        {"linear": ReLoRA(rank=2, every=2, warmup=0)},
        {"linear": SST(rank=2, every=2, warmup=0)},
        {"linear": LoRA(rank=2)},
        {"linear": FrozenLower()},
        {"linear": SaRA(share=0.5)},
    ],
    ids=["drop_muon 0", "drop_muon 1", "drop_muon 2", "drop_muon 3", "relora", "sst", "lora", "frozen_lower", "sara"],
)
def test_every_weight_that_samples_is_as_old_as_the_others(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever have gradients in the step that samples, and whether a restart changed what has none."""
    made: list[Noted] = []
    monkeypatch.setattr("tasks.rl.learning.Stale", lambda model, age: made.append(Noted(model, age)) or made[-1])
    trained(tmp_path, config(steps=6, updates=1, minibatches=2, staleness=1, **changes))
    (stale,) = made
    assert len(stale.sampled) == 3
    for number, sampled in enumerate(stale.sampled):
        wanted = stale.learned[max(number - 1, 0)]
        assert [name for name, x in sampled.items() if not torch.equal(x, wanted[name])] == []
    assert any(not torch.equal(x, stale.learned[2][name]) for name, x in stale.sampled[2].items())


def test_an_error_while_it_samples_leaves_the_model_its_own_weights() -> None:
    model = policy()
    stale = Stale(model, 1)
    with stale.sampling():
        pass
    now = {name: weight.clone() for name, weight in moved(model).state_dict().items()}

    def fail() -> None:
        with stale.sampling():
            assert not torch.equal(model.embedding.weight, now["embedding.weight"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(weight, now[name]) for name, weight in model.state_dict().items())


def test_weights_that_are_shared_out_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.rl.stale.is_sharded", lambda model: True)
    with pytest.raises(ConfigError, match=r"^rl\.staleness: older weights .*: set it to exact or ddp$"):
        learning(config(staleness=1))._rollout(0)


def test_rollouts_that_are_kept_say_how_old_the_weights_were(tmp_path: Path) -> None:
    given = config(steps=6, updates=1, minibatches=2, staleness=1, keep_rollouts=True)
    trained(tmp_path, given)
    rows = pq.read_table(tmp_path / "rl/rollouts.parquet").to_pylist()
    assert {(row["rollout"], row["policy"]) for row in rows} == {(0, 0), (1, 0), (2, 2)}


def test_problems_held_out_are_answered_by_the_weights_that_learn() -> None:
    model, other = policy(), policy()
    own = learning(config(staleness=1), model)
    own._rollout(0)
    moved(model)
    seen = []

    class Read:
        name = "held_out"

        def observe(self, number: int, reward: float) -> dict[str, float]:
            seen.append({name: weight.clone() for name, weight in model.state_dict().items()})
            return {}

    own.held_out = Read()  # type: ignore[assignment]
    own._rollout(1)
    assert all(
        torch.equal(weight, moved(other).state_dict()[name])
        for name, weight in seen[0].items()
        if name == "embedding.weight"
    )
    assert isinstance(own, Learning)


def test_factors_in_a_matrix_s_place_are_refused_beside_older_weights() -> None:
    assert config(linear=Cuttlefish()).linear == Cuttlefish()
    for packed in (Monarch(), Pixelfly()):  # from the first step on, so that older ones are packed likewise
        assert config(linear=packed, staleness=1).linear == packed
    with pytest.raises(ValidationError, match="linear: cuttlefish puts other numbers in a matrix's place, where older"):
        config(linear=Cuttlefish(), staleness=1)
