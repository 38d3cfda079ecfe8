"""Selective recomputation, Korthikanti et al. 2022 (arXiv:2205.05198): what products made is kept, all else is made anew.

Norms, activations and sums cost a block little arithmetic and most of its memory. Differs from the paper: what is kept is the
result of every matrix product, those of experts too, and of attention, whose softmax a kernel does not keep anyway; the paper
makes attention's scores anew and keeps all else.
"""

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# Operators whose results are kept, as torch has them below autograd, and how names of others begin
KEPT = {
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "tokenmill::attention", "tokenmill::grouped_products",
    "tokenmill::block_attention", "tokenmill::hashed_attention", "tokenmill::block_gate_loss",
}  # fmt: skip
ATTENTION = "aten::_scaled_dot_product_"


def is_kept(func: Any) -> bool:
    """Whether the results of an operator are kept."""
    name = str(func._schema.name)
    return name in KEPT or (name.startswith(ATTENTION) and not name.endswith("_backward"))


class Results:
    """What the products of a pass through a block made, in their order, until its backward has taken them."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.taken = 0

    def tensors(self) -> Iterator[Tensor]:
        """Each tensor that is kept."""
        return (leaf for leaf in tree_leaves(self.made) if isinstance(leaf, Tensor))


class Keeping(TorchDispatchMode):
    """Keeps what products make."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self._results = results

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if is_kept(func):
            self._results.made.append(tree_map_only(Tensor, lambda tensor: tensor.detach(), made))
        return made


class Taking(TorchDispatchMode):
    """Gives, in the place of a product, what it made before."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self._results = results

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not is_kept(func):
            return func(*args, **(kwargs or {}))
        results = self._results
        made = results.made[results.taken]
        results.taken += 1
        return tree_map_only(Tensor, lambda tensor: tensor.detach(), made)


class Selective:
    """Makes the two contexts of `torch.utils.checkpoint` for each pass, and knows what all passes keep."""

    def __init__(self) -> None:
        self._passes: list[weakref.ref[Results]] = []

    def __call__(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        results = Results()
        self._passes = [one for one in self._passes if one() is not None]
        self._passes.append(weakref.ref(results))
        return Keeping(results), Taking(results)

    def saved_tensors(self) -> list[Tensor]:
        """Tensors that passes keep whose backward is still to come."""
        return [tensor for one in self._passes if (results := one()) is not None for tensor in results.tensors()]


def selective_of(model: nn.Module) -> Selective | None:
    """What makes the contexts of the model's passes where it recomputes selectively."""
    found = getattr(model, "checkpointing", {}).get("context_fn")
    return found if isinstance(found, Selective) else None


def storages(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes of the tensors' storages, by their address."""
    found = {}
    for tensor in tensors:
        storage: torch.UntypedStorage = tensor.untyped_storage()
        found[storage._cdata] = storage.nbytes()
    return found
