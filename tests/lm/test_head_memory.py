"""What the heads hold at most, counted over fake tensors that take a GPU's path: bytes beside inputs and gradients, and rows of
logits."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flows.forecast.dry_run import Live
from flows.forecast.fake_gpu import on_gpu
from kernels.linear_cross_entropy import cpu, linear_cross_entropy, linear_log_probabilities, triton
from kernels.linear_divergence import linear_divergence
from lm.config import Config, methods_of
from lm.training.data.conversations import hidden_at, token_logps
from tasks.distill import divergences
from tests.lm.models import toy_model

GB = 10**9


def extra(head: Any, inputs: list[Tensor], live: Live) -> float:
    """The most bytes in forward and backward, less the inputs and the gradients."""
    live.since()
    before = live.now
    grads = torch.autograd.grad(head(*inputs), inputs, retain_graph=False)
    return live.since() - before - sum(grad.nbytes for grad in grads)


@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_a_head_of_g1_takes_a_chunk_and_little_more(softcap: float) -> None:
    """8192 tokens, width 4096, vocabulary 131072, all in bf16: at most 1 GB where all logits are 2.1."""
    with on_gpu(), Live(1.0) as live, FakeTensorMode():
        x, weight = (torch.empty(rows, 4096, dtype=torch.bfloat16, requires_grad=True) for rows in (8192, 131072))
        targets = torch.zeros(8192, dtype=torch.int64)
        counted = extra(lambda x, w: linear_cross_entropy(x, w, targets, softcap=softcap)[0], [x, weight], live)
    assert triton.CHUNK_BYTES < counted < 0.65 * GB


def test_under_autocast_a_copy_of_the_weight_comes_beside_the_chunk() -> None:
    """The project's own training: weights and their gradient in fp32, into which products are summed at once."""
    with on_gpu(), Live(1.0) as live, FakeTensorMode():
        x, weight = (torch.empty(rows, 768, requires_grad=True) for rows in (65536, 32768))
        targets = torch.zeros(65536, dtype=torch.int64)
        with torch.autocast("cpu", torch.bfloat16):
            counted = extra(lambda x, w: linear_cross_entropy(x, w, targets)[0], [x, weight], live)
    # 8192 tokens of a chunk in bf16 and times their shares in fp32, and x and its gradient in bf16
    small = 8192 * 768 * (2 + 4) + 2 * 65536 * 768 * 2 + 32 * 65536
    assert triton.CHUNK_BYTES < counted < triton.CHUNK_BYTES + 32768 * 768 * 2 + small


def test_log_probabilities_hold_a_chunk_in_either_direction() -> None:
    with on_gpu(), Live(1.0) as live, FakeTensorMode():
        x, weight = (torch.empty(rows, 1024, dtype=torch.bfloat16, requires_grad=True) for rows in (16384, 131072))
        targets = torch.zeros(16384, dtype=torch.int64)
        counted = extra(lambda x, w: linear_log_probabilities(x, w, targets).sum(), [x, weight], live)
        # the sum of the gradient is in fp32 here: 2^29 bytes, and not yet the gradient itself while chunks pass
        assert triton.CHUNK_BYTES < counted < 2 * triton.CHUNK_BYTES
        assert 2 * counted < 16384 * 131072 * 2  # all logits


@pytest.mark.parametrize("method", methods_of(divergences), ids=lambda method: method.__name__)
def test_a_divergence_holds_some_chunks_whatever_the_tokens(method: type[Config]) -> None:
    """8192 tokens of a vocabulary of 128256: seven matrices of fp32 logits of a chunk, 3.7 GB, where all logits are 4.2 once; of
    divergences from a mixture too, whose slope is made by its formula: by autograd they held eleven."""

    def counted(tokens: int) -> float:
        with on_gpu(), Live(1.0) as live, FakeTensorMode():
            x, theirs = (torch.empty(tokens, 2048, dtype=torch.bfloat16) for _ in range(2))
            weight, head = (torch.empty(128256, 2048, dtype=torch.bfloat16) for _ in range(2))
            inputs = [x.requires_grad_(), weight.requires_grad_()]
            return extra(lambda x, w: linear_divergence(x, w, theirs, head, method(), 1.0), inputs, live)

    few, many = counted(8192), counted(24576)
    assert triton.CHUNK_BYTES < few < 7 * triton.CHUNK_BYTES
    assert many < 1.02 * few  # chunks are a little larger where there are more of them


class Logits(TorchDispatchMode):
    """The most rows of what is as wide as the vocabulary; a weight turned round is not contiguous."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self._vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.shape[-1:] == (self._vocabulary,) and tensor.is_contiguous():
                self.rows = max(self.rows, tensor.numel() // self._vocabulary)
        return made


@pytest.mark.parametrize(("chunk", "rows"), [(64, 10), (4, 4)])
def test_prompts_have_no_logits(chunk: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten predictions of 24 count: no matrix of logits has more rows, nor than a chunk; forward and backward, both rooms' heads."""
    monkeypatch.setattr(cpu, "chunk_tokens", lambda tokens, vocabulary, entry_bytes: chunk)
    model, teacher, ids = toy_model(), toy_model(seed=1), torch.arange(26).view(2, 13)
    counted = torch.tensor([7, 8, 9, 10, 11, 19, 20, 21, 22, 23])
    with Logits(261) as seen:
        token_logps(model, ids, counted).sum().backward()
    assert seen.rows == rows
    with Logits(261) as seen:
        mine, theirs = (hidden_at(one, ids[:, :-1], counted) for one in (model, teacher))
        divergence = methods_of(divergences)[0]()
        linear_divergence(mine, model.head_weight, theirs, teacher.head_weight, divergence, 10).backward()
    assert seen.rows == rows
