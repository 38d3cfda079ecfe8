"""How well a reward model ranks pairs that it did not learn from, and whether its probabilities can be believed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.heads import scores_of
from lm.intervals import wilson
from lm.model import Decoder
from lm.pairs.table import SIDES, PairTable

BINS = 10  # of equal width, from a probability of a half to 1


def side_scores(model: Decoder, pairs: PairTable, side: str, places: list[int], pad_id: int) -> Tensor:
    """score_PM of the answers of one side behind their prompts, in these rows."""
    whole = [pairs.ids("prompt", place) + pairs.ids(side, place) for place in places]
    return scores_of(model, whole, pad_id)


def held_out_metrics(model: Decoder, pairs: PairTable, pad_id: int) -> dict[str, float]:
    """Number of pairs held out and, by the mean score of the heads: the share whose chosen answer scores higher, with its 95%
    interval; the mean of -log sigmoid(margin) in nats; how far probabilities are from shares (`calibration_error`); and, where
    there are several heads, the mean over answers of their standard deviation."""
    held = pairs.places(held_out=True)
    if not held:
        return {"held_out_pairs": 0}
    chosen_PM, rejected_PM = (side_scores(model, pairs, side, held, pad_id) for side in SIDES)
    margin_P = (chosen_PM - rejected_PM).mean(1).double()
    right = int((margin_P > 0).sum())
    low, high = wilson(right, len(held))
    found = {
        "held_out_pairs": len(held),
        "held_out_accuracy": right / len(held),
        "held_out_accuracy_low": low,
        "held_out_accuracy_high": high,
        "held_out_loss": -F.logsigmoid(margin_P).mean().item(),
        "held_out_calibration_error": calibration_error(margin_P),
    }
    if chosen_PM.shape[1] > 1:
        found["held_out_spread"] = torch.cat([chosen_PM, rejected_PM]).std(1, correction=0).mean().item()
    return found


def calibration_error(margin_P: Tensor) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, equation 5) of pairs by their margins:
    the answer that scores higher is held to be better with the probability sigmoid(|margin|); the mean over BINS of these of
    |mean probability - share that is right|, by how many pairs are in each. 0 is best."""
    sure_P, right_P = margin_P.abs().sigmoid(), (margin_P > 0).double()
    bin_P = ((sure_P - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    apart = [abs((sure_P - right_P)[bin_P == number].sum().item()) for number in range(BINS)]
    return sum(apart) / len(margin_P)
