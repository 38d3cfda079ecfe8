"""What `make plan` says: of memory, beside the peak of the stage itself; of machines and presets; and of what does not fit."""

import gc
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.plan_accuracy import CASES, forecast_peak, gate, measure_peak
from flows.forecast import fake_gpu
from flows.forecast.dry_run import HOLES, Live, dry_run_step, sample
from flows.forecast.estimate import GPUS, MACHINES, machine_called
from flows.forecast.forecasts import forecast_of, machine_of, this_machine, works_of
from flows.params.compose import compose
from lm import averages, linears, optimizers
from lm.config import methods_of
from lm.model import Decoder, ModelConfig
from lm.training.batch import Metrics
from lm.training.flops import flops_per_token
from lm.training.memory import positions_in, saved_activation_bytes
from tasks.about.work import Sampling, Step, Work
from tasks.core.config import ConfigError
from tests.project import ROOT

GPU_PRESETS = ("gpu-124m", "gpu-1b")


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("12 layers", "4 rows")], ids=lambda c: c.name)
def test_the_peak_of_a_stage_is_the_one_forecast(case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_TRACKING", "off")  # which ends with the stage, however few steps it has
    case = replace(case, steps=3)
    assert gate(forecast_peak(case).answer, measure_peak(case).answer) == ""


def test_what_is_held_is_counted_until_it_is_let_go() -> None:
    """2^23 floats have a mapping of their own; 2^10 share a heap."""
    with Live(HOLES) as live:
        large, small = torch.zeros(2**23), torch.zeros(2**10)
        view = large[:5]
        del large
        assert live.now == pytest.approx(2**25 + HOLES * 2**12)
        del view
        assert live.now == pytest.approx(HOLES * 2**12) and live.peak == pytest.approx(2**25 + HOLES * 2**12)
    assert len(small) == 2**10


@pytest.mark.parametrize("method", methods_of(optimizers), ids=lambda m: m.model_fields["name"].default)
def test_every_optimizer_can_be_rehearsed(method) -> None:
    """Its state is at least a copy of the weights; Lion and Muon have no more than one for hidden matrices, and SOAP and
    SOAP-Muon have four squares over their sides."""
    work = pretraining(small())
    recipe = work.recipe.model_copy(update={"optimizer": method()})
    found = dry_run_step(work.step, recipe, 10, 10**9, False)
    weights = 4 * work.step().model.num_parameters()
    most = (8 if method in (optimizers.Soap, optimizers.SoapMuon) else 4) * weights + 4096
    assert 2 * weights - 4096 <= found.state_bytes <= most and found.step_bytes > found.state_bytes


@pytest.mark.parametrize("method", methods_of(linears), ids=lambda m: m.model_fields["name"].default)
def test_every_way_to_hold_a_matrix_can_be_rehearsed(method) -> None:
    """Real tensors or fake ones: one function measures positions, and FLOP; and a checkpoint holds what is trained."""
    work, memory = pretraining(small()), 40_000_000
    recipe = work.recipe.model_copy(
        update={"linear": method(), "optimizer": optimizers.AdamW(), "average": averages.Last()}
    )
    found, step = dry_run_step(work.step, recipe, 10, memory, False), work.step()
    step.model.reparametrize(method())
    assert found.positions == positions_in(memory, step.model, step.batch, 20.0, 4.0) > 0
    assert found.flops == flops_per_token(step.model, step.batch.length)
    steps = 8 * sum(weight.requires_grad for weight in step.model.parameters())  # AdamW counts them for each
    assert found.state_bytes == 3 * 4 * step.model.num_trained() + steps


def pretraining(params: dict) -> Work:
    return works_of(params, ["pretrain"])["pretrain"]


def small() -> dict:
    return next(case for case in CASES if case.name == "small").params()


def test_positions_are_those_that_training_would_choose() -> None:
    """Real tensors or fake ones: one function measures both."""
    work = pretraining(small())
    step = work.step()
    memory = 40_000_000
    assert (
        dry_run_step(work.step, work.recipe, 10, memory, False).positions
        == positions_in(memory, step.model, step.batch, 20.0, 4.0)
        > 0
    )


def test_too_little_memory_for_a_row_recomputes_and_holds_less() -> None:
    work = pretraining(small())
    plenty, little = (dry_run_step(work.step, work.recipe, 10, memory, False) for memory in (10**9, 10**6))
    assert little.positions == 0 and little.step_bytes < plenty.step_bytes


def test_no_backward_takes_rows_of_two_shards() -> None:
    """Of four shards a backward holds a quarter of what it holds of one, and the sums of the shards' gradients stand beside."""
    work = pretraining(small())
    recipes = [work.recipe.model_copy(update={"shards": shards}) for shards in (1, 4)]
    whole, shared = (dry_run_step(work.step, recipe, 10, 10**9, False) for recipe in recipes)
    step = work.step()
    sums = 4 * step.model.num_trained() * 3  # of one, two and four shards
    half = saved_activation_bytes(step.model, step.batch, step.batch.rows // 2)
    assert whole.positions == shared.positions >= step.batch.rows * step.batch.length
    assert whole.step_bytes - (shared.step_bytes - sums) > half


@pytest.mark.parametrize("preset", GPU_PRESETS)
def test_the_pretraining_of_a_gpu_preset_fits_an_h100(preset: str) -> None:
    params = compose(ROOT, preset, [])
    found = forecast_of(pretraining(params), MACHINES["h100"])
    assert found.fits and found.positions > 0


@pytest.mark.parametrize(("gpu", "slots", "each"), [(False, 256, 4), (True, 192, 2)])
def test_sampling_holds_a_cache_in_the_dtype_of_the_pass(gpu: bool, slots: int, each: int) -> None:
    """Of 40 + 100 tokens: a power of two of slots on a CPU, a multiple of 64 on a GPU; beside it little, and weights cast once."""
    shape = ModelConfig(vocab_size=512, width=128, layers=4, heads=4, kv_heads=4, ffn_width=256, context=512)
    live = Live(1.0)
    with ExitStack() as modes:
        if gpu:
            modes.enter_context(fake_gpu.on_gpu())
        modes.enter_context(live)
        modes.enter_context(FakeTensorMode())
        modes.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=gpu))
        model = Decoder(shape)
        before = live.now
        live.since()
        sample(Sampling(model, 256, 256, 32, 40, 100))
    cache = 2 * shape.layers * 256 * shape.width * slots * each
    assert cache < live.peak - before < 1.3 * cache


def test_a_forecast_does_not_depend_on_when_python_looks_for_cycles() -> None:
    """Of RL, whose step begins when what sampling held is gone."""
    work = works_of(small(), ["rl"])["rl"]
    gc.collect()
    gc.disable()
    try:
        never = dry_run_step(work.step, work.recipe, 10, 10**9, False)
    finally:
        gc.enable()
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        always = dry_run_step(work.step, work.recipe, 10, 10**9, False)
    finally:
        gc.set_threshold(*before)
    assert never == always


def test_a_model_that_reads_and_does_not_learn_counts_in_memory_and_time() -> None:
    """A reference of the size of the policy, as preference optimisation has: its weights, and a third of the FLOP more, which are
    those of a forward pass."""
    work = works_of(small(), ["sft"])["sft"]

    def step() -> Step:
        made, reference = work.step(), Decoder(work.shape).requires_grad_(False)

        def loss(rows: slice) -> tuple[Tensor, Metrics]:
            with torch.no_grad():
                reference.hidden(torch.zeros((rows.stop - rows.start, made.batch.length), dtype=torch.int64))
            return made.batch.loss(rows)

        return replace(made, batch=replace(made.batch, loss=loss), frozen=(reference,))

    alone, beside = (forecast_of(w, MACHINES["h100"]) for w in (work, replace(work, step=step)))
    assert beside.bytes - alone.bytes == pytest.approx(4 * alone.parameters, rel=0.1)
    assert beside.seconds == pytest.approx(4 / 3 * alone.seconds)
    assert beside.flops == pytest.approx(4 / 3 * alone.flops) and beside.parameters == alone.parameters


def test_a_teacher_reads_the_answers_and_texts_of_its_student() -> None:
    step = works_of(compose(ROOT, "laptop", []), ["distill"])["distill"].step()
    (sampling,) = step.sampling
    assert step.frozen == (sampling.model,) and step.model is not sampling.model


def test_an_unknown_machine_is_one_line() -> None:
    with pytest.raises(ConfigError, match="MACHINE: no machine 'h101'"):
        machine_of("h101")


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40g"),
        ("NVIDIA A100-PCIE-40GB", "a100-40g"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("NVIDIA RTX 6000 Ada Generation", None),
        ("NVIDIA A10", None),
    ],
)
def test_a_gpu_is_named_as_nvidia_smi_prints_it(name: str, machine: str | None) -> None:
    found = machine_called(name)
    assert found is (None if machine is None else MACHINES[machine])


def test_every_machine_is_found_by_its_own_card() -> None:
    assert {name: machine_called(card) for name, card, *_ in GPUS} == MACHINES


def test_a_gpu_that_is_here_has_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "NVIDIA H100 80GB HBM3"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr("flows.forecast.forecasts.memory_bytes", lambda device: 84_930_000_000)
    assert this_machine() == replace(MACHINES["h100"], memory=84_930_000_000)
    name = "NVIDIA GeForce GTX 1080"
    with pytest.raises(ConfigError, match="the GPU NVIDIA GeForce GTX 1080 is not in the table"):
        this_machine()


def test_missing_problems_are_one_line() -> None:
    with pytest.raises(ConfigError, match="problems.folder: nowhere: holds no"):
        works_of(compose(ROOT, "laptop", ["problems={name: gsm8k, folder: nowhere}"]), ["sft"])


def test_what_does_not_fit_is_said_and_the_command_fails(tmp_path: Path) -> None:
    overrides = ["pretrain.model={width: 8192, layers: 32, heads: 64, kv_heads: 8, ffn_width: 22016, context: 256}"]
    command = [sys.executable, "-m", "flows.forecast", "--preset", "smoke", "--machine", "l4", "--set", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("pretrain: needs") and "lower pretrain.model.width" in done.stderr
