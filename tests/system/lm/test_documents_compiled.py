"""Documents of a batch beside compiled blocks and beside a device: one graph for every batch, one copy and no wait a pass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lm.mixers.attention
import lm.model
from kernels.attention import operator, reference
from lm.block import Block
from tests.lm.models import toy_model

ROWS, LENGTH = 2, 40
IDS = torch.randint(0, 261, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
# as many documents as rows, one more, many short ones, and two of one batch that differ in an edge alone
BATCHES = [[0, 40, 80], [0, 17, 40, 80], [*range(0, 80, 5), 80], [0, 9, 40, 66, 80], [0, 9, 40, 67, 80]]


def gradient(model: lm.model.Decoder, bounds: list[int]) -> Tensor:
    model.zero_grad()
    model.hidden(IDS, bounds=torch.tensor(bounds)).square().sum().backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def by_the_reference(model: lm.model.Decoder, bounds: list[int]) -> Tensor:
    """The gradient with attention by the masked softmax, uncompiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_run", Block.__call__)
        patch.setattr(
            lm.mixers.attention, "attention", lambda q, k, v, _: reference.attention(q, k, v, torch.tensor(bounds))
        )
        return gradient(model, bounds)


@pytest.mark.parametrize(("kernel", "backend"), [("cpu", "inductor"), ("triton", "aot_eager")])
def test_one_graph_for_all_blocks_and_batches(kernel: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Triton kernel under the interpreter, in place of the CPU's: the graph has the operator, whichever computes it."""
    if kernel == "triton":
        pytest.importorskip("triton")
        from kernels.attention import triton

        monkeypatch.setattr(operator, "kernels", lambda q: triton)
    model = toy_model(kv_heads=4)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model._run = torch.compile(Block.__call__, fullgraph=True, backend=backend)
    for bounds in BATCHES:
        # sums of fp32 in another order
        torch.testing.assert_close(gradient(model, bounds), by_the_reference(model, bounds), rtol=1e-3, atol=1e-4)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"] and not counters["recompiles"]


class Moves(TorchDispatchMode):
    """Counts the operators that take tensors of the CPU to the device that stands in for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        made = function(*args, **(kwargs or {}))
        given = [x for x in args if isinstance(x, Tensor)]
        if isinstance(made, Tensor) and made.is_meta and any(x.device.type == "cpu" and x.ndim for x in given):
            self.seen.append(str(function))
        return made


@pytest.mark.parametrize("layers", [1, 4])
def test_documents_move_to_the_device_once_a_pass(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands in for a GPU: whatever asks it for a number, as a host that waits does, is an error."""
    monkeypatch.setattr("lm.model.autocast_dtype", lambda x: None)  # which meta has not
    model = toy_model(layers=layers).to("meta")
    with Moves() as moves:
        model.hidden(IDS.to("meta"), bounds=torch.tensor(BATCHES[1])).sum().backward()
    assert moves.seen == ["aten._to_copy.default"] * 2  # of the ids here, and of the documents
