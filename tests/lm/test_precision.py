"""bf16 and compiled passes stay near the plain fp32 one, and `auto` depends on device and work alone."""

from functools import partial

import pytest
import torch

from lm.training.precision import COMPILE_FLOPS, autocast, compiles, matmul_dtype
from tests.lm.models import toy_model

CPU = torch.device("cpu")
IDS = torch.randint(0, 261, (2, 17), generator=torch.Generator().manual_seed(0))


def loss_and_gradient(model) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model(IDS[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), IDS[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    return loss.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_bf16_is_near_fp32_and_keeps_fp32_weights() -> None:
    model = toy_model()
    wanted, gradient = loss_and_gradient(model)
    with autocast("bf16", CPU):
        assert model(IDS[:, :-1]).dtype == torch.bfloat16
        loss, rounded = loss_and_gradient(model)
    assert rounded.dtype == torch.float32
    # 8 bits of mantissa in two layers of products
    torch.testing.assert_close(loss, wanted, rtol=1e-2, atol=0)
    assert torch.nn.functional.cosine_similarity(rounded, gradient, dim=0) > 0.99


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_cpu_computes_in_fp32_unless_told(precision) -> None:
    with autocast(precision, CPU):
        assert toy_model()(IDS[:, :-1]).dtype == torch.float32


@pytest.mark.parametrize("multiplies", [True, False])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(multiplies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or multiplies

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    wanted = torch.bfloat16 if multiplies else torch.float32
    assert matmul_dtype("auto", torch.device("cuda")) == wanted
    assert matmul_dtype("bf16", torch.device("cuda")) == torch.bfloat16 and matmul_dtype("auto", CPU) == torch.float32


def test_compiled_blocks_give_the_loss_and_gradient_of_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What inductor makes of the graph is in tests/system/lm/test_compiled_blocks.py: twenty seconds of a compiler of C++."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled_blocks_are_as_plain_ones()


def compiled_blocks_are_as_plain_ones() -> None:
    model = toy_model()
    wanted, gradient = loss_and_gradient(model)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # which torch 2.11's reset leaves
    model.compile_blocks(True)
    loss, compiled = loss_and_gradient(model)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)  # the same operations, some fused
    torch.testing.assert_close(compiled, gradient, rtol=1e-3, atol=1e-6)
    frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert frames == 1, "blocks differ in weights alone, so one graph must do for all"
    model.compile_blocks(False)
    assert torch.equal(loss_and_gradient(model)[0], wanted)


def test_documents_and_recomputation_stand_beside_compiled_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither may change the gradients but for the order of rounding. What inductor makes of the graph is in test-system."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))

    def gradient(model) -> torch.Tensor:
        model.zero_grad()
        model(IDS[:, :-1], bounds=bounds).square().sum().backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    model, bounds = toy_model(), torch.tensor([0, 5, 16, 31, 32])
    wanted = gradient(model)
    model.recompute = True
    # the same operations in the same order, some of them twice
    assert torch.equal(gradient(model), wanted)
    model.compile_blocks(True)
    torch.testing.assert_close(gradient(model), wanted, rtol=1e-3, atol=1e-4)  # the same operations, some fused


def test_auto_compiles_long_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiles("on", CPU, 0.0) and not compiles("off", CPU, 1e30)
    monkeypatch.setenv("CXX", "sh")  # a compiler that is there
    assert compiles("auto", CPU, COMPILE_FLOPS) and not compiles("auto", CPU, COMPILE_FLOPS / 2)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not compiles("auto", CPU, 1e30)
    assert compiles("on", torch.device("cuda"), 0.0) and not compiles("auto", torch.device("cuda"), 1e30)
