"""Logits to their derivative in place, a row a program: one read for the partition, one read and write for the derivative.

Letters: C tokens of a chunk, V vocabulary, D width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Logits of a chunk: 2048 tokens of 131072 in bf16, half of the GiB that a head of that size may take beside its gradients.
CHUNK_BYTES = 2**29
BLOCK = 4096


def logits_(out_CV: Tensor, x_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """x weight^T, in out_CV."""
    return torch.mm(x_CD, weight_VD.T, out=out_CV)


def derivative_(logits_CV: Tensor, targets_C: Tensor, softcap: float, z_loss: float) -> tuple[Tensor, Tensor]:
    """(cross_entropy_C, log_partition_C) in fp32; logits_CV, whose rows are contiguous, becomes the derivative by each logit of
    cross_entropy + z_loss * log_partition^2."""
    C, V = logits_CV.shape
    cross_entropy_C, log_partition_C = logits_CV.new_empty(2, C, dtype=torch.float32).unbind()
    block = min(BLOCK, triton.next_power_of_2(V))
    _derivative[(C,)](
        logits_CV, logits_CV.stride(0), targets_C, cross_entropy_C, log_partition_C, V, softcap, z_loss, softcap > 0, block
    )  # fmt: skip
    return cross_entropy_C, log_partition_C


@triton.jit
def _capped(logits, softcap, CAPPED: tl.constexpr):
    if CAPPED:
        # tanh(a) = 2 sigmoid(2 a) - 1, which does not overflow
        logits = softcap * (2 * tl.sigmoid(2 * logits / softcap) - 1)
    return logits


@triton.jit
def _derivative(
    logits_ptr, stride, targets_ptr, cross_entropy_ptr, log_partition_ptr, V, softcap, z_loss,
    CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    target = tl.load(targets_ptr + row)
    target_logit = _capped(tl.load(logits_ptr + target).to(tl.float32), softcap, CAPPED)
    highest, total = float("-inf"), 0.0
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
        logits = tl.where(columns < V, _capped(logits, softcap, CAPPED), float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(logits - higher), 0)
        highest = higher
    log_partition = highest + tl.log(total)
    tl.store(cross_entropy_ptr + row, log_partition - target_logit)
    tl.store(log_partition_ptr + row, log_partition)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + columns, mask=columns < V, other=0.0).to(tl.float32)
        logits = _capped(logits, softcap, CAPPED)
        grad = tl.exp(logits - log_partition) * (1 + 2 * z_loss * log_partition) - tl.where(columns == target, 1.0, 0.0)
        if CAPPED:
            grad *= 1 - (logits / softcap) * (logits / softcap)
        tl.store(logits_ptr + columns, grad, mask=columns < V)
