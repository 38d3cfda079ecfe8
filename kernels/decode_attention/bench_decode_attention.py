"""`python -m kernels.decode_attention.bench_decode_attention`: a token's attention over half-filled rows, beside torch's over
all slots with a mask, in time and in bytes of filled keys and values a second."""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.decode_attention import decode_attention

SLOTS, HEAD_WIDTH = 576, 64
SHAPES = {"a head each": (16, 16), "groups of 4": (16, 4)}  # H, K
ROWS = {"cuda": 512, "cpu": 16}


def setup(heads: int, kv_heads: int, device: torch.device) -> tuple[Tensor, ...]:
    """q, k, v, keys, values and lengths, half of the slots on average; fp32 on the CPU, bf16 on a GPU."""
    generator = torch.Generator().manual_seed(0)
    B, dtype = ROWS[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    shapes = [(B, heads), (B, kv_heads), (B, kv_heads), (B, kv_heads, SLOTS), (B, kv_heads, SLOTS)]
    tensors = [torch.randn(*shape, HEAD_WIDTH, generator=generator).to(device, dtype) for shape in shapes]
    return *tensors, torch.randint(0, SLOTS, (B,), generator=generator).to(device)


def masked(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """Decoding's attention by torch, the query heads of a key head as rows of one head."""
    rows = torch.arange(len(q), device=q.device)
    keys[rows, :, lengths], values[rows, :, lengths] = k, v
    visible = (torch.arange(keys.shape[2], device=q.device) <= lengths[:, None])[:, None, None]
    grouped = q.view(*k.shape[:2], -1, q.shape[-1])
    return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=visible).view_as(q)


def seconds(arm: Callable[..., Tensor], given: tuple[Tensor, ...]) -> float:
    began = time.perf_counter()
    arm(*given)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(rounds: int = 20) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for label, heads in SHAPES.items():
        given = setup(*heads, device)
        filled = 2 * int(given[-1].sum()) * heads[1] * HEAD_WIDTH * given[3].element_size()
        for name, arm in (("decode_attention", decode_attention), ("torch with a mask", masked)):
            spent = median([seconds(arm, given) for _ in range(rounds + 1)][1:])
            print(f"{label:12} {name:18} {spent * 1e3:8.3f} ms, {filled / spent / 1e9:7.1f} GB/s of filled slots")


if __name__ == "__main__":
    main()
