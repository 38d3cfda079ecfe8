"""What a step of decoding moves on a GPU: bytes read and written by every operator, counted on fake tensors along its path.

An operator reads each of its tensors once and writes its results; a view moves nothing; a look-up reads what it returns. A
Triton kernel moves each of its tensors once, of the cache the filled slots alone, as its own test counts its loads; `pick`
reads the logits three times.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lm.decoding import Rows
from lm.model import Cache, Decoder, ModelConfig
from lm.training import stand_ins

# 350 million weights, 512 rows, each with half of 64 + 512 tokens written
SHAPE = ModelConfig(vocab_size=32768, width=1024, layers=24, heads=16, kv_heads=16, ffn_width=2816, context=2048)
ROWS, CAPACITY = 512, 576
LOOK_UPS = {
    torch.ops.aten.embedding.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.gather.default,
    torch.ops.aten.index_select.default,
}
# which allocate and do not write
ROOM = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.new_empty, torch.ops.aten.empty_strided}
# whose first tensor is written and not read
OVERWRITES = {torch.ops.aten.copy_.default, torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default}


def tensors_in(tree: Any) -> list[Tensor]:
    """Each once."""
    return list({id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}.values())


def bytes_of(tensor: Tensor) -> int:
    """Of an expanded tensor those that are there."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


class Moved(TorchDispatchMode):
    """Bytes and launches since it was entered, of operators and of the Triton kernels started through `kernel`. share: of the
    cache's slots those that are filled, which are all that a kernel moves; an operator moves all slots."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.bytes, self.launches, self.cache_bytes = 0.0, 0, 0.0
        self._share = share
        self._cached: set[int] = set()

    def knows(self, cache: Cache) -> None:
        self._cached = {x.untyped_storage()._cdata for x in (cache.keys_LBKCE, cache.values_LBKCE)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given, made = tensors_in((args, kwargs)), func(*args, **kwargs)
        results, changes = tensors_in(made), func._schema.is_mutable
        there = {tensor.untyped_storage()._cdata for tensor in given}
        view = not changes and all(tensor.untyped_storage()._cdata in there for tensor in results)
        if view or func.overloadpacket in ROOM:
            return made
        unread = {id(kwargs.get("out"))} | ({id(args[0])} if func in OVERWRITES else set())
        read = [tensor for tensor in given if id(tensor) not in unread]
        if func in LOOK_UPS:
            read = [tensor for tensor in read if tensor is not args[0]] + results
        self._add(read + results, 1.0)
        return made

    def kernel(self, *args: Any, **kwargs: Any) -> None:
        given = tensors_in((args, kwargs))
        # of pick alone the first is R x V, and read twice more
        again = [given[0]] * 2 if "DRAWN" in kwargs else []
        self._add(given + again, self._share)

    def _add(self, moved: list[Tensor], share: float) -> None:
        self.launches += 1
        for tensor in moved:
            cached = tensor.untyped_storage()._cdata in self._cached
            self.bytes += tensor.nbytes * share if cached else bytes_of(tensor)
            self.cache_bytes += tensor.nbytes * share if cached else 0


@contextmanager
def counted_kernels(moved: Moved) -> Iterator[None]:
    """As on a GPU, each launch of a Triton kernel told to the count."""

    class Told(stand_ins.Unlaunched):
        def __getitem__(self, grid: Any) -> Any:
            return moved.kernel

    with patch.object(stand_ins, "Unlaunched", Told), stand_ins.on_gpu():
        yield


def decode_counts(
    shape: ModelConfig = SHAPE,
    rows: int = ROWS,
    capacity: int = CAPACITY,
    filled: int = CAPACITY // 2,
    low: bool = True,
) -> dict[str, float]:
    """Of one token in each row, sampled: `moved` bytes; `ideal`, weights, filled keys and values and logits once, in bf16;
    `times`, their quotient; `cache`, bytes of keys and values; `launches`. low: within autocast to bf16, else in fp32."""
    moved = Moved(filled / capacity)
    with counted_kernels(moved), FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
        model = Decoder(shape)
        buffers = Rows(model, rows, capacity, 1, None)
        moved.knows(buffers.cache)
        points_R = torch.zeros(rows, dtype=torch.float64)
        with moved:
            buffers.pick(0, 1.0, points_R)
            buffers.advance()
        products = model.num_parameters() - (0 if shape.tied else model.embedding.weight.numel())
    kept = shape.layers * rows * filled * shape.kv_heads * shape.each_head * 2
    ideal = 2 * (products + kept + rows * shape.vocab_size)
    return {
        "moved": moved.bytes,
        "ideal": ideal,
        "times": moved.bytes / ideal,
        "cache": moved.cache_bytes,
        "launches": moved.launches,
    }
