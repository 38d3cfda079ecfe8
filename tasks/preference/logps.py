"""Log-probabilities of whole answers, without gradients: of the frozen start model, and of answers held out."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lm.model import Decoder
from lm.pairs.table import PairTable
from lm.training.data.conversations import Conversation, collate, places, token_logps
from lm.transfer import to_device

# Read together at most, padding counted; a constant, since how many rows a product has decides its last bits.
POSITIONS = 8192

Progress = Callable[[int, int], None]


def unheard(done: int, total: int) -> None:
    """Nobody is told how far it is."""


@torch.no_grad()
def answer_logps(
    model: Decoder,
    lengths: Sequence[int],
    conversation: Callable[[int], Conversation],
    pad_id: int,
    progress: Progress = unheard,
) -> Tensor:
    """logp_N (nats, fp32, in host memory) of N answers given their prompts: sums over their tokens.

    conversation(n): the n-th of them, which has lengths[n] tokens. Alike lengths are read together; the model is left in the
    mode in which it was.
    """
    training = model.training
    model.eval()
    device = model.embedding.weight.device
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    ascending = [lengths[place] for place in order]
    found_N, first = torch.zeros(len(lengths)), 0
    while first < len(order):
        end = end_of(ascending, first)
        ids_RN, mask_RT = collate([conversation(place) for place in order[first:end]], pad_id)
        ids_RN, places_K = to_device((ids_RN, places(mask_RT)), device)
        found_N[torch.tensor(order[first:end])] = token_logps(model, ids_RN, places_K).sum(1).float().cpu()
        progress(end, len(order))
        first = end
    model.train(training)
    return found_N


def side_logps(
    model: Decoder, pairs: PairTable, side: str, places: list[int], pad_id: int, progress: Progress = unheard
) -> Tensor:
    """Log-probabilities of the answers of one side behind their prompts, in these rows."""

    def conversation(number: int) -> Conversation:
        return pairs.conversation(side, places[number])

    lengths = pairs.lengths("prompt")[places] + pairs.lengths(side)[places]
    return answer_logps(model, lengths.tolist(), conversation, pad_id, progress)


def end_of(ascending: Sequence[int], first: int) -> int:
    """End of the rows from `first` on that are read together, by their lengths: one at least."""
    end = first + 1
    while end < len(ascending) and (end + 1 - first) * ascending[end] <= POSITIONS:
        end += 1
    return end
