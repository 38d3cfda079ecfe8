"""The model on a device: the logits and gradients of a CPU, near them in bf16, and the same compiled."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lm import feed_forwards, mixers, norms
from lm.config import methods_of
from lm.model import Decoder
from lm.training.batch import Metrics
from lm.training.memory import saved_activation_bytes
from lm.training.precision import autocast
from tasks.pretrain.objectives import NextToken
from tests.gpu.models import BOUNDS, CPU, Recorder, batches, fit, ids_of, model_on, recipe, relative

WITHIN = pytest.mark.parametrize("bounds", [None, BOUNDS], ids=["rows", "documents"])


PARTS: list[dict[str, Any]] = [
    {"qk_norm": True},
    {"qk_norm": False},
    *({"mixer": method().model_dump()} for method in methods_of(mixers)),
    {"mixer": {"name": "sliding_window", "window": 5}},
    *({"feed_forward": method().model_dump()} for method in methods_of(feed_forwards)),
    *({"norm": method().model_dump()} for method in methods_of(norms)),
]


def gradients_of(model: Decoder, ids: Tensor, bounds: Tensor | None) -> tuple[Tensor, Metrics]:
    """(loss, metrics) of a step, with that of the parts: a gate of attention learns from nothing else."""
    loss, metrics = NextToken(z_loss=1e-3)(model, ids, bounds, 96)
    added = model.auxiliary_loss()
    (loss if added is None else loss + added).backward()
    return loss.detach(), metrics


@pytest.mark.parametrize("parts", PARTS, ids=str)
@WITHIN
def test_loss_and_gradients_are_those_of_a_cpu(
    device: torch.device, bounds: Tensor | None, parts: dict[str, Any]
) -> None:
    found = []
    for place in (CPU, device):
        model, ids = model_on(place, **parts), ids_of(0, rows=3).to(place)
        loss, metrics = gradients_of(model, ids, bounds)
        found.append([loss, *metrics.values(), *(weight.grad for weight in model.parameters())])
    for wanted, got in zip(*found, strict=True):
        assert relative(got, wanted) < 1e-4  # fp32 sums of up to 512 products in another order


@WITHIN
def test_bf16_is_near_fp32_and_its_gradients_are_fp32(device: torch.device, bounds: Tensor | None) -> None:
    model, ids = model_on(device), ids_of(0, rows=3).to(device)
    found = []
    for precision in ("fp32", "bf16"):
        model.zero_grad()
        with autocast(precision, device):
            loss, _ = NextToken()(model, ids, bounds, 96)
        loss.backward()
        assert all(weight.grad.dtype == torch.float32 for weight in model.parameters())
        found.append((loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters()])))
    (loss, gradient), (rounded_loss, rounded) = found
    # 8 bits of mantissa in two layers of products
    assert loss != rounded_loss and abs(loss - rounded_loss) < 0.02 * loss
    assert torch.nn.functional.cosine_similarity(rounded, gradient, dim=0) > 0.99


def compiled_and_plain(device: torch.device, bounds: Tensor | None) -> None:
    """Gradients of the same weights, in fp32, of two batches: the second meets the code that the first compiled."""
    torch.compiler.reset()
    found: list[list[Tensor]] = []
    for compiled in (False, True):
        model, metrics = model_on(device), list[Tensor]()
        model.compile_blocks(compiled)
        for step in (0, 1):
            model.zero_grad()
            loss, _ = gradients_of(model, ids_of(step, rows=3).to(device), bounds)
            metrics += [loss, *(weight.grad for weight in model.parameters() if weight.grad is not None)]
        found.append(metrics)
    plain, other = found
    assert all(relative(got, wanted) < 1e-4 for wanted, got in zip(plain, other, strict=True))
    log = Recorder()
    fit(device, recipe(precision="bf16", compile="on"), log, steps=3, bounds=bounds, rows=3)
    assert len(log.points) == 3


def test_compiled_rows(device: torch.device) -> None:
    compiled_and_plain(device, None)


def test_compiled_documents(device: torch.device) -> None:
    """Attention within documents is an operator of the graph, whatever the documents."""
    compiled_and_plain(device, BOUNDS)


def test_compiled_blocks_are_one_graph(device: torch.device) -> None:
    """Nothing in a block breaks the graph, and blocks share it: on a GPU its kernels are Triton's."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = model_on(device)
    model.compile_blocks(True)
    for step in (0, 1):
        with autocast("bf16", device):
            loss, _ = NextToken()(model, ids_of(step).to(device), None, 128)
        loss.backward()
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_memory_is_measured_without_leaving_gradients(device: torch.device) -> None:
    model = model_on(device)
    batch = batches(model)(0)
    with autocast("bf16", device):
        one, two = saved_activation_bytes(model, batch), saved_activation_bytes(model, batch, 2)
    assert 0 < one < two and all(weight.grad is None for weight in model.parameters())
