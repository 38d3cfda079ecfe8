"""Products of one input against torch's linear layers one by one: results, gradients, and what is frozen."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from kernels import projections as module
from kernels.projections import fused_projections, projections

WIDTHS = (8, 4, 6)


def setup(dtype: torch.dtype, bias: bool) -> tuple[Tensor, list[nn.Linear]]:
    """x and the layers, whose weights are fp32 unless x is fp64."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, 7).to(dtype).requires_grad_()
    weights = torch.float64 if dtype == torch.float64 else torch.float32
    return x, [nn.Linear(7, width, bias).to(weights) for width in WIDTHS]


def gradients(results: tuple[Tensor, ...], inputs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    grads = [torch.randn(result.shape).to(result.dtype) for result in results]
    return list(torch.autograd.grad(results, inputs, grads))


def parts(layers: list[nn.Linear]) -> tuple[list[Tensor], list[Tensor | None]]:
    return [layer.weight for layer in layers], [layer.bias for layer in layers]


@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_layers_one_by_one(bias: bool) -> None:
    x, layers = setup(torch.float64, bias)
    inputs = [x, *(weight for layer in layers for weight in layer.parameters())]
    got, wanted = fused_projections(x, *parts(layers)), tuple(layer(x) for layer in layers)
    for one, other in zip([*got, *gradients(got, inputs)], [*wanted, *gradients(wanted, inputs)], strict=True):
        # the sum of three products of up to 8 terms, in another order
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_by_finite_differences() -> None:
    x, layers = setup(torch.float64, True)
    assert torch.autograd.gradcheck(
        lambda x, *weights: fused_projections(x, weights, [None] * 3), (x, *parts(layers)[0])
    )


def test_bf16_of_fp32_weights_gives_them_fp32_gradients() -> None:
    x, layers = setup(torch.bfloat16, True)
    inputs = [x, *(weight for layer in layers for weight in layer.parameters())]
    got = fused_projections(x, *parts(layers))
    with torch.autocast("cpu", torch.bfloat16):
        wanted = tuple(layer(x) for layer in layers)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
    found = gradients(got, inputs)
    assert [grad.dtype for grad in found] == [torch.bfloat16] + [torch.float32] * 6
    for one, other in zip(found, gradients(wanted, inputs), strict=True):
        # dx is rounded after each of three products, whatever adds them
        torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-6)


def test_what_is_frozen_gets_no_gradient() -> None:
    x, layers = setup(torch.float32, True)
    layers[1].weight.requires_grad_(False)
    layers[2].bias.requires_grad_(False)
    torch.stack([result.sum() for result in fused_projections(x.detach(), *parts(layers))]).sum().backward()
    assert layers[1].weight.grad is None and layers[2].bias.grad is None
    for layer in (layers[0], layers[2]):
        torch.testing.assert_close(layer.weight.grad, x.detach().sum((0, 1)).expand_as(layer.weight))


def test_a_cpu_calls_the_layers() -> None:
    """Hooks of a layer see its input, and the bits are the layer's."""
    x, layers = setup(torch.float32, True)
    seen: list[Tensor] = []
    layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    got = projections(x, layers)
    assert len(seen) == 1 and all(torch.equal(one, layer(x)) for one, layer in zip(got, layers, strict=True))


def test_a_gpu_in_training_adds_in_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product takes the dtype of autocast; without gradients the layers are called."""
    calls: list[torch.dtype] = []
    monkeypatch.setattr(module, "fused_projections", lambda x, weights, biases: calls.append(x.dtype))
    x, layers = setup(torch.float32, False)

    class OnGpu(SimpleNamespace):
        is_cuda, device = True, torch.device("cpu")

        def to(self, dtype: torch.dtype) -> Tensor:
            return x.to(dtype)

    with torch.autocast("cpu", torch.bfloat16):
        projections(OnGpu(), layers)  # type: ignore[arg-type]
    assert calls == [torch.bfloat16]
