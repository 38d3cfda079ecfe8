"""Tokens written in all rows of a batch at once. What a step reads and writes stands in buffers made once, so that a CUDA graph
of it can be replayed; prompts join between two steps, whoever is half way through an answer.

Letters: R rows, P prompts read together, S steps between two reads, V vocabulary; others as in lm/model.py.
"""

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.pick import pick
from lm.context import autocast_dtype
from lm.linears.base import products_of
from lm.model import Decoder
from lm.quantized.inputs import is_rounding
from lm.softcap import capped

Step = Callable[[], None]


def dtype_of_pass(model: Decoder) -> torch.dtype:
    """Dtype in which the model's products are computed here: autocast's, where it is on."""
    weight = model.embedding.weight
    return autocast_dtype(weight) or weight.dtype


def is_sharded(model: Decoder) -> bool:
    """Whether the weights come from other ranks when a module is called, as FSDP and ZeRO arrange it by hooks."""
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    return not all(map(is_rounding, hooks))


def cast_once(model: Decoder, dtype: torch.dtype) -> tuple[Decoder, Tensor]:
    """(a model, its head_VD) whose products (`products_of`) have their weights in this dtype already, where autocast would
    cast them at every call; all else is the model's own. A sharded model stays as it is."""
    if dtype == model.embedding.weight.dtype or is_sharded(model):
        return model, model.head_weight.to(dtype)
    known: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    for layer in products_of(model):
        for weight in layer.parameters():
            known[id(weight)] = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    cast = copy.deepcopy(model, known)  # of what is known nothing is copied
    return cast, cast.head_weight.to(dtype)


def cuda_graph(step: Step) -> Step | None:
    """The step's kernels, recorded now and launched by every call as one; nothing of it runs while it is recorded. None if it
    cannot be recorded."""
    try:
        graph = torch.cuda.CUDAGraph()
        # another thread, such as the one that writes checkpoints, may allocate meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step()
    except RuntimeError:
        return None
    return graph.replay


class Rows:
    """Buffers of R rows of up to `capacity` tokens: the cache, logits_RV of each row's next token, ids_R of its last one, and
    what was picked since the last read.

    capture: what makes of the step one that is replayed over the same buffers, after its first call, or None; None: nothing.
    """

    def __init__(
        self, model: Decoder, rows: int, capacity: int, steps: int, capture: Callable[[Step], Step | None] | None
    ) -> None:
        device, dtype = model.embedding.weight.device, dtype_of_pass(model)
        self._capture = None if is_sharded(model) else capture
        self._model, self._head_VD = cast_once(model, dtype)
        self.cache = model.new_cache(rows, capacity, dtype)
        self._logits_RV = torch.zeros(rows, model.config.vocab_size, device=device, dtype=dtype)
        self._ids_R = torch.zeros(rows, dtype=torch.int64, device=device)
        self._picked_2SR = torch.zeros(2, steps, rows, dtype=torch.float64, device=device)  # ids and log-probabilities
        # never a method of our own, or buffers and cast weights would stay until Python looks for cycles
        self._replayed: Step | None = None

    def read(self, prompts: list[list[int]], length: int, rows: list[int], which: list[int]) -> None:
        """Fill P prompts up to the length and read them; each of these rows begins as the one of that number."""
        device, P = self._ids_R.device, len(prompts)
        ids_PT = torch.tensor([prompt + [0] * (length - len(prompt)) for prompt in prompts], device=device)
        cache = self._model.new_cache(P, length, self.cache.dtype)
        counts_P = torch.tensor([len(prompt) for prompt in prompts], device=device)
        x_PTD = self._model.hidden(ids_PT, cache, counts_B=counts_P)
        last_PD = x_PTD[torch.arange(P, device=device), cache.lengths_B - 1]
        logits_PV = capped(F.linear(last_PD.to(self._head_VD.dtype), self._head_VD), self._model.config.logit_softcap)
        there, theirs = (torch.tensor(places, device=device) for places in (rows, which))
        self.cache.take(there, cache, theirs)
        self._logits_RV[there] = logits_PV[theirs]

    def pick(self, step: int, temperature: float, points_R: Tensor) -> None:
        """Every row's next token, the step-th since the last read."""
        ids_R, logps_R = pick(self._logits_RV, temperature, points_R)
        self._ids_R.copy_(ids_R)
        self._picked_2SR[0, step], self._picked_2SR[1, step] = ids_R, logps_R

    def advance(self) -> None:
        """Logits of what follows the tokens picked last."""
        if self._replayed is not None:
            self._replayed()
            return
        self._forward()
        if self._capture is not None:
            self._replayed, self._capture = self._capture(self._forward), None

    def picked(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids_SR, logps_SR) of these steps, int64 and fp64: the one moment at which the device is waited for. The second may
        be the buffer itself, which the next pick writes to."""
        ids_SR, logps_SR = self._picked_2SR[:, :steps].cpu().numpy()
        return ids_SR.astype(np.int64), logps_SR

    def _forward(self) -> None:
        """A function of the buffers, and of nothing that the host knows."""
        x_RD = self._model.hidden(self._ids_R[:, None], self.cache)[:, 0]
        torch.mm(x_RD.to(self._head_VD.dtype), self._head_VD.T, out=self._logits_RV)
        if (softcap := self._model.config.logit_softcap) is not None:
            self._logits_RV.copy_(capped(self._logits_RV, softcap))
        # rows that ended compute on, and must not outgrow the cache
        self.cache.lengths_B.clamp_(max=self.cache.capacity - 1)
