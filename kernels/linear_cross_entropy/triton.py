"""Logits to their derivative in place, a row a program: one read for the partition and the derivative, two of a long row.

Letters: C tokens of a chunk, V vocabulary, D width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Logits of a chunk: 2048 tokens of 131072 in bf16, so that 8192 of them are 4 chunks, and each passes once over the sum of the
# weight's gradient. With it a head of that size takes 0.59 GB beside its gradients, of the 1 GB that it may.
CHUNK_BYTES = 2**29
# The sum of the gradient of a weight of 16 bits, where it is in fp32: a second matrix of the weight's size, twice as large.
SUM_BYTES = 2**29
BLOCK = 4096
# Entries of a row that stays in registers between the partition and the derivative, 32 of each of up to 1024 threads: it is
# read once. A longer one is read twice, in blocks.
ROW = 32768


def chunk_tokens(tokens: int, vocabulary: int, entry_bytes: int) -> int:
    """Tokens of a chunk: as many logits as CHUNK_BYTES hold, less where equal chunks are smaller, so that no rest makes a thin
    product."""
    most = max(1, CHUNK_BYTES // (entry_bytes * vocabulary))
    parts = max(1, -(-tokens // most))
    return max(1, -(-tokens // parts))


def sum_dtype(weight_VD: Tensor, products: torch.dtype) -> torch.dtype:
    """What the weight's gradient is summed in: fp32 or wider, but for a weight of 16 bits whose sum would take more than
    SUM_BYTES. That is summed in the weight's own dtype: rounded once a chunk, not once in all."""
    wide = torch.promote_types(products, torch.float32)
    fits = weight_VD.numel() * wide.itemsize <= SUM_BYTES
    return wide if fits or weight_VD.dtype != products else products


def logits_(out_CV: Tensor, x_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """x weight^T, in out_CV."""
    return torch.mm(x_CD, weight_VD.T, out=out_CV)


def derivative_(
    logits_CV: Tensor, targets_C: Tensor, softcap: float, z_loss: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """(cross_entropy_C, log_partition_C) in fp32, of the logits over the temperature; logits_CV, whose rows are contiguous,
    becomes temperature times the derivative by each logit of cross_entropy + z_loss * log_partition^2."""
    C, V = logits_CV.shape
    cross_entropy_C, log_partition_C = logits_CV.new_empty(2, C, dtype=torch.float32).unbind()
    whole = V <= ROW
    block = triton.next_power_of_2(V) if whole else BLOCK
    _derivative[(C,)](
        logits_CV, logits_CV.stride(0), targets_C, cross_entropy_C, log_partition_C, V, softcap, z_loss, 1 / temperature,
        softcap > 0, whole, block, num_warps=min(32, max(4, block // 1024)),
    )  # fmt: skip
    return cross_entropy_C, log_partition_C


def add_product_(sum_VD: Tensor, left_VC: Tensor, right_CD: Tensor) -> None:
    """Add left right to the sum, which the product takes up in its fp32 accumulators: nothing is rounded to 16 bits but what a
    sum of 16 bits stores.

    torch has that product of two dtypes on a GPU alone (aten::addmm.dtype_out, whose first argument may have the dtype of the
    sum since torch 2.10); elsewhere factors of 16 bits are multiplied as fp32, which is exact and slow.
    """
    right_CD = right_CD.to(left_VC.dtype)
    if left_VC.dtype == sum_VD.dtype:
        sum_VD.addmm_(left_VC, right_CD)
    elif sum_VD.is_cuda:
        torch.addmm(sum_VD, left_VC, right_CD, out_dtype=sum_VD.dtype, out=sum_VD)
    else:
        sum_VD.addmm_(left_VC.to(sum_VD.dtype), right_CD.to(sum_VD.dtype))


@triton.jit
def _capped(logits, softcap, CAPPED: tl.constexpr):
    if CAPPED:
        # tanh(a) = 2 sigmoid(2 a) - 1, which does not overflow
        logits = softcap * (2 * tl.sigmoid(2 * logits / softcap) - 1)
    return logits


@triton.jit
def _slope(logits, columns, target, log_partition, softcap, z_loss, scale, CAPPED: tl.constexpr):
    """Derivative of a token's loss by its logits before the cap, without `scale` and the token's share; `logits` are capped."""
    probabilities = tl.exp(logits * scale - log_partition)
    slope = probabilities * (1 + 2 * z_loss * log_partition) - tl.where(columns == target, 1.0, 0.0)
    if CAPPED:
        slope *= 1 - (logits / softcap) * (logits / softcap)
    return slope


@triton.jit
def _derivative(
    logits_ptr, stride, targets_ptr, cross_entropy_ptr, log_partition_ptr, V, softcap, z_loss, scale,
    CAPPED: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A row's logits to their derivative, in place. WHOLE: a block is a row."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    target = tl.load(targets_ptr + row)
    target_logit = _capped(tl.load(logits_ptr + target).to(tl.float32), softcap, CAPPED) * scale
    columns = tl.arange(0, BLOCK)
    if WHOLE:
        logits = _capped(tl.load(logits_ptr + columns, mask=columns < V, other=0.0).to(tl.float32), softcap, CAPPED)
        scaled = tl.where(columns < V, logits * scale, float("-inf"))
        highest = tl.max(scaled, 0)
        log_partition = highest + tl.log(tl.sum(tl.exp(scaled - highest), 0))
        slope = _slope(logits, columns, target, log_partition, softcap, z_loss, scale, CAPPED)
        tl.store(logits_ptr + columns, slope, mask=columns < V)
    else:
        highest, total = float("-inf"), 0.0
        for start in range(0, V, BLOCK):
            inside = start + columns < V
            logits = tl.load(logits_ptr + start + columns, mask=inside, other=0.0).to(tl.float32)
            scaled = tl.where(inside, _capped(logits, softcap, CAPPED) * scale, float("-inf"))
            higher = tl.maximum(highest, tl.max(scaled, 0))
            total = total * tl.exp(highest - higher) + tl.sum(tl.exp(scaled - higher), 0)
            highest = higher
        log_partition = highest + tl.log(total)
        for start in range(0, V, BLOCK):
            inside = start + columns < V
            logits = tl.load(logits_ptr + start + columns, mask=inside, other=0.0).to(tl.float32)
            logits = _capped(logits, softcap, CAPPED)
            slope = _slope(logits, start + columns, target, log_partition, softcap, z_loss, scale, CAPPED)
            tl.store(logits_ptr + start + columns, slope, mask=inside)
    tl.store(cross_entropy_ptr + row, log_partition - target_logit)
    tl.store(log_partition_ptr + row, log_partition)
