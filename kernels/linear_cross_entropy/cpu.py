"""Logits to their derivative in place, in as few passes over memory as torch's operators allow.

Letters: C tokens of a chunk, V vocabulary, D width.
"""

import torch
from torch import Tensor

# Logits of a chunk in fp32. Larger chunks make better products, up to here: on 2 cores of an AMD EPYC with an L3 of 32 MiB the
# three products of (4096, 256, 32768) took 1.36 s in chunks of 256 tokens, 1.30 s of 512 (this size) and 1.28 s of 1024.
CHUNK_BYTES = 2**26
# The vocabulary by these keeps a product's result near the cores: logits of 512 tokens, all chunks, 0.41 s instead of 0.50 s.
BLOCK = 2048


def chunk_tokens(tokens: int, vocabulary: int, entry_bytes: int) -> int:
    """Tokens of a chunk: as many logits as CHUNK_BYTES hold, and at most an eighth of the tokens or 256."""
    return max(1, min(CHUNK_BYTES // (entry_bytes * vocabulary), max(tokens // 8, 256)))


def sum_dtype(weight_VD: Tensor, products: torch.dtype) -> torch.dtype:
    """What the weight's gradient is summed in: fp32 or wider."""
    return torch.promote_types(products, torch.float32)


def logits_(out_CV: Tensor, x_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """x weight^T, in out_CV."""
    for out_CB, weight_BD in zip(out_CV.split(BLOCK, dim=1), weight_VD.split(BLOCK), strict=True):
        torch.mm(x_CD, weight_BD.T, out=out_CB)
    return out_CV


def derivative_(
    logits_CV: Tensor, targets_C: Tensor, softcap: float, z_loss: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """(cross_entropy_C, log_partition_C), in fp32 or wider, of the logits over the temperature; logits_CV becomes temperature
    times the derivative by each logit of cross_entropy + z_loss * log_partition^2.

    torch's softmax keeps a row in cache for all it does, so this is three passes over memory, one more with z_loss or a
    temperature, and six more and a second matrix with softcap. bf16 goes through a copy in fp32.
    """
    wide_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    slope_CV = None
    if softcap:
        slope_CV = wide_CV.div_(softcap).tanh_().square().neg_().add_(1)
        wide_CV.mul_(softcap)
    if temperature != 1:
        wide_CV.div_(temperature)
    rows = torch.arange(len(targets_C), device=targets_C.device)
    target_C, highest_C = wide_CV[rows, targets_C], wide_CV.amax(1)
    torch.softmax(wide_CV, 1, out=wide_CV)
    log_partition_C = highest_C - wide_CV.amax(1).log()  # the highest logit's probability is exp(0) / partition
    if z_loss:
        wide_CV.mul_((1 + 2 * z_loss * log_partition_C)[:, None])
    wide_CV[rows, targets_C] -= 1
    if slope_CV is not None:
        wide_CV.mul_(slope_CV)
    if wide_CV is not logits_CV:
        logits_CV.copy_(wide_CV)
    return log_partition_C - target_C, log_partition_C


def add_product_(sum_VD: Tensor, left_VC: Tensor, right_CD: Tensor) -> None:
    """Add left right to the sum. In fp32 the sum is taken up in the product; a product of bf16 is rounded to bf16 before."""
    if left_VC.dtype == right_CD.dtype == sum_VD.dtype:
        sum_VD.addmm_(left_VC, right_CD)
    else:
        sum_VD += left_VC @ right_CD.to(left_VC.dtype)
