"""Attention to the last tokens alone (Longformer, Beltagy et al. 2020, arXiv:2004.05150; as Mistral 7B has it,
arXiv:2310.06825). A state keeps as many tokens as a window has, in a ring.

Letters as in lm/mixers/attention.py.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kernels.attention import attention, cpu
from kernels.attention.documents import Documents, whole_rows
from lm.context import Context
from lm.mixers.attention import Attention, Heads, KeysAndValues, by_query, over_slots
from lm.mixers.base import Mixer
from lm.quantized.inputs import Rounding
from lm.shape import Shape


class WindowedHeads(Heads):
    """context.shared is what SlidingWindow.prepare gives."""

    def mix_sequences(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, context: Context) -> Tensor:
        if isinstance(context.shared, Documents):
            return attention(q_BHTE.transpose(1, 2), k_BKTE.transpose(1, 2), v_BKTE.transpose(1, 2), context.shared)
        # heads repeated by hand: torch's enable_gqa leaves the fused CPU path (torch 2.13)
        k, v = (cpu.repeated(x.transpose(1, 2), self.heads).transpose(1, 2) for x in (k_BKTE, v_BKTE))
        return F.scaled_dot_product_attention(q_BHTE, k, v, attn_mask=context.shared).transpose(1, 2)

    def after(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, context: Context) -> Tensor:
        visible, new_BC, source_BC = context.shared
        state = context.state
        k, v = k_BKTE.to(state.keys_BKCE.dtype), v_BKTE.to(state.values_BKCE.dtype)
        mixed = over_slots(q_BHTE, torch.cat((state.keys_BKCE, k), 2), torch.cat((state.values_BKCE, v), 2), visible)
        for kept, came in ((state.keys_BKCE, k), (state.values_BKCE, v)):
            source = source_BC[:, None, :, None].expand_as(kept)
            kept.copy_(torch.where(new_BC[:, None, :, None], came.gather(2, source), kept))
        return mixed


class SlidingWindow(Attention):
    """Differs from Mistral: a prompt longer than the window is read as any other."""

    both_ways = False
    name: Literal["sliding_window"] = "sliding_window"  # type: ignore[assignment]
    window: int = Field(128, gt=0, description="tokens that a token sees, itself among them")

    def build(self, shape: Shape) -> WindowedHeads:
        return WindowedHeads(shape)

    def narrowed(self, share: float) -> "SlidingWindow":
        return self.model_copy(update={"window": max(1, int(share * self.window))})

    def flops(self, shape: Shape, length: int) -> float:
        """FLOP of attention to the keys that a token sees on average."""
        seen = min(self.window, length)
        mean = seen - seen * (seen - 1) / (2 * length)
        return 12.0 * shape.heads * shape.head_dim * mean

    def state(
        self, shape: Shape, rows: int, capacity: int, device: torch.device | None, dtype: torch.dtype
    ) -> KeysAndValues:
        return KeysAndValues(shape, rows, min(self.window, capacity), device, dtype)

    def rounded_state(
        self, shape: Shape, rows: int, capacity: int, device: torch.device | None, rounding: Rounding
    ) -> Any:
        return Mixer.rounded_state(self, shape, rows, capacity, device, rounding)  # a ring is not written by position

    def state_numel(self, shape: Shape, tokens: float) -> float:
        return super().state_numel(shape, min(tokens, self.window))

    def prepare(self, shape: Shape, context: Context, rows: int, length: int) -> Any:
        """Without a state, on a GPU the documents of each token cut to its window, of which the kernel makes no mask; elsewhere
        a mask. With one, `_steps`."""
        if context.state is not None:
            return self._steps(shape, context, length)
        device = context.cos.device
        starts_N, ends_N = context.documents or whole_rows(rows, length, device)
        places_N = torch.arange(rows * length, dtype=torch.int32, device=device)
        starts_N = torch.maximum(starts_N, places_N - (self.window - 1))
        if context.cos.is_cuda:
            return Documents(starts_N, torch.minimum(ends_N, places_N + self.window))
        alike = 1 if context.documents is None else rows  # rows of one document each have one mask
        queries_RT1 = places_N.view(rows, length, 1)[:alike]
        keys_R1T = queries_RT1.mT
        visible_RTT = (keys_R1T >= starts_N.view(rows, length, 1)[:alike]) & (keys_R1T <= queries_RT1)
        return visible_RTT[:, None]

    def _steps(self, shape: Shape, context: Context, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """(the mask of the tokens over the slots and themselves; for each slot whether one of them takes it, and which).

        The token at position p is in slot p mod C, C being the slots.
        """
        assert context.positions_BT is not None and context.lengths_B is not None
        positions_BT, lengths_B1 = context.positions_BT, context.lengths_B[:, None]
        slots = torch.arange(context.state.keys_BKCE.shape[2], device=lengths_B1.device)
        kept_BC = _newest(slots, lengths_B1)
        keys_BJ = torch.cat((kept_BC, positions_BT), 1)[:, None]
        queries_BT1 = positions_BT[..., None]
        visible_BTJ = (keys_BJ >= 0) & (keys_BJ <= queries_BT1) & (keys_BJ > queries_BT1 - self.window)
        came = length if context.counts_B is None else context.counts_B[:, None]
        then_BC = _newest(slots, lengths_B1 + came)
        source_BC = (then_BC - lengths_B1).clamp(0, length - 1)
        return by_query(visible_BTJ, shape), then_BC >= lengths_B1, source_BC

    def hugging_face_config(self, shape: Shape) -> dict[str, Any]:
        return {"layer_type": "sliding_attention", "use_sliding_window": True, "sliding_window": self.window}


def _newest(slots_C: Tensor, lengths_B1: Tensor) -> Tensor:
    """position_BC of the newest token that is in each slot of rows of these lengths; negative where there is none."""
    return lengths_B1 - 1 - (lengths_B1 - 1 - slots_C) % len(slots_C)
