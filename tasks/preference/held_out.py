"""How well pairs that were not learned from are ranked, before training and after it."""

from typing import Any

import torch
from torch import Tensor

from lm.model import Decoder
from lm.pairs.table import SIDES, PairTable
from lm.tokenizer import Tokenizer
from tasks.preference.logps import side_logps
from tasks.preference.losses.base import Logps


def metrics_before(pairs: PairTable) -> dict[str, float]:
    """Number of pairs held out, and the share of them whose chosen answer is likelier a token than the rejected one, under the
    start model."""
    held = pairs.places(held_out=True)
    if not held:
        return {"held_out_pairs": 0}
    reference = [pairs.logps(f"reference_{side}")[held] for side in SIDES]
    return {"held_out_pairs": len(held), "held_out_accuracy_before": likelier(pairs, held, reference)}


def metrics_after(pairs: PairTable, loss: Any, model: Decoder, tokenizer: Tokenizer) -> dict[str, float]:
    """Share of pairs held out whose chosen answer is likelier a token now; and by the loss's own margin, which is 0 for all
    before training where it compares with the start model, the share above 0 and the mean."""
    held = pairs.places(held_out=True)
    if not held:
        return {}
    now = [side_logps(model, pairs, side, held, tokenizer.pad_id) for side in SIDES]
    tokens = [torch.from_numpy(pairs.lengths(side)[held]) for side in SIDES]
    reference = [pairs.logps(f"reference_{side}")[held] for side in SIDES]
    _, margin_P = loss(Logps(now[0], now[1], reference[0], reference[1], tokens[0], tokens[1]))
    return {
        "held_out_accuracy": likelier(pairs, held, now),
        "held_out_reward_margin": margin_P.mean().item(),
        "held_out_reward_accuracy": (margin_P > 0).double().mean().item(),
    }


def likelier(pairs: PairTable, places: list[int], logps: list[Tensor]) -> float:
    """Share of pairs whose chosen answer has the greater log-probability a token."""
    chosen_P, rejected_P = (
        logp_P / torch.from_numpy(pairs.lengths(side)[places]) for logp_P, side in zip(logps, SIDES, strict=True)
    )
    return (chosen_P > rejected_P).double().mean().item()
