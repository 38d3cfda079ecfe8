"""How likely a model finds what may follow a text: a text is read once for all that may follow it, and a beginning that texts
share once for all of them.

Letters: R rows, T tokens of a row, D width, K predictions that count.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.decoding import dtype_of_pass
from lm.model import Cache, Decoder
from lm.sampler import whole_pieces
from lm.softcap import capped

# Texts that are read together, and what follows some of them: always as many, since how many a product has decides its last
# bits
TEXTS, FOLLOWING, LOGITS = 16, 64, 64
FOLLOWING_LONG, LONG = (
    16,
    1024,
)  # rows of what follows where a cache has more tokens: 64 of 2,048 are 21 GB of a billion weights
PIECE = 8  # tokens: what follows is filled up to a multiple


@dataclass(frozen=True)
class LikelihoodRequest:
    """A text and what may follow it, as token ids, one at least of each. shared: so many tokens at its beginning are read once
    for all texts that begin with them."""

    text: list[int]
    following: list[list[int]]
    shared: int = 0


class _Kind(NamedTuple):
    """What texts that are read together have in common: their shared beginning, and the length to which the rest is filled."""

    beginning: tuple[int, ...]
    length: int


@torch.inference_mode()
def log_likelihoods(
    model: Decoder, asked: Sequence[LikelihoodRequest], progress: Callable[[int, int, str], None]
) -> list[list[float]]:
    """Log-probability (nats) of all that may follow each text, given the text and what comes before in it.

    It depends on the text, on what follows and on how much is shared alone: not on what else is asked, nor on its order, on a
    CPU to the last bit. Where a text with what follows is longer than the context, it loses its beginning, as in
    lm-evaluation-harness; nothing of it is shared then.
    """
    context, done, total = model.config.context, 0, len(asked)
    found: list[list[float]] = [[0.0] * len(each.following) for each in asked]
    kinds: dict[_Kind, list[tuple[int, LikelihoodRequest, list[int]]]] = defaultdict(list)
    for place, one in enumerate(asked):
        for part, numbers in _fitting(one, context):
            rest = len(part.text) - part.shared
            kind = _Kind(tuple(part.text[: part.shared]), min(whole_pieces(rest, context), context - part.shared))
            kinds[kind].append((place, part, numbers))
    read: tuple[int, ...] | None = None
    beginning: Cache | None = None
    for kind, parts in sorted(kinds.items()):  # those of one beginning are neighbours
        if kind.beginning != read:
            beginning, read = _read_beginning(model, kind.beginning), kind.beginning
        for start in range(0, len(parts), TEXTS):
            some = parts[start : start + TEXTS]
            for (place, _, numbers), nats in zip(
                some, _of_texts(model, kind, beginning, [p for _, p, _ in some]), strict=True
            ):
                for number, value in zip(numbers, nats, strict=True):
                    found[place][number] = value
            done = len({place for place, _, _ in some}) + done
            progress(min(done, total), total, "question")
    return found


def _fitting(asked: LikelihoodRequest, context: int) -> Iterator[tuple[LikelihoodRequest, list[int]]]:
    """What is asked, in parts that fit the context, and the numbers of what follows in each: together where all do."""
    fits = [number for number, ids in enumerate(asked.following) if len(asked.text) + len(ids) - 1 <= context]
    if fits:
        yield LikelihoodRequest(asked.text, [asked.following[number] for number in fits], asked.shared), fits
    for number, ids in enumerate(asked.following):
        if number not in fits:
            whole = [*asked.text, *ids][-(context + 1) :]
            cut = max(1, len(whole) - len(ids))
            yield LikelihoodRequest(whole[:cut], [whole[cut:]]), [number]


def _read_beginning(model: Decoder, ids: tuple[int, ...]) -> Cache | None:
    if not ids:
        return None
    device = model.embedding.weight.device
    cache = model.new_cache(1, len(ids), dtype_of_pass(model))
    model.hidden(torch.tensor([ids], device=device), cache)
    return cache


def _of_texts(
    model: Decoder, kind: _Kind, beginning: Cache | None, parts: list[LikelihoodRequest]
) -> list[list[float]]:
    """Nats of all that may follow each of some texts of one kind."""
    device, shared = model.embedding.weight.device, len(kind.beginning)
    cache = model.new_cache(TEXTS, shared + kind.length, dtype_of_pass(model))
    if beginning is not None:
        cache.take(torch.arange(TEXTS, device=device), beginning, torch.zeros(TEXTS, dtype=torch.int64, device=device))
    rests = [part.text[shared:] for part in parts]
    rests += [rests[0]] * (TEXTS - len(rests))
    ids_RT, counts_R = _filled(rests, kind.length, device)
    x_RTD = model.hidden(ids_RT, cache, counts_B=counts_R)
    # what follows a text: its first token here, the others from where the text ended
    asked = [(row, ids) for row, part in enumerate(parts) for ids in part.following]
    rows_K = torch.tensor([row for row, _ in asked], device=device)
    first_K = torch.tensor([ids[0] for _, ids in asked], device=device)
    nats = _nats(model, x_RTD[rows_K, counts_R[rows_K] - 1], first_K)
    longer: dict[int, list[int]] = defaultdict(list)
    for number, (row, ids) in enumerate(asked):
        if len(ids) > 1:
            room = model.config.context - len(parts[row].text)
            longer[min(-(-(len(ids) - 1) // PIECE) * PIECE, room)].append(number)
    for length, numbers in sorted(longer.items()):
        at_once = following_at_once(cache.capacity + length)
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            for number, value in zip(some, _of_following(model, cache, length, [asked[n] for n in some]), strict=True):
                nats[number] += value
    found = iter(nats)
    return [[next(found) for _ in part.following] for part in parts]


def following_at_once(capacity: int) -> int:
    """Rows of what follows texts, by the tokens of a row's cache alone."""
    return FOLLOWING if capacity <= LONG else FOLLOWING_LONG


def _of_following(model: Decoder, texts: Cache, length: int, asked: list[tuple[int, list[int]]]) -> list[float]:
    """Nats of all but the first token of what follows texts, given (row of the text, ids)."""
    device = model.embedding.weight.device
    capacity = min(texts.capacity + length, model.config.context)
    rows = following_at_once(texts.capacity + length)
    cache = model.new_cache(rows, capacity, texts.dtype)
    filled = [*asked, *[asked[0]] * (rows - len(asked))]
    cache.take(torch.arange(rows, device=device), texts, torch.tensor([row for row, _ in filled], device=device))
    ids_RT, counts_R = _filled([ids[:-1] for _, ids in filled], length, device)
    x_RTD = model.hidden(ids_RT, cache, counts_B=counts_R)
    places = [(row, t) for row, (_, ids) in enumerate(asked) for t in range(len(ids) - 1)]
    rows_K, at_K = torch.tensor(places, device=device).T
    targets_K = torch.tensor([ids[t + 1] for _, ids in asked for t in range(len(ids) - 1)], device=device)
    nats = iter(_nats(model, x_RTD[rows_K, at_K], targets_K))
    return [sum(next(nats) for _ in range(len(ids) - 1)) for _, ids in asked]


def _filled(rows: Sequence[list[int]], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids_RT filled up with zeros, how many of each row are its own)."""
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
    return ids, torch.tensor([len(row) for row in rows], device=device)


def _nats(model: Decoder, x_KD: Tensor, targets_K: Tensor) -> list[float]:
    """Log-probability of each target: always as many rows of a product, the last ones filled up."""
    found: list[float] = []
    for x_RD, targets_R in zip(x_KD.split(LOGITS), targets_K.split(LOGITS), strict=True):
        filled_RD = F.pad(x_RD, (0, 0, 0, LOGITS - len(x_RD))).to(model.head_weight.dtype)
        logits_RV = F.linear(filled_RD, model.head_weight)[: len(x_RD)].float()
        logits_RV = capped(logits_RV, model.config.logit_softcap)
        found += logits_RV.log_softmax(-1).gather(1, targets_R[:, None])[:, 0].double().tolist()
    return found
