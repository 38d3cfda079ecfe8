"""What a training step on a GPU moves and computes, by class of operator, counted on fake tensors: no GPU is needed.

The time of a class is predicted by a roofline: each operator alone, its bytes at BANDWIDTH or its FLOP at a rate, whichever
takes longer. Nothing is fused that the code does not fuse, and what the host does is not in it.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flows.forecast.dry_run import Valueless
from flows.forecast.fake_gpu import on_gpu
from flows.params.compose import compose
from lm.model import Decoder
from lm.training.flops import flops_per_token
from tasks.about.sections import Sections
from tasks.core.config import load
from tasks.pretrain.stage import PretrainConfig

ROOT = Path(__file__).parent.parent
PRESET, TOKENS = "gpu-124m", 65536
# Of an H100, what good kernels reach: bytes/s of 3.35e12 (datasheet), FLOP/s in bf16 of 989e12 (datasheet), and those of
# FlashAttention-2 (arXiv:2307.08691, figures 4 and 6 scaled to causal heads of 64 to 128 on an H100)
BANDWIDTH, PRODUCTS, ATTENTION = 2.6e12, 650e12, {"attention.forward": 330e12, "attention.backward": 270e12}
CLASSES = ("products", "attention", "norms", "rotation", "swiglu", "loss", "adds", "casts", "other")
# Classes of Triton kernels by their folder
FOLDERS = {
    "add_norm": "norms", "rms_norm": "norms", "norm_rope": "rotation", "rope": "rotation", "swiglu": "swiglu",
    "linear_cross_entropy": "loss",
}  # fmt: skip
# Arguments that a kernel goes over more than once: logits are read and written, those of the preset's vocabulary once; a drawn
# token's are read three times
PASSES = {("linear_cross_entropy._derivative", 0): 2, ("pick._pick", 0): 3}
NAMES = {"add": "adds", "add_": "adds", "_to_copy": "casts", "copy_": "casts"}
MATRIX_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1}  # the place of the left matrix
LOOK_UPS = {"embedding", "gather", "index", "index_select"}  # which read of their table what they return
# Operators whose result is all that they touch, or nothing
ONLY_WRITE, NOTHING = {"zeros", "ones", "full", "arange", "scalar_tensor", "fill_", "zero_"}, {"empty", "empty_strided"}


@dataclass
class Counts:
    """Bytes, FLOP, predicted seconds and launches, by class."""

    bytes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    flops: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    launches: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, kind: str, moved: float, flops: float = 0.0, rate: float = PRODUCTS) -> None:
        """Count one operator."""
        if not moved:
            return
        self.bytes[kind] += moved
        self.flops[kind] += flops
        self.seconds[kind] += max(moved / BANDWIDTH, flops / rate)
        self.launches[kind] += 1

    def kernel(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A Triton kernel or fused attention: each tensor that it is given, once, or as often as PASSES says."""
        if name in ATTENTION:
            self._attention(name, *arguments)
            return
        found: dict[Any, float] = {}
        for place, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                found[id(argument)] = self.given(argument) * PASSES.get((name, place), 1)
        self.add(FOLDERS.get(name.partition(".")[0], "other"), sum(found.values()))

    def given(self, tensor: Tensor) -> float:
        """Bytes that a kernel moves of a tensor: all of them."""
        return touched_bytes(tensor)

    def _attention(self, name: str, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> None:
        """Causal: half of two products forward, of five back. q, k, v and the result; then their gradients beside them."""
        B, H, T, E = q_BHTE.shape
        back = name == "attention.backward"
        moved = 2 * touched_bytes(q_BHTE) + touched_bytes(k_BKTE) + touched_bytes(v_BKTE)
        self.add("attention", moved * (2 if back else 1), (5 if back else 2) * B * H * T * T * E, ATTENTION[name])


class Counting(TorchDispatchMode):
    """Adds every operator that is called to the counts; a view is none."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        moved = bytes_of(func, args, kwargs or {}, made)
        if name in MATRIX_PRODUCTS:
            left = args[MATRIX_PRODUCTS[name]]
            result = tree_leaves(made)[0]
            self._counts.add("products", moved, 2 * result.numel() * left.shape[-1])
        else:
            self._counts.add(NAMES.get(name, "other"), moved)
        return made


def touched_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's own entries, of those that an expanded dimension repeats one."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * tensor.element_size()


def bytes_of(func: Any, args: Any, kwargs: Any, made: Any) -> float:
    """What an operator reads and writes: its arguments but those that are written alone, and its results."""
    name = func._schema.name.removeprefix("aten::")
    results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    if name in NOTHING or name.startswith("new_empty") or name == "empty_like":
        return 0
    if name in ONLY_WRITE or name.startswith("new_") or name.endswith("_like"):
        return sum(map(touched_bytes, results))
    written = {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    # a copy and an `out` are written without being read
    alone = {argument for argument in written if argument != "self" or name == "copy_"}
    read = [leaf for key, value in given.items() if key not in alone for leaf in tensors(value)]
    if not written and not results:  # a question, such as the device's
        return 0
    if not written and any(_same(result, argument) for result in results for argument in read):
        return 0
    if name in LOOK_UPS:
        read[0] = results[0]
    return sum(map(touched_bytes, [*read, *results]))


def tensors(value: Any) -> Iterable[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata


@cache
def flops_of_shape() -> dict[str, float]:
    """FLOP of the step that step_counts counts, by the shape of its model: of matrix products, and of causal attention, of
    which a fused kernel computes the scores once more in its backward, 7 halves of a product for 6."""
    params = compose(ROOT, PRESET, [])
    T = params["curriculum"]["method"]["sequence_length"]
    with torch.device("meta"):
        model = Decoder(Sections(params).shape("pretrain"))
    products = flops_per_token(model, 0)
    attention = (flops_per_token(model, T) - products) * 7 / 6
    return {"products": products * TOKENS, "attention": attention * TOKENS}


@cache
def step_counts(stream: str) -> Counts:
    """Counts of one micro-batch of the preset's pretraining, TOKENS tokens forward and back with bf16 products, the residual
    stream in `stream`: what it takes before anything is summed over micro-batches or updated."""
    params = compose(ROOT, PRESET, [])
    config, shape = load("pretrain", PretrainConfig, params), Sections(params).shape("pretrain")
    T = params["curriculum"]["method"]["sequence_length"]
    counts = Counts()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with on_gpu(counts.kernel), Valueless(), fake, torch.autocast("cpu", torch.bfloat16):
        model, ids_BN = Decoder(shape), torch.zeros((TOKENS // T, T + 1), dtype=torch.int64)
        model.train()
        model.low_stream = stream == "bf16"
        with Counting(counts):
            loss, _ = config.objective(model, ids_BN, None, TOKENS)
            loss.backward()
    return counts
