"""What one update learns from, as its loss reads it: the answers that teach, and demonstrations beside them.

M rows, T predictions, N = T + 1 tokens, D demonstrations.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tasks.rl.rollout import Rollout

# ids (M, N); weights, old (nats), advantages and, where there are any, reference (nats) and shown, the weights of
# demonstrations (M, T); advantages are (M, 1) where all tokens of an answer share one
Rows = dict[str, Tensor]


def answers_of(rollout: Rollout, rows_M: Tensor, weights_MT: Tensor, every: bool) -> Rows:
    """Rows of the answers, among these of a rollout, that teach, or of every one that counts: without an advantage a policy's
    loss has no gradient. weights_MT: what all of them have."""
    chosen_M = ((rollout.advantages_BT[rows_M] != 0).any(1) | every) & weights_MT.any(1)
    rows_M = rows_M[chosen_M]
    found = {
        "ids": rollout.ids_BN[rows_M],
        "weights": weights_MT[chosen_M],
        "old": rollout.logp_old_BT[rows_M],
        "advantages": rollout.advantages_BT[rows_M],
    }
    return found if rollout.reference_BT is None else {**found, "reference": rollout.reference_BT[rows_M]}


def with_demonstrations(rows: Rows, shown_DN: Tensor, weights_DT: Tensor, pad_id: int) -> Rows:
    """Rows of answers with those of demonstrations behind them, whose tokens have these weights and none of the policy's."""
    D, M = len(shown_DN), len(rows["ids"])
    T = max(weights_DT.shape[1], rows["weights"].shape[1])

    def wide(x: Tensor, width: int, value: int = 0) -> Tensor:
        return pad(x, (0, width - x.shape[1]), value=value)

    found = {}
    for name, x in rows.items():
        if name == "ids":
            found[name] = torch.cat((wide(x, T + 1, pad_id), wide(shown_DN, T + 1, pad_id)))
        else:
            found[name] = pad(x if x.shape[1] == 1 else wide(x, T), (0, 0, 0, D))
    return {**found, "shown": torch.cat((weights_DT.new_zeros(M, T), wide(weights_DT, T)))}


def in_parts(rows: Rows, parts: int) -> Rows:
    """Rows with as many of no weight behind them as make their number a multiple of `parts`, and no less; without
    the predictions behind the last one that counts."""
    M = len(rows["ids"])
    missing = max(-(-M // parts), 1) * parts - M
    found = {name: pad(x, (0,) * (2 * x.ndim - 1) + (missing,)) for name, x in rows.items()}
    counts_T = prediction_mask(found).any(0)
    T = int(counts_T.nonzero().max()) + 1 if counts_T.any() else 1
    return {name: x[:, : T + (name == "ids")].contiguous() for name, x in found.items()}


def prediction_mask(rows: Rows) -> Tensor:
    """Whether each prediction counts, (M, T)."""
    weights_MT = rows["weights"] > 0
    return weights_MT | (rows["shown"] > 0) if "shown" in rows else weights_MT
