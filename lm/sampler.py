"""Batched generation with a KV cache: what follows a prompt depends on no other prompt. Letters as in lm/decoding.py."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lm.decoding import Rows, cuda_graph
from lm.model import Decoder
from lm.transfer import to_device

# 256 answers of 31 tokens by the laptop preset's model take 1.74 s of processor time in 32 rows, 1.17 in 64, 1.01 in 128
# and 0.86 in 256; but a single long prompt takes as many rows as there are.
ROWS = 128
# Of rollouts on a GPU, which read all weights for a token however many rows there are. Predicted for 350 million weights in
# bf16 and 288 filled slots a row: 29.7 MB a token and row in 512 rows, 34 in 128, and as many launches for four times as many.
GPU_ROWS = 512
# Prompts are read together whose lengths end in one piece of so many tokens.
PIECE = 16
# Steps between two looks at what was written. A look costs a GPU the time in which nothing is queued, some 0.1 ms beside 2 to 7
# a step of 350 million weights (predicted), and a row that ended writes 3.5 tokens for nobody on average. A CPU is waited for
# in any case.
LOOK_EVERY = {"cpu": 1, "cuda": 8}
CAPTURE = {"cpu": None, "cuda": cuda_graph}
# What makes the rows, from what Rows is made of: what picks otherwise than Rows is a choice of lm/strategies
MakeRows = Callable[..., Rows]


@dataclass
class Completion:
    """The tokens that followed a prompt, with the log-probability (nats) of each under the sampled distribution.

    `finished` is true when the stop token came; it is then the last token. Else the budget or the context ran out.
    """

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finished: bool = False


def rows_for(model: Decoder, prompts: int) -> int:
    """Rows in which rollouts of so many prompts are written."""
    return min(GPU_ROWS if model.embedding.weight.is_cuda else ROWS, prompts)


def prompts_at_once(rows: int) -> int:
    """Number of prompts read together where so many rows are written."""
    return max(1, rows // 8)


def whole_pieces(length: int, context: int) -> int:
    """Length to which a prompt is filled up: a multiple of PIECE, or the context."""
    return min(-(-length // PIECE) * PIECE, context)


def capacity_of(length: int, max_new_tokens: int, context: int, gpu: bool) -> int:
    """Slots of a cache for a prompt of this length and its answer: a power of two from 64 on, or the context. On a GPU, whose
    attention reads none but those filled, a multiple of 64."""
    needed = length + max_new_tokens
    return min(-(-needed // 64) * 64 if gpu else max(64, 1 << (needed - 1).bit_length()), context)


@torch.inference_mode()
def generate(
    model: Decoder,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    stop_id: int,
    seed: int,
    rows: int = ROWS,
    draws: Sequence[int] | None = None,
    make_rows: MakeRows = Rows,
) -> list[Completion]:
    """One completion a prompt, in their order, of at most `max_new_tokens` and of what its own prompt leaves of the context.

    A completion depends on the model, its prompt, the numbers given here and, where it is sampled, on its place in the list;
    never on the other prompts. Its draws are of the seed and the place, or of the number that `draws` has there, from 0 on. On
    a CPU that holds to the last bit: a matrix product's rounding depends on the shape, so every forward has `rows` rows (an
    eighth of it where prompts are read) of a length that follows from each of its prompts alone, and a row that ended makes
    room for the next prompt; of a model with experts it holds to rounding, since a product has as many rows as tokens chose the
    expert. Computed in the dtype of autocast where it is on. Raises ValueError for an empty prompt or one
    that leaves no room in the context.
    """
    if not prompts or max_new_tokens < 1:
        return [Completion() for _ in prompts]
    shortest, longest, context = min(map(len, prompts)), max(map(len, prompts)), model.config.context
    if shortest == 0 or longest >= context:
        raise ValueError(f"prompts must have 1 to {context - 1} tokens; these have {shortest} to {longest}")
    gpu = model.embedding.weight.is_cuda
    alike: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        alike[capacity_of(longest if gpu else len(prompt), max_new_tokens, context, gpu)].append(place)
    completions = [Completion() for _ in prompts]
    for capacity, places in sorted(alike.items()):
        places.sort(key=lambda place: (len(prompts[place]), prompts[place], place))
        budgets = [min(max_new_tokens, context - len(p)) for p in prompts]
        table = _Table(model, rows, capacity, budgets, seed, draws, make_rows)
        waiting = deque(places)
        while waiting or table.running:
            while waiting and len(table.running) <= rows - table.at_once:
                table.admit(waiting, prompts)
            table.write(completions, temperature, stop_id)
    return completions


class _Table:
    """Rows that completions are written in, and whose: `running` has the prompts' places by row."""

    def __init__(
        self,
        model: Decoder,
        rows: int,
        capacity: int,
        budgets: list[int],
        seed: int,
        draws: Sequence[int] | None,
        make_rows: MakeRows,
    ) -> None:
        kind = "cuda" if model.embedding.weight.is_cuda else "cpu"
        self._every, self._budgets, self._seed = LOOK_EVERY[kind], budgets, seed
        self._numbers = range(len(budgets)) if draws is None else draws
        self._rows = make_rows(model, rows, capacity, self._every, CAPTURE[kind])
        self._context, self._device = model.config.context, model.embedding.weight.device
        # Of each row its draws and what they wrote, with room for what is written while nobody looks; tokens done, and at most,
        # 0 of an idle row. Arrays: a loop over 64 rows at every token took a hundredth of the time of a laptop's model.
        room = rows, max(budgets) + self._every
        self._points_RN, self._logps_RN, self._ids_RN = np.zeros(room), np.zeros(room), np.zeros(room, np.int64)
        self._done_R, self._most_R = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self._each_R = np.arange(rows)
        self.at_once = prompts_at_once(rows)
        self.running: dict[int, int] = {}

    def admit(self, waiting: deque[int], prompts: list[list[int]]) -> None:
        """Read the prompts at the head of the queue, as many as may be read together and as there are free rows; one that
        stands there several times is read once."""
        length = whole_pieces(len(prompts[waiting[0]]), self._context)
        read: list[list[int]] = []
        taken: dict[int, int] = {}  # by the row, which of those read
        for row in self._idle():
            if not waiting or whole_pieces(len(prompts[waiting[0]]), self._context) != length:
                break
            if not read or read[-1] != prompts[waiting[0]]:
                if len(read) == self.at_once:
                    break
                read.append(prompts[waiting[0]])
            place = self.running[row] = waiting.popleft()
            taken[row] = len(read) - 1
            draws = np.random.Generator(np.random.Philox(key=[self._seed, self._numbers[place]]))
            most = self._most_R[row] = self._budgets[place]
            self._points_RN[row, :most] = draws.random(most)
        read += read[:1] * (self.at_once - len(read))
        self._rows.read(read, length, list(taken), list(taken.values()))

    def write(self, completions: list[Completion], temperature: float, stop_id: int) -> None:
        """Some tokens more in every running row; those that end with one are then free. What a row writes behind its end, while
        nobody looks, counts for nothing."""
        steps = min(self._every, int((self._most_R - self._done_R).max()))
        there_SR = self._each_R, self._done_R + np.arange(steps)[:, None]
        (points_SR,) = to_device([torch.from_numpy(self._points_RN[there_SR])], self._device)
        for step, points_R in enumerate(points_SR):
            if step:
                self._rows.advance()
            self._rows.pick(step, temperature, points_R)
        ids_SR, logps_SR = self._rows.picked(steps)
        self._ids_RN[there_SR], self._logps_RN[there_SR] = ids_SR, logps_SR
        self._done_R += steps
        ends_R = ((self._done_R >= self._most_R) | (ids_SR == stop_id).any(0)).tolist()
        for row in [row for row in self.running if ends_R[row]]:
            completions[self.running.pop(row)] = self._completion(row, stop_id)
        idle = self._idle()
        self._done_R[idle] = self._most_R[idle] = 0
        if self.running:
            self._rows.cache.lengths_B[idle] = 0  # they compute on, over as little as may be
            self._rows.advance()

    def _completion(self, row: int, stop_id: int) -> Completion:
        """What was written in a row up to its budget or the stop token."""
        ids = self._ids_RN[row, : min(self._done_R[row], self._most_R[row])].tolist()
        if stop_id in ids:
            ids = ids[: ids.index(stop_id) + 1]
        return Completion(ids, self._logps_RN[row, : len(ids)].tolist(), ids[-1] == stop_id)

    def _idle(self) -> list[int]:
        return [row for row in range(len(self._most_R)) if row not in self.running]
