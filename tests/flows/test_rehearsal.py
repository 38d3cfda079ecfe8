"""The rehearsal of a training step beside the real one: what an update takes, with every optimizer and in each of its phases,
what is refused before the first step, and the older weights by which reinforcement learning samples."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from flows.forecast import dry_run
from flows.forecast.__main__ import on_the_host
from flows.forecast.dry_run import HOLES, DryRunResult, Live, dry_run_step
from flows.forecast.estimate import MACHINES
from flows.forecast.forecasts import config_errors_of_stage, forecast_of, works_of
from flows.forecast.tiled import Tiled
from flows.params.compose import compose
from flows.preflight import slow_checks
from kernels.block_attention import hashed, operator
from lm import averages, optimizers
from lm.config import ConfigError, methods_of
from lm.model import Decoder, ModelConfig
from lm.training.batch import Batch
from lm.training.memory import saved_activation_bytes
from lm.training.parallel.exact import Exact
from lm.training.recipe import Recipe
from tasks.about.work import Step, Work
from tasks.pretrain.objectives import MaskedDiffusion
from tasks.pretrain.step import loss_of
from tasks.rl.stale import Stale
from tests.project import ROOT

SHAPE = ModelConfig(vocab_size=96, width=32, layers=2, heads=2, kv_heads=1, ffn_width=64, context=16)
STEPS = 12  # beyond the 5 and the 10 updates behind which onebit_adam and soap make another


def work_of(stage: str, *assignments: str) -> Work:
    """Of a stage with small numbers."""
    params = compose(ROOT, "smoke", ["tokenize.method={name: bpe, vocab_size: 300}", *assignments])
    return works_of(params, [stage])[stage]


@pytest.fixture(scope="module")
def plain() -> Work:
    return work_of("pretrain")


def small_step() -> Step:
    """Of a model of SHAPE, whose loss is not asked for."""
    return Step(Decoder(SHAPE), Batch(2, 8, 16, lambda rows: (torch.zeros(()), {})))


@pytest.fixture
def updates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rehearsal without forward and backward: gradients are there, and nothing else is held."""

    def gradients(parallel: Any, batch: Any, device: Any) -> int:
        models.append(parallel.model)
        return 1

    def backward(*_: Any) -> None:
        for weight in models[-1].parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None

    models: list[Decoder] = []
    monkeypatch.setattr(dry_run, "positions_at_once", gradients)
    monkeypatch.setattr(dry_run, "backward", backward)


def peak_of_updates(recipe: Recipe) -> float:
    """Bytes at most of a model, its gradients, and STEPS real updates."""
    with Live(HOLES) as live:
        model, parallel = Decoder(SHAPE), Exact(1)
        optimizer = parallel.distribute(model, recipe.optimizer)
        for number in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            optimizer.begin(number)
            for weight in model.parameters():
                weight.grad = torch.full_like(weight, 0.01) if weight.requires_grad else None
            if not number:
                live.since()
            parallel.clip(recipe.clip)
            parallel.step()
        return live.since()


CHOICES = [method() for method in methods_of(optimizers)] + [
    optimizers.OneBitAdam(freeze_after=5),
    optimizers.Soap(every=3),
    optimizers.SoapMuon(every=3),
    optimizers.AdamW(cautious=True),
    optimizers.DropMuon(whole=0.1),
]


@pytest.mark.parametrize("method", CHOICES, ids=lambda m: f"{m.name}-{sorted(m.model_fields_set)}")
def test_an_update_takes_as_much_as_rehearsed_in_each_phase_of_every_optimizer(
    method: Any, plain: Work, updates_alone: None
) -> None:
    """onebit_adam holds a copy more of its matrices once it has frozen their scale, soap and soap_muon when a basis is due, and drop_muon
    has every gradient in some steps alone."""
    recipe = plain.recipe.model_copy(update={"optimizer": method, "average": averages.Last()})
    found = dry_run_step(small_step, recipe, STEPS, None, False)
    assert found.step_bytes == pytest.approx(peak_of_updates(recipe), rel=0.01)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        (
            "lookahead={share: 0.6}",
            "params.yaml: pretrain.lookahead: the optimizer makes the model's weights at the end",
        ),
        (
            "fast_forward={every: 6}",
            "params.yaml: pretrain.fast_forward: the optimizer makes the model's weights at the",
        ),
        (
            "schedule={name: auto_lrs}",
            "params.yaml: pretrain.schedule: the optimizer makes the model's weights at the end",
        ),
        (
            "linear={name: relora}",
            "params.yaml: pretrain.linear: the optimizer keeps ahead of a weight, which cannot begin",
        ),
    ],
)
def test_what_training_refuses_before_its_first_step_is_refused_by_the_rehearsal(assignment: str, said: str) -> None:
    work = work_of("pretrain", "pretrain.optimizer={name: schedule_free}", f"pretrain.{assignment}")
    with pytest.raises(ConfigError) as caught, config_errors_of_stage("pretrain", work):
        dry_run_step(work.step, work.recipe, work.steps, 10**9, False)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_the_older_weights_that_sample_are_in_memory_while_they_do_and_in_the_step() -> None:
    """As many bytes as Stale holds, of a model as large."""

    def of(staleness: int) -> tuple[Work, DryRunResult]:
        work = work_of("rl", f"rl.staleness={staleness}")
        return work, dry_run_step(work.step, work.recipe, work.steps, 10**9, False)

    (work, without), (_, with_older) = of(0), of(2)
    with Live(1.0) as live:
        model = Decoder(work.shape)
        own, stale = live.now, Stale(model, 2)
        for _ in range(4):
            live.since()
            with stale.sampling():
                sampling = live.now - own
        held, once = live.now - own, live.since() - own
    assert once == sampling > held > 0
    assert with_older.sampling_bytes - without.sampling_bytes == sampling
    assert with_older.step_bytes - without.step_bytes == held
    assert with_older.state_bytes - without.state_bytes == held


def test_the_memory_of_a_gpu_does_not_hold_older_weights() -> None:
    works = [work_of("rl", f"rl.staleness={staleness}") for staleness in (0, 2)]
    without, with_older = (dry_run_step(work.step, work.recipe, work.steps, 10**9, True) for work in works)
    assert (without.step_bytes, without.sampling_bytes) == (with_older.step_bytes, with_older.sampling_bytes)
    assert (without.host_bytes, with_older.host_bytes) == (0, 3 * (with_older.state_bytes - without.state_bytes) / 2)
    told = forecast_of(works[1], MACHINES["h200"], 0)
    assert told.host_bytes == with_older.host_bytes > 3 * 4 * told.parameters
    assert on_the_host(["sft", "rl"], [replace(told, host_bytes=0.0), replace(told, host_bytes=1.5e9)]) == [
        "rl keeps 1.50 GB in the host's memory"
    ]


def test_older_weights_beside_a_prompt_are_those_of_the_prompt() -> None:
    """What stays is in no copy: vectors of a prompt, and the tables of positions."""
    soft = ["rl.staleness=2", "rl.soft_prompt={name: prompt_tuning, length: 5}", "rl.optimizer={name: adamw}"]
    whole, of_prompt = (work_of("rl", *words) for words in (soft[:1], soft))
    large, small = (
        dry_run_step(work.step, work.recipe, work.steps, 10**9, True).host_bytes for work in (whole, of_prompt)
    )
    assert 0 < small < 0.1 * large


def test_a_checkpoint_holds_the_mean_movement_and_the_weights_before_an_update(plain: Work) -> None:
    def state(**given: dict[str, Any]) -> float:
        recipe = Recipe.model_validate({**plain.recipe.model_dump(include=set(Recipe.model_fields)), **given})
        return dry_run_step(plain.step, recipe, 10, 10**9, False).state_bytes

    copy = 4 * plain.step().model.num_parameters()
    assert state(lookahead={"share": 0.6}) - state() == copy
    assert state(fast_forward={"every": 6}) - state() == copy


def test_what_trials_go_back_to_is_in_checkpoints_and_in_the_memory_of_a_cpu(plain: Work) -> None:
    """Weights and the optimizer's state once more: the run's state without an average."""
    given = {**plain.recipe.model_dump(include=set(Recipe.model_fields)), "average": {"name": "last"}}
    ways = [
        Recipe.model_validate({**given, "schedule": schedule})
        for schedule in ({"name": "cosine"}, {"name": "auto_lrs"})
    ]
    without, tried = (dry_run_step(plain.step, recipe, 100, 10**9, False) for recipe in ways)
    assert tried.state_bytes == 2 * without.state_bytes
    assert tried.step_bytes - without.step_bytes == without.state_bytes
    on_gpu = [dry_run_step(plain.step, recipe, 100, 10**9, True) for recipe in ways]
    assert on_gpu[0].step_bytes == on_gpu[1].step_bytes
    assert (on_gpu[0].host_bytes, on_gpu[1].host_bytes) == (0, on_gpu[0].state_bytes)


def test_what_the_forecast_is_refused_is_a_finding_of_preflight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of training, though the toy run met nothing."""
    words = "pretrain.optimizer={name: schedule_free}", "pretrain.lookahead={share: 0.6}"
    params = compose(ROOT, "smoke", list(words))
    monkeypatch.setattr(slow_checks, "rehearse", lambda *_: [])
    monkeypatch.setattr(slow_checks, "call_in_fork", lambda call: call)
    found, needs = slow_checks.run_slow_checks(ROOT, params, ["pretrain"], tmp_path / "toy", imports=1)
    assert [str(finding) for finding in found] == [
        "params.yaml: pretrain.lookahead: the optimizer makes the model's weights at the end of a run: take another one"
    ]
    assert not needs["memory"]


def test_masked_diffusion_is_forecast_with_all_of_attention_and_a_second_view_as_a_second_pass(plain: Work) -> None:
    def of(objective: str) -> DryRunResult:
        work = work_of("pretrain", "pretrain.model.causal=false", f"pretrain.objective={objective}")
        assert work.shape.vocab_size == plain.shape.vocab_size + 1
        return dry_run_step(work.step, work.recipe, work.steps, None, False)

    causal = dry_run_step(plain.step, plain.recipe, plain.steps, None, False)
    once, twice = of("{name: masked_diffusion}"), of("{name: masked_diffusion, complementary: true}")
    assert once.flops > causal.flops and twice.flops == 2 * once.flops
    assert twice.positions == pytest.approx(once.positions / 2, rel=0.02)


def test_the_plan_counts_one_mask_of_documents_for_all_layers_that_look_both_ways() -> None:
    """4 bytes a pair of a sequence's tokens, as training itself keeps in fp32."""
    words = ["pretrain.model.causal=false", "pretrain.objective={name: masked_diffusion}", "pretrain.model.layers=4"]
    plans = [work_of("pretrain", *words, f"pretrain.within_documents={within}").step() for within in ("false", "true")]
    without, within = (saved_activation_bytes(step.model, step.batch, 2) for step in plans)
    T, layers = plans[0].batch.length, plans[0].model.config.layers
    assert layers == 4 and 4 * 2 * T**2 <= within - without < 1.1 * 4 * 2 * T**2
    model, bounds = plans[0].model, torch.tensor([0, 5, T, 2 * T])
    ids, objective = torch.zeros((2, T + 1), dtype=torch.int64), MaskedDiffusion()
    real = Batch(2, T, 2 * T, lambda rows: loss_of(objective, model, ids, bounds, rows, 2 * T))
    assert saved_activation_bytes(model, real, 2) == within
    found = [
        dry_run_step(work.step, work.recipe, work.steps, 10**9, True)
        for work in (work_of("pretrain", *words, f"pretrain.within_documents={each}") for each in ("false", "true"))
    ]
    assert found[1].step_bytes > found[0].step_bytes and found[1].positions < found[0].positions


def test_a_step_holds_what_its_policy_keeps() -> None:
    """The plan's memory of a step whose activations outweigh its weights, in the order of what is kept."""
    words = ["pretrain.model.layers=8", "curriculum.tokens_per_step=4096", "pretrain.average={name: last}"]
    found = {}
    for policy in ("none", "selective", "whole"):
        work = work_of("pretrain", *words, f"pretrain.recompute={policy}")
        rehearsed = dry_run_step(work.step, work.recipe, work.steps, 10**10, False)
        found[policy] = rehearsed.step_bytes
        assert rehearsed.positions > 0 and rehearsed.forward_again == (policy == "whole")
    assert found["whole"] < found["selective"] < found["none"]


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("kind", [hashed, operator], ids=["hashed", "kept"])
def test_attention_over_tiles_holds_what_its_operators_hold_while_they_work(kind: Any, kv_heads: int) -> None:
    """Forward and backward of real numbers, an operator at a time, beside what is told of fake ones."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, 256, heads, 32, generator=generator) for heads in (4, kv_heads, kv_heads))
    hashes = [torch.randint(8, x.shape[:3], generator=generator) for x in (q, k)]
    more = [*(hashes if kind is hashed else [torch.ones((4, 4, 4), dtype=torch.bool)]), 64]
    given = [q, k, v, torch.zeros((8, 256), dtype=torch.int32), *more[:-1]]
    mixed, sums = kind._forward(*given, 64)
    fake = FakeTensorMode()
    for name, arguments in ((kind.FORWARD, [*given, 64]), (kind.BACKWARD, [mixed, *given, mixed.clone(), sums, 64])):
        with Live(HOLES) as live:
            seen = [each.detach() for each in arguments if isinstance(each, torch.Tensor)]
            before = live.now
            (kind._forward if name == kind.FORWARD else kind._backward)(*arguments)
        with fake:
            without = [fake.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments]
            told = Tiled(8, partial(Live, HOLES))(
                getattr(torch.ops.tokenmill, name.partition("::")[2]).default, without
            )
        assert seen and told == pytest.approx(live.peak - before, rel=0.15) and told > 5e6


@pytest.mark.parametrize("mixer", ["hashed_buckets", "strided_blocks"])
def test_a_rehearsal_holds_what_attention_over_tiles_does(mixer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["model.width=128", "model.heads=4", f"model.mixer={{name: {mixer}}}", "average={name: last}"]
    work = work_of("pretrain", *(f"pretrain.{word}" for word in words), "curriculum.tokens_per_step=4096")
    found = dry_run_step(work.step, work.recipe, work.steps, 10**10, False)
    monkeypatch.setattr(dry_run, "Tiled", lambda *_: lambda *_: 0.0)
    nothing = dry_run_step(work.step, work.recipe, work.steps, 10**10, False)
    assert 5e6 < found.step_bytes - nothing.step_bytes < 100e6 and found.positions == nothing.positions
