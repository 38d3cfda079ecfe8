"""SALT: its loss and gradients beside the formula, the fall of its weight by hand, the stage with its small model, and what is said
before it runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flows.arena.budget import steps_of
from flows.arena.runs import flop_of, flops_after
from flows.forecast.dry_run import rehearse
from flows.forecast.estimate import Machine, forecast
from flows.forecast.forecasts import step_of, works_of
from flows.preflight.checkpoint import check_checkpoint
from lm.checkpoint import load_model, save_model
from lm.model import Decoder
from lm.training.flops import flops_per_token
from tasks.about.sections import Sections
from tasks.core.config import ConfigError, load
from tasks.core.log import Log
from tasks.pretrain import starts
from tasks.pretrain.checkpoint import reads
from tasks.pretrain.contracts import taught
from tasks.pretrain.objectives import NextToken, Salt
from tasks.pretrain.objectives.base import LossPosition
from tasks.pretrain.objectives.salt import SaltLoss, soft_cross_entropy, weight_of
from tasks.pretrain.stage import PretrainConfig
from tasks.pretrain.stage import run as pretrain
from tasks.pretrain.toy import toy
from tasks.runner.graph import read_graph
from tasks.tokenize import methods
from tests.flows.preflight_project import params_of
from tests.lm.made_parts import stirred
from tests.lm.models import toy_model, toy_tokenizer
from tests.neighbours import assert_all_differ, neighbours
from tests.pretrain.test_stage import curve
from tests.pretrain.test_starts import checkpoint, config, data_of  # noqa: F401 - a fixture
from tests.processes import wait_for
from tests.project import TINY, digest, run_stage, start_stage
from tests.tiny import Tiny

IDS = torch.randint(5, 261, (2, 9), generator=torch.Generator().manual_seed(7))
BOUNDS = torch.tensor([0, 5, 8, 16])
COUNTED = torch.rand((2, 8), generator=torch.Generator().manual_seed(8)) < 0.6
MACHINE = Machine("cpu", False, 10**12, 1e11, 1e10)
EARLY, LATE = LossPosition(0, 0, 10), LossPosition(0, 9, 10)


def models(**shape: Any) -> tuple[Decoder, Decoder]:
    """A model that trains and a small one, of other widths and depths."""
    return stirred(toy_model(seed=1, layers=2, **shape)).train(), stirred(
        toy_model(seed=2, layers=1, width=16, ffn_width=16)
    )


@pytest.mark.parametrize("counted", [None, COUNTED], ids=["all", "some"])
@pytest.mark.parametrize("bounds", [None, BOUNDS], ids=["together", "apart"])
def test_is_the_mixture_of_both_cross_entropies_and_has_its_gradient(
    counted: Tensor | None, bounds: Tensor | None
) -> None:
    model, small = models()
    method = Salt(weight=0.4, temperature=0.5)
    each = torch.empty(2, 8)
    loss, metrics = SaltLoss(method, small)(model, IDS, bounds, 5, counted, each, EARLY)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    assert all(weight.grad is None and not weight.requires_grad for weight in small.parameters()) and not small.training
    model.zero_grad()
    mask = torch.ones(2, 8) if counted is None else counted.float()
    q = (model.hidden(IDS[:, :-1], bounds=bounds) @ model.head_weight.T).double().log_softmax(-1)
    with torch.no_grad():
        z = (small.hidden(IDS[:, :-1], bounds=bounds) @ small.head_weight.T).double()
        p = z.exp().pow(1 / 0.5)  # softmax(z / t) is p^(1/t), made to add up to 1
        p /= p.sum(-1, keepdim=True)
    hard = -q.gather(-1, IDS[:, 1:, None])[..., 0]
    soft = -(p * q).sum(-1)
    wanted = (0.6 * (hard * mask).sum() + 0.4 * (soft * mask).sum()) / 5
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert metrics["cross_entropy"].item() == pytest.approx((hard * mask).sum().item() / 5, rel=1e-5)
    assert metrics["soft_cross_entropy"].item() == pytest.approx((soft * mask).sum().item() / 5, rel=1e-5)
    torch.testing.assert_close(each[mask > 0], hard.detach().float()[mask > 0], rtol=1e-5, atol=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_in_the_second_stage_it_is_the_next_tokens_loss_to_the_bit_and_the_small_model_is_not_asked() -> None:
    (model, small), found = models(), []
    small.hidden = lambda *given, **more: pytest.fail("asked")  # type: ignore[method-assign]
    for objective in (SaltLoss(Salt(until=0.9), small), NextToken()):
        model.zero_grad()
        loss, _ = objective(model, IDS, None, 16, at=LATE)
        loss.backward()
        found.append([loss.detach(), *(weight.grad.clone() for weight in model.parameters())])
    assert all(map(torch.equal, *found))


def test_parts_of_a_batch_add_up() -> None:
    model, small = models()
    objective = SaltLoss(Salt(), small)
    whole, _ = objective(model, IDS, None, 16, COUNTED, at=EARLY)
    parts = [objective(model, IDS[row : row + 1], None, 16, COUNTED[row : row + 1], at=EARLY)[0] for row in (0, 1)]
    torch.testing.assert_close(sum(parts), whole)


def test_a_small_model_that_says_the_tokens_themselves_is_the_next_tokens_loss() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 3, 6, 3])
    sure = 50.0 * torch.nn.functional.one_hot(targets, 7)
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, sure, 1.0), wanted)
    entropy = torch.distributions.Categorical(logits=logits / 2).entropy()
    torch.testing.assert_close(soft_cross_entropy(logits / 2, logits, 2.0), entropy)


def test_the_weight_falls_at_once_evenly_or_by_its_ratio() -> None:
    def said(**given: Any) -> list[float]:
        method = Salt(weight=0.6, until=0.5, decay=0.3, **given)
        return [method.at(step, 10) for step in range(10)]

    assert said() == [0.6] * 5 + [0.0] * 5
    assert said(end="linear") == pytest.approx([0.6, 0.6, 0.45, 0.3, 0.15] + [0.0] * 5)
    odds = [weight / (1 - weight) for weight in said(end="linear_ratio")]
    assert odds == pytest.approx([1.5, 1.5, 1.125, 0.75, 0.375] + [0.0] * 5)
    assert weight_of(0.6, 0, 3, True) == weight_of(0.6, -2, 0, False) == 0
    usual = Salt()
    assert [sum(usual.at(step, n) > 0 for step in range(n)) for n in (1000, 10, 2)] == [173, 1, 0]
    assert usual.share_of_steps(1000) == 0.173 and Salt(until=1.0).at(9, 10) == 0.667 and usual.by_run


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"end": "linear", "until": 0.1, "decay": 0.2}, "decay: 0.2 of the steps is longer than"),
        ({"end": "linear_ratio", "weight": 1.0}, "end: the ratio of a weight of 1 to nothing cannot fall"),
        ({"weight": 0.0}, "greater than 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Salt(**given)


def small_model(folder: Path, tokenizer: Any = None, **shape: Any) -> Path:
    """A folder with a small model of the toy tokens, or of others."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"heads": 2, "kv_heads": 1, "ffn_width": 16, "width": 16, "layers": 1, "context": 64, **shape}
    save_model(folder, stirred(toy_model(seed=4, **made)), tokenizer or toy_tokenizer())
    return folder


class Losses(Log):
    def __init__(self) -> None:
        self.said: list[dict[str, float]] = []

    def __call__(self, step: int, **values: float) -> None:
        self.said.append(values)


def taught_by(folder: Path, objective: Any, **model: Any) -> PretrainConfig:
    return config(folder, starts.Random(), context=64, **model).model_copy(update={"objective": objective})


def test_the_stage_reads_the_model_in_the_folder_and_every_parameter_counts(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "small")
    data = data_of(tmp_path / "data", methods.Bytes(), folder)
    base: dict[str, Any] = {"until": 1.0, "end": "linear", "decay": 0.5, "temperature": 2.0}

    def loss(changes: dict[str, Any]) -> float:
        log = Losses()
        pretrain(taught_by(folder, Salt(**{**base, **changes})), data, log)
        return round(log.said[0]["loss"], 6)

    first = loss({})
    log = Losses()
    pretrain(taught_by(folder, NextToken()), data, log)
    (point,) = log.said
    log = Losses()
    pretrain(taught_by(folder, Salt(**base)), data, log)
    assert log.said[0]["cross_entropy"] == point["loss"] and log.said[0]["bits_per_byte"] == point["bits_per_byte"]
    assert first != round(point["loss"], 6)
    small_model(folder, width=24, ffn_width=24)
    assert loss({}) != first
    # a plan of one step: of when it falls the weights by hand are told above
    tries = [
        [few.model_dump() for few in each]
        for name in ("weight", "temperature")
        for each in neighbours(Salt(**base), name)
    ]
    assert_all_differ(lambda changes: loss(changes), tries)


def test_what_cannot_teach_is_refused_in_a_line(tmp_path: Path, checkpoint: Path) -> None:  # noqa: F811
    data = data_of(tmp_path / "data", methods.Bytes(), checkpoint)
    for folder, said in (
        (checkpoint, "pretrain.objective: the corpus is in other tokens than those of the model in "),
        (tmp_path / "nowhere", r".*nowhere/config.json: no such file"),
        (
            small_model(tmp_path / "short", context=16),
            "pretrain.objective: the small model reads 16 tokens, and the plan's ",
        ),
        (small_model(tmp_path / "capped", logit_softcap=15.0), "pretrain.objective: salt does not know logit_softcap"),
    ):
        with pytest.raises(ConfigError, match=said) as refused:
            pretrain(taught_by(folder, Salt()), data, Log())
        assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="salt does not know logit_softcap"):
        pretrain(taught_by(small_model(tmp_path / "small"), Salt(), logit_softcap=15.0), data, Log())


def params(folder: Path, *words: str) -> dict[str, Any]:
    return params_of("pretrain.objective={name: salt, until: 0.5}", f"checkpoint.folder={folder}", *words)


def test_it_is_said_before_what_it_reads_what_does_not_fit_and_the_toy_run_is_without_it(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "small", context=1024)
    stages = [entry for entry in read_graph().values() if entry.name == "pretrain"]
    good = params(folder)
    assert reads(good["pretrain"]) == "either" and reads(params_of()["pretrain"]) == ""
    assert list(check_checkpoint(good, stages)) == [] == list(taught(Sections(good)))
    short = small_model(tmp_path / "short", context=4)
    (finding,) = taught(Sections(params(short)))
    assert str(finding).startswith("params.yaml: pretrain.objective: the small model reads 4 tokens")
    assert list(taught(Sections(params_of(f"checkpoint.folder={short}")))) == []
    (short / "model.safetensors").write_bytes(b"torn")
    (finding,) = check_checkpoint(params(short), stages)
    assert "model.safetensors: cannot be read" in str(finding)
    assert toy(good, tmp_path)["objective"] == {"name": "next_token"} and "objective" not in toy(params_of(), tmp_path)
    with pytest.raises(ConfigError, match="objective: salt is taught by the model in checkpoint.folder") as refused:
        load("pretrain", PretrainConfig, params(folder, "pretrain.start={name: hugging_face}"))
    assert "\n" not in str(refused.value)
    load("pretrain", PretrainConfig, params(folder, "pretrain.start={name: stacked}"))


def test_the_forecast_holds_the_small_model_and_counts_it_in_its_stage_alone(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "small", context=1024, width=64, ffn_width=64)
    small, _ = load_model(folder)
    found = {}
    for until in (0.5, 1.0):
        work = works_of(params(folder, f"pretrain.objective={{name: salt, until: {until}}}"), ["pretrain"])["pretrain"]
        step = work.step()
        assert step.frozen_part == pytest.approx(int(until * work.steps) / work.steps)
        (frozen,) = step.frozen
        assert frozen.config.width == 64 and not any(weight.requires_grad for weight in frozen.parameters())
        told = rehearse(work.step, work.recipe, work.steps, 10**9, False)
        found[until] = told, forecast(step, work.steps, work.tokens, told, 0.0, MACHINE, 1e9)
    plain = works_of(params_of(), ["pretrain"])["pretrain"]
    alone = rehearse(plain.step, plain.recipe, plain.steps, 10**9, False)
    told, half = found[0.5]
    assert told.step_bytes > alone.step_bytes + 4 * small.num_parameters() / 2 and told.state_bytes == alone.state_bytes
    first = forecast(plain.step(), plain.steps, plain.tokens, alone, 0.0, MACHINE, 1e9)
    assert half.seconds - first.seconds == pytest.approx((found[1.0][1].seconds - first.seconds) / 2, rel=0.1)
    with pytest.raises(ConfigError, match=r"nowhere/config.json: no such file"):
        works_of(params(tmp_path / "nowhere"), ["pretrain"])


def test_a_run_that_is_killed_in_its_first_stage_ends_in_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    changes = {"objective": {"name": "salt", "until": 0.6}, "shards": 2}
    project = tiny.project(tmp_path / "salt", "curriculum", {**TINY, "pretrain": {**TINY["pretrain"], **changes}})
    small_model(project / "data" / "checkpoint")
    process = start_stage(project, "pretrain", TOKENMILL_CHECKPOINT_SECONDS="0")
    written = (project / ".scratch" / "pretrain").rglob
    wait_for(lambda: any(int(path.stem[5:]) >= 8 for path in written("step-*.safetensors")), process)
    process.kill()
    process.communicate()
    run_stage(project, "pretrain", TOKENMILL_RANKS="2")
    found, folder = digest(project / "data" / "pretrain"), project / "data" / "pretrain"
    points = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    assert ["soft_cross_entropy" in point for point in points] == [step < 19 for step in range(32)]
    assert curve(folder, "cross_entropy")[-1] < curve(folder, "cross_entropy")[0] - 0.5
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    run_stage(project, "pretrain")
    assert digest(folder) == found


def test_a_study_counts_what_the_small_model_reads(tmp_path: Path) -> None:
    """By hand: a third of the FLOP a token that training it would take, its attention among them, in the first half of the
    steps; along the curve, of the whole run, and of the steps that a budget allows."""
    folder = small_model(tmp_path / "small", context=1024, width=64, ffn_width=64)
    salted, plain = (works_of(each, ["pretrain"])["pretrain"] for each in (params(folder), params_of()))
    step, own = step_of(salted), step_of(plain)
    small = load_model(folder)[0]
    length, half = own.batch.length, int(0.5 * plain.steps) / plain.steps * plain.tokens
    learning = step_of(salted).frozen[0].requires_grad_(True)
    a_token, theirs = flops_per_token(own.model, length), flops_per_token(learning, length) / 3
    assert flop_of(own, plain) == plain.tokens * a_token and flops_after(own, plain, [1, 2]) == ()
    assert theirs > 2 * (small.num_parameters() - small.embedding.weight.numel())
    assert flop_of(step, salted) == pytest.approx(plain.tokens * a_token + half * theirs, rel=1e-12)
    counts = [1, plain.steps // 2, plain.steps]
    ends = np.array(plain.tokens_after(counts))
    assert flops_after(step, salted, counts) == pytest.approx(
        ends * a_token + np.minimum(ends, half) * theirs, rel=1e-12
    )
    each = plain.tokens / plain.steps
    found = steps_of(step, flop_of(own, plain), each, plain.steps)
    assert found < plain.steps == steps_of(own, flop_of(own, plain), each, plain.steps)
    told = rehearse(salted.step, salted.recipe, salted.steps, 10**9, False)
    assert forecast(step, salted.steps, salted.tokens, told, 0.0, MACHINE, 1e9).flops == pytest.approx(
        flop_of(step, salted)
    )
