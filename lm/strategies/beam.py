"""Beam search with length normalisation, as Google's translation system has it: Wu et al. 2016 (arXiv:1609.08144), section 7.

Letters: G groups, one of each prompt, W beams of a group, R = G x W rows, V vocabulary.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.decoding import Rows
from lm.model import Decoder
from lm.sampler import CAPTURE, ROWS, capacity_of, prompts_at_once, whole_pieces
from lm.strategies.base import DecodedAnswer, PromptBatch, Strategy


def length_penalty(length: int, alpha: float) -> float:
    """What a log-probability is divided by: lp(Y) of equation 14, (5 + |Y|)^alpha / (5 + 1)^alpha."""
    return ((5 + length) / 6) ** alpha


class BeamRows(Rows):
    """Rows that may go on as others of them did."""

    def logps(self) -> Tensor:
        """logps_RV (nats, fp64) of what may follow each row."""
        return self._logits_RV.float().log_softmax(-1).double()

    def follow(self, parents_R: Tensor, ids_R: Tensor) -> None:
        """Have each row go on as its parent, with this token."""
        self.cache.take(torch.arange(len(parents_R), device=parents_R.device), self.cache, parents_R)
        self._ids_R.copy_(ids_R)
        self.advance()


@dataclass
class _Group:
    """The search for one prompt. live: what each beam has written; scores: its log-probability; ended: (score by equation 14,
    ids)."""

    budget: int
    live: list[list[int]] = field(default_factory=lambda: [[]])
    scores: list[float] = field(default_factory=lambda: [0.0])
    ended: list[tuple[float, list[int]]] = field(default_factory=list)
    steps: int = 0
    done: bool = False

    def step(self, candidates: list[tuple[float, int, int]], width: int, alpha: float, stop_id: int) -> list[int]:
        """Take (log-probability, beam, token) of the likeliest 2 W, best first, so that W go on even if W end. Returns the beam
        that each of those that go on followed. What ends counts only among the first W."""
        self.steps += 1
        going: list[tuple[float, int, list[int]]] = []
        for rank, (score, beam, token) in enumerate(candidates):
            if score == -math.inf:
                break
            ids = [*self.live[beam], token]
            if token == stop_id:
                if rank < width:
                    self.ended.append((score / length_penalty(len(ids), alpha), ids))
            elif len(going) < width:
                going.append((score, beam, ids))
        self.live, self.scores = [ids for _, _, ids in going], [score for score, _, _ in going]
        self.done = self.steps == self.budget or len(self.ended) >= width or not going
        return [beam for _, beam, _ in going]

    def best(self, alpha: float) -> list[int]:
        """What ended with the best score, the first of equals; where nothing did, the same of what was cut."""
        cut = [
            (score / length_penalty(len(ids), alpha), ids) for score, ids in zip(self.scores, self.live, strict=True)
        ]
        return max(self.ended or cut, key=lambda found: found[0])[1]


class Beam(Strategy):
    """The answer of the highest log P(answer) / lp(answer), equation 14 without its coverage penalty, which asks of attention
    whether every word of a source was translated: a decoder alone has no source. The search ends when as many answers have
    ended as there are beams, or at max_new_tokens; the token that ends an answer is one of its length. One beam is greedy.

    Differs from the paper: no coverage; beams are told apart by their number alone, none is dropped for being far below the
    best; answers that were cut compete only where none ended."""

    name: Literal["beam"] = "beam"
    beams: int = Field(4, gt=0, le=ROWS, description="answers that are followed at once")
    alpha: float = Field(0.6, ge=0, description="of the length penalty; 0: none, which prefers short answers")

    @property
    def default_label(self) -> str:
        return f"beam_{self.beams}"

    @torch.inference_mode()
    def __call__(self, model: Decoder, asked: PromptBatch) -> list[DecodedAnswer]:
        context, most, W = model.config.context, asked.max_new_tokens, self.beams
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, prompt in enumerate(asked.prompts):
            capacity = capacity_of(len(prompt), most, context, gpu=False)
            alike[capacity, whole_pieces(len(prompt), context)].append(place)
        found = [DecodedAnswer([], 0, 0)] * len(asked.prompts)
        for (capacity, length), places in sorted(alike.items()):
            capture = CAPTURE["cuda" if model.embedding.weight.is_cuda else "cpu"]
            rows = BeamRows(model, ROWS // W * W, capacity, 1, capture)
            for first in range(0, len(places), ROWS // W):
                some = places[first : first + ROWS // W]
                groups = [_Group(min(most, context - len(asked.prompts[place]))) for place in some]
                self._search(rows, [asked.prompts[place] for place in some], length, groups, asked.tokenizer.end_id)
                for place, group in zip(some, groups, strict=True):
                    found[place] = DecodedAnswer(group.best(self.alpha), W * group.steps, group.steps)
        return found

    def _search(
        self, rows: BeamRows, prompts: list[list[int]], length: int, groups: list[_Group], stop_id: int
    ) -> None:
        """Search until all groups are done, each in its W rows; as many rows compute, and prompts are read, however few there
        are."""
        W, R, at_once = self.beams, len(rows.cache.lengths_B), prompts_at_once(ROWS)
        for first in range(0, len(prompts), at_once):
            some = prompts[first : first + at_once]
            own = [(first + place) * W + beam for place in range(len(some)) for beam in range(W)]
            filled = some + some[:1] * (at_once - len(some))
            rows.read(filled, length, own, [place for place in range(len(some)) for _ in range(W)])
        rows.cache.lengths_B[len(prompts) * W :] = 0  # they compute on, over as little as may be
        device = rows.cache.lengths_B.device
        while True:
            scores = [[-math.inf] * W for _ in range(R // W)]
            for own_scores, group in zip(scores, groups, strict=False):
                own_scores[: len(group.scores)] = group.scores
            logps_RV = rows.logps()
            V = logps_RV.shape[1]
            totals_RV = logps_RV + torch.tensor(scores, dtype=torch.float64, device=device).view(-1, 1)
            values, flat = totals_RV.view(-1, W * V).topk(2 * W)
            parents, ids = list(range(R)), [0] * R
            for number, (group, best, at) in enumerate(zip(groups, values.tolist(), flat.tolist(), strict=False)):
                if group.done:
                    continue
                candidates = [(score, *divmod(place, V)) for score, place in zip(best, at, strict=True)]
                for beam, parent in enumerate(group.step(candidates, W, self.alpha, stop_id)):
                    parents[number * W + beam], ids[number * W + beam] = number * W + parent, group.live[beam][-1]
            if all(group.done for group in groups):
                return
            rows.follow(torch.tensor(parents, device=device), torch.tensor(ids, device=device))
