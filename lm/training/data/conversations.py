"""Prompts and answers as batches, padded or packed, with weights on what the model is to learn.

Letters: B rows, T time (predictions), N = T + 1 tokens of a row; K predictions that count, D width.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kernels.linear_cross_entropy import linear_log_probabilities
from lm.config import ConfigError
from lm.model import Decoder
from lm.problems.example import Example
from lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Conversation:
    """Token ids of a prompt and of what follows it, the end token included. weights: how much each token of the completion
    counts; None: 1."""

    prompt: list[int]
    completion: list[int]
    weights: list[float] | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def demonstration_conversation(tokenizer: Tokenizer, example: Example) -> Conversation:
    """A problem and its demonstration, as the model is asked and answers. Raises ConfigError as `make_conversation`."""
    return make_conversation(tokenizer, example.prompt, example.demonstration)


def make_conversation(tokenizer: Tokenizer, prompt: str, answer: str) -> Conversation:
    """A prompt and its answer with the token that ends it: where the template is another's than ours, in the ids that it makes
    of both together, which may stand apart from each other as a prompt alone and an answer alone do not. Where it does not
    write an answer behind what it asks for one with, the answer's own ids stand there. Raises ConfigError, which names the
    text, for one that spells a control token of the template, or that it refuses."""
    apart = Conversation(tokenizer.chat(prompt), [*tokenizer.encode(answer), tokenizer.end_id])
    if not tokenizer.own_template:
        return apart
    if name := tokenizer.spelled(answer):
        raise ConfigError(
            f"an answer spells the control token {name}, which would end it; leave it out: {answer[:80]!r}"
        )
    question = {"role": "user", "content": prompt}
    try:
        before = tokenizer.template.render([question], awaiting=True).text
        whole = tokenizer.template.render([question, {"role": "assistant", "content": answer}])
    except ValueError as error:
        raise ConfigError(f"an answer cannot be written: {error}; leave it out: {answer[:80]!r}") from None
    start = len(before) if whole.text.startswith(before) else len(whole.text)
    if whole.spans:  # the template itself marks what is the model's
        start = whole.spans[-1][0]
    ids, offsets = tokenizer.encode_written(whole.text)
    begin = next((place for place, (first, _) in enumerate(offsets) if first >= start), len(ids))
    if begin == len(ids):
        return apart
    end = next((place for place in range(begin, len(ids)) if ids[place] == tokenizer.end_id), len(ids) - 1)
    return Conversation(ids[:begin], ids[begin : end + 1])


def collate(conversations: list[Conversation], pad_id: int) -> tuple[Tensor, Tensor]:
    """ids_BN padded on the right, and mask_BT: 1 where the predicted token belongs to a completion, or its weight; 0 elsewhere.

    Attention is causal, so padding on the right reaches no prediction that counts.
    """
    longest = max(map(len, conversations))
    ids = torch.full((len(conversations), longest), pad_id)
    mask = torch.zeros(len(conversations), longest - 1)
    for row, c in enumerate(conversations):
        ids[row, : len(c)] = torch.tensor(c.prompt + c.completion)
        mask[row, len(c.prompt) - 1 : len(c) - 1] = 1.0 if c.weights is None else torch.tensor(c.weights)
    return ids, mask


@dataclass(frozen=True)
class PackedConversations:
    """Conversations laid behind each other in rows. ids_BN; mask_BT as `collate` has it, 0 where the predicted token is of
    another conversation than the one before it; owners_BT, the number of the conversation that the predicting token is of, or
    of the last one in padding; bounds as kernels.attention takes them, where conversations begin in the B x T tokens that
    predict, and B x T."""

    ids_BN: Tensor
    mask_BT: Tensor
    owners_BT: Tensor
    bounds: Tensor


def pack(conversations: list[Conversation], pad_id: int, length: int, multiple: int = 1) -> PackedConversations:
    """The conversations in rows of at most `length` tokens, none of them cut: the longest first, each in the fullest row that
    it fits (best-fit decreasing). Where the rows are no multiple of `multiple`, rows of several give their last one away until
    they are, as far as there are such.

    Raises ValueError for a conversation that is longer.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(conversations)), key=lambda n: (-len(conversations[n]), n)):
        needed = len(conversations[number])
        if needed > length:
            raise ValueError(f"a conversation of {needed} tokens for rows of {length}")
        fitting = [row for row, left in enumerate(room) if left >= needed]
        row = min(fitting, key=lambda row: (room[row], row), default=len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(number)
        room[row] -= needed
    while len(rows) % multiple and (most := max(rows, key=len))[1:]:
        rows.append([most.pop()])
    N = max(sum(len(conversations[number]) for number in numbers) for numbers in rows)
    ids, mask = torch.full((len(rows), N), pad_id), torch.zeros(len(rows), N - 1)
    owners, bounds = torch.zeros(len(rows), N - 1, dtype=torch.int64), list[int]()
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            c = conversations[number]
            end = start + len(c)
            ids[row, start:end] = torch.tensor(c.prompt + c.completion)
            mask[row, start + len(c.prompt) - 1 : end - 1] = 1.0 if c.weights is None else torch.tensor(c.weights)
            owners[row, start:] = number
            bounds.append((N - 1) * row + start)
            start = end
    return PackedConversations(ids, mask, owners, torch.tensor([*bounds, len(rows) * (N - 1)]))


def places(mask_BT: Tensor) -> Tensor:
    """places_K of the predictions that count, in rows laid end to end. A mask on a GPU has the host wait for it."""
    return mask_BT.flatten().nonzero()[:, 0]


def hidden_at(
    model: Decoder, ids_BT: Tensor, places_K: Tensor, bounds: Tensor | None = None, noise_BTD: Tensor | None = None
) -> Tensor:
    """x_KD of which the head makes logits, at these places of the rows alone. bounds: of the conversations in them; None: a row
    is one. noise_BTD: added to embeddings."""
    return model.hidden(ids_BT, bounds=bounds, noise_BTD=noise_BTD).flatten(0, 1)[places_K]


def token_logps(model: Decoder, ids_BN: Tensor, places_K: Tensor, temperature: float = 1.0) -> Tensor:
    """logp_BT (nats) of each token after the first, given those before it, as sampled at the temperature: at these places. 0
    elsewhere, where no logits are made."""
    targets_BT = ids_BN[:, 1:]
    x_KD = hidden_at(model, ids_BN[:, :-1], places_K)
    logp_K = linear_log_probabilities(
        x_KD,
        model.head_weight,
        targets_BT.flatten()[places_K],
        temperature=temperature,
        softcap=model.config.logit_softcap or 0.0,
    )
    return logp_K.new_zeros(targets_BT.numel()).index_copy(0, places_K, logp_K).view_as(targets_BT)


def sample_indices(step: int, batch: int, population: int, seed: int) -> list[int]:
    """The members of a step's batch: every pass over the population is a new shuffle, and each step finds its place alone."""
    picks = []
    for place in range(step * batch, (step + 1) * batch):
        passes, index = divmod(place, population)
        picks.append(int(shuffle(population, passes, seed)[index]))
    return picks


@lru_cache(maxsize=4)
def shuffle(population: int, passes: int, seed: int) -> np.ndarray:
    """The order of a pass over so many, which is not to be changed in place."""
    return np.random.Generator(np.random.Philox(key=[seed, passes])).permutation(population)
