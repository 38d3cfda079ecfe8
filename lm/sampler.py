"""Batched generation with a KV cache: what follows a prompt depends on no other prompt. Letters as in lm/model.py; R rows."""

from collections import defaultdict, deque
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model import Cache, Decoder

# 256 answers of 31 tokens by the laptop preset's model take 1.74 s of processor time in 32 rows, 1.17 in 64, 1.01 in 128
# and 0.86 in 256; but a single long prompt takes as many rows as there are.
ROWS = 128
# Prompts are read together whose lengths end in one piece of so many tokens.
PIECE = 16


@dataclass
class Completion:
    """The tokens that followed a prompt, with the log-probability (nats) of each under the sampled distribution.

    `finished` is true when the stop token came; it is then the last token. Else the budget or the context ran out.
    """

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finished: bool = False


def pick(logits_BV: Tensor, temperature: float, points_B: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens (B) and their log-probabilities (B): where the points, each in [0, 1), fall when the probabilities of tokens
    are laid end to end; temperature 0 takes the most likely, lowest id first."""
    logps_BV = (logits_BV / temperature if temperature > 0 else logits_BV).float().log_softmax(-1)
    if temperature > 0:
        ends_BV = logps_BV.double().exp().cumsum(-1)
        total_B1 = ends_BV[:, -1:]
        # below the end of the last, or a product that rounds up would fall behind all of them
        at_B1 = torch.minimum(points_B[:, None] * total_B1, total_B1.nextafter(torch.zeros_like(total_B1)))
        ids_B = torch.searchsorted(ends_BV, at_B1, right=True)[:, 0]
    else:
        ids_B = logps_BV.argmax(-1)
    return ids_B, logps_BV.gather(1, ids_B[:, None])[:, 0]


def prompts_at_once(rows: int) -> int:
    """How many prompts are read together where so many rows are written."""
    return max(1, rows // 8)


def whole_pieces(length: int, context: int) -> int:
    """The length to which a prompt is filled up."""
    return min(-(-length // PIECE) * PIECE, context)


def capacity_of(length: int, max_new_tokens: int, context: int) -> int:
    """Slots of a cache for a prompt of this length and its answer: a power of two from 64 on, or the context."""
    return min(max(64, 1 << (length + max_new_tokens - 1).bit_length()), context)


@torch.inference_mode()
def generate(
    model: Decoder,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    stop_id: int,
    seed: int,
    rows: int = ROWS,
) -> list[Completion]:
    """One completion a prompt, in their order, of at most `max_new_tokens` and of what its own prompt leaves of the context.

    A completion depends on the model, its prompt, the numbers given here and, where it is sampled, on its place in the list;
    never on the other prompts. Its draws are of the seed and the place. On a CPU that holds to the last bit: a matrix product's
    rounding depends on the shape, so every forward has `rows` rows (an eighth of it where prompts are read) of a length that
    follows from each of its prompts alone, and a row that ended makes room for the next prompt.
    Raises ValueError for an empty prompt or one that leaves no room in the context.
    """
    if not prompts or max_new_tokens < 1:
        return [Completion() for _ in prompts]
    shortest, longest, context = min(map(len, prompts)), max(map(len, prompts)), model.config.context
    if shortest == 0 or longest >= context:
        raise ValueError(f"prompts must have 1 to {context - 1} tokens; these have {shortest} to {longest}")
    alike: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        alike[capacity_of(len(prompt), max_new_tokens, context)].append(place)
    completions = [Completion() for _ in prompts]
    for capacity, places in sorted(alike.items()):
        places.sort(key=lambda place: (len(prompts[place]), prompts[place], place))
        table = _Rows(model, rows, capacity, [min(max_new_tokens, context - len(p)) for p in prompts], seed)
        waiting = deque(places)
        while waiting or table.running:
            while waiting and len(table.running) <= rows - table.at_once:
                table.admit(waiting, prompts)
            table.step(completions, temperature, stop_id)
    return completions


class _Rows:
    """The rows that a forward has, and the prompt whose completion is being written in each; `running` has them by row."""

    def __init__(self, model: Decoder, rows: int, capacity: int, budgets: list[int], seed: int) -> None:
        self._model, self._budgets, self._seed = model, budgets, seed
        self._device = model.embedding.weight.device
        self._cache = Cache(model.config, rows, capacity, self._device)
        self._logits_RV = torch.zeros(rows, model.config.vocab_size, device=self._device)
        self._points: dict[int, np.ndarray] = {}
        self._rows = rows
        self.at_once = prompts_at_once(rows)
        self.running: dict[int, int] = {}

    def admit(self, waiting: deque[int], prompts: list[list[int]]) -> None:
        """Read the prompts at the head of the queue, as many as may be read together and as there are free rows; one that
        stands there several times is read once."""
        context = self._model.config.context
        length = whole_pieces(len(prompts[waiting[0]]), context)
        read: list[list[int]] = []
        taken: dict[int, int] = {}  # by the row, which of those read
        for row in (row for row in range(self._rows) if row not in self.running):
            if not waiting or whole_pieces(len(prompts[waiting[0]]), context) != length:
                break
            if not read or read[-1] != prompts[waiting[0]]:
                if len(read) == self.at_once:
                    break
                read.append(prompts[waiting[0]])
            place = self.running[row] = waiting.popleft()
            taken[row] = len(read) - 1
            draws = np.random.Generator(np.random.Philox(key=[self._seed, place]))
            self._points[row] = draws.random(self._budgets[place])
        read += read[:1] * (self.at_once - len(read))
        ids_PT = torch.tensor([prompt + [0] * (length - len(prompt)) for prompt in read], device=self._device)
        cache = Cache(self._model.config, self.at_once, length, self._device)
        x_PTD = self._model.hidden(ids_PT, cache)
        cache.lengths_B = torch.tensor([len(prompt) for prompt in read], device=self._device)
        last_PD = x_PTD[torch.arange(self.at_once, device=self._device), cache.lengths_B - 1]
        logits_PV = F.linear(last_PD, self._model.head_weight).to(self._logits_RV.dtype)
        rows, theirs = (torch.tensor(list(found), device=self._device) for found in (taken.keys(), taken.values()))
        self._cache.take(rows, cache, theirs)
        self._logits_RV[rows] = logits_PV[theirs]

    def step(self, completions: list[Completion], temperature: float, stop_id: int) -> None:
        """A token more in every running row; those that end with it are then free."""
        points = np.zeros(self._rows)
        for row, place in self.running.items():
            points[row] = self._points[row][len(completions[place].ids)]
        ids_R, logps_R = pick(self._logits_RV, temperature, torch.from_numpy(points).to(self._device))
        ids, logps = ids_R.tolist(), logps_R.tolist()
        for row, place in list(self.running.items()):
            completion = completions[place]
            completion.ids.append(ids[row])
            completion.logps.append(logps[row])
            completion.finished = ids[row] == stop_id
            if completion.finished or len(completion.ids) == self._budgets[place]:
                del self.running[row]
        if self.running:
            idle = [row for row in range(self._rows) if row not in self.running]
            self._cache.lengths_B[idle] = 0  # they compute on, and must not outgrow the cache
            self._logits_RV = self._model(ids_R[:, None], self._cache)[:, -1]
