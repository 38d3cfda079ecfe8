"""What a step of decoding moves on a GPU: bytes read and written by every operator, counted on fake tensors along its path, as
benchmarks/step_counts.py counts them; a kernel moves of the cache the filled slots alone, as its own test counts its loads."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.step_counts import Counting, Counts
from flows.forecast.fake_gpu import on_gpu
from lm.decoding import Rows
from lm.model import Cache, Decoder, ModelConfig
from lm.training.flops import flops_per_token

# 350 million weights, 512 rows, each with half of 64 + 512 tokens written
SHAPE = ModelConfig(vocab_size=32768, width=1024, layers=24, heads=16, kv_heads=16, ffn_width=2816, context=2048)
ROWS, CAPACITY = 512, 576


class Filled(Counts):
    """Counts of which a kernel moves but this share of a cache's slots; an operator moves all of them."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.cache_bytes = 0.0
        self._share = share
        self._cached: set[int] = set()

    def knows(self, cache: Cache) -> None:
        kept = [tensor for state in cache.states for tensor in vars(state).values()]
        self._cached = {tensor.untyped_storage()._cdata for tensor in kept}

    def given(self, tensor: Tensor) -> float:
        if tensor.untyped_storage()._cdata not in self._cached:
            return super().given(tensor)
        moved = self._share * super().given(tensor)
        self.cache_bytes += moved
        return moved


def decode_counts(
    shape: ModelConfig = SHAPE,
    rows: int = ROWS,
    capacity: int = CAPACITY,
    filled: int = CAPACITY // 2,
    low: bool = True,
) -> dict[str, float]:
    """Counts of one token in each row, sampled: `moved` bytes; `ideal`, weights, filled keys and values and logits once, in
    bf16; `times`, their quotient; `cache`, bytes of keys and values; `launches`; `flops` of matrix products, and
    `flops_of_shape`, those that the model's shape says. low: within autocast to bf16, else in fp32."""
    counts = Filled(filled / capacity)
    low_products = torch.autocast("cpu", torch.bfloat16, enabled=low)
    with on_gpu(counts.kernel), FakeTensorMode(), torch.no_grad(), low_products:
        model = Decoder(shape)
        buffers = Rows(model, rows, capacity, 1, None)
        counts.knows(buffers.cache)
        points_R = torch.zeros(rows, dtype=torch.float64)
        with Counting(counts):
            buffers.pick(0, 1.0, points_R)
            buffers.advance()
        flops = flops_per_token(model, 0) / 3 * rows  # forward alone
        products = model.num_parameters() - (0 if shape.tied else model.embedding.weight.numel())
    kept = rows * shape.state_numel(filled)
    ideal = 2 * (products + kept + rows * shape.vocab_size)
    moved = sum(counts.bytes.values())
    return {
        "moved": moved,
        "ideal": ideal,
        "times": moved / ideal,
        "cache": counts.cache_bytes,
        "launches": sum(counts.launches.values()),
        "flops": counts.flops["products"],
        "flops_of_shape": flops,
    }
