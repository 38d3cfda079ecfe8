"""A GPU's manners on a CPU: some tensors count as on a device, and what would have the host wait for that is counted."""

from collections.abc import Iterable
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# Their result, or the size of it, must come to the host before it can go on
ANSWERS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.equal}
FACTORIES = ("arange", "empty", "full", "ones", "zeros")


class Device(TorchDispatchMode):
    """On the device are the tensors that were moved there, those made there, and all that is computed of such. waits: why the
    host has waited, one each: it has read a number, or copied what neither side can copy by itself.

    A copy to the host for which it does not wait has its bytes there only after the next wait, as on a GPU at the latest.
    Raises RuntimeError for an operator whose tensors are not all on one side, scalars of the host aside.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._there: dict[int, ref[torch.UntypedStorage]] = {}
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._patch_methods(patch)
        for name in FACTORIES:
            patch.setattr(torch, name, self._made(getattr(torch, name), waits=False))
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, self._made(getattr(torch, name), waits=True))
        for module in ("checkpoint.snapshot", "digests"):
            patch.setattr(f"lm.training.{module}.on_gpu", lambda tensors: any(map(self.has, tensors)))
        patch.setattr(
            "lm.training.checkpoint.snapshot.memory", lambda size, pinned: torch.zeros(size, dtype=torch.uint8)
        )

    def has(self, tensor: Tensor) -> bool:
        """Whether it is on the device."""
        known = self._there.get(tensor.untyped_storage()._cdata)
        return known is not None and known() is not None

    def put(self, tensor: Tensor) -> Tensor:
        """It is there from now on."""
        storage = tensor.untyped_storage()
        self._there[storage._cdata] = ref(storage)
        return tensor

    def put_model(self, model: nn.Module) -> None:
        for tensor in (*model.parameters(), *model.buffers()):
            self.put(tensor)

    def wait(self, reason: str) -> None:
        """The host waits until the device has done all that it was told."""
        self.waits.append(reason)
        with _disable_current_modes():
            for target, source in self._copies:
                target.copy_(source)
        self._copies.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [self.has(x) for x in given]
        packet = func.overloadpacket
        if any(there):
            if packet in ANSWERS or (packet is aten.index and any(x.dtype == torch.bool for x in given[1:])):
                self.wait(str(packet))
            if packet is aten.copy_:
                asynchronous = kwargs.get("non_blocking", len(args) > 2 and args[2])
                if there[0] < there[1] and asynchronous:
                    self._copies.append((args[0], args[1].clone()))
                    return args[0]
                if there[0] != there[1] and not asynchronous:
                    self.wait(str(packet))
            elif any(x.ndim and not on_it for x, on_it in zip(given, there, strict=True)):
                raise RuntimeError(f"{packet}: its tensors are on two devices")
        made = func(*args, **kwargs)
        known = {x.untyped_storage()._cdata for x in given}
        for tensor in tree_leaves(made):
            if any(there) and isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in known:
                self.put(tensor)
        return made

    def _patch_methods(self, patch: pytest.MonkeyPatch) -> None:
        to, tolist, numpy = Tensor.to, Tensor.tolist, Tensor.numpy

        def copied(tensor: Tensor) -> Tensor:
            with _disable_current_modes():
                return tensor.detach().clone()

        def to_host(tensor: Tensor) -> Tensor:
            if not self.has(tensor):
                return tensor
            self.wait("cpu")
            return copied(tensor)

        def moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            place = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.device | str)), None)
            if place == "cpu":
                return to_host(tensor)
            if place is None or self.has(tensor):
                return to(tensor, *args, **kwargs)
            if not kwargs.get("non_blocking", args[-1:] == (True,)):
                self.wait("to")
            return self.put(to(copied(tensor), *args, **kwargs))

        def as_list(tensor: Tensor) -> list[Any]:
            if self.has(tensor):
                self.wait("tolist")
            return tolist(tensor)

        def as_array(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.has(tensor):
                raise TypeError("can't convert a tensor of the device to numpy")
            return numpy(tensor, *args, **kwargs)

        for name, method in (("to", moved), ("cpu", to_host), ("tolist", as_list), ("numpy", as_array)):
            patch.setattr(Tensor, name, method)

    def _made(self, factory: Any, waits: bool) -> Any:
        """The factory, of which what is made on a device is on this one; waits: of numbers that the host has."""

        def made(*args: Any, **kwargs: Any) -> Tensor:
            if kwargs.get("device") is None or torch.device(kwargs["device"]).type == "meta":
                return factory(*args, **kwargs)
            given: Iterable[Any] = args[:1]
            if waits and not any(isinstance(x, Tensor) and self.has(x) for x in given):
                self.wait(factory.__name__)
            return self.put(factory(*args, **kwargs))

        return made
