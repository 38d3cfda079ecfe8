"""How fast training goes, counted on the host alone."""

import time
from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

import torch

from lm.distributed import world_size
from lm.model import Decoder
from lm.training.batch import Batch
from lm.training.flops import flops_per_token, peak_flops

# Steps of a run, or of one that goes on, that compile: the first, and the second where it has another shape
COMPILING = 2
# Steps that the speed is of: the last so many. RL samples once in several of them.
WINDOW = 128


class StepCost(NamedTuple):
    """A step: tokens that count, the FLOP that the model needs for them, and seconds."""

    tokens: int
    flops: float
    seconds: float


class Throughput:
    """Tokens that count, and the FLOP the model needs for them, over the last steps: not those of padding, of activations
    computed again, or of a sampler; a step that an optimizer holds weights back for counts as one of all weights, one of a
    model that grows as one of the layers that take part. The time is that of the steps, from one to the next, without the
    first ones, which compile, and without what was between two steps and `skip_pause`, such as a checkpoint."""

    def __init__(self, model: Decoder, device: torch.device) -> None:
        self._model, self._device = model, device
        self._learned = [weight for weight in model.parameters() if weight.requires_grad]
        self._steps: deque[StepCost] = deque(maxlen=WINDOW)
        self._made, self._since = 0, time.monotonic()
        # a token, by length and the blocks that take part: asking every layer takes a millisecond at 24
        self._flops: dict[Hashable, float] = {}

    def add(self, batch: Batch) -> None:
        """A step has ended, which began where the one before ended, or where the pause after it did."""
        now = time.monotonic()
        if 0 < self._made <= COMPILING:
            self._steps.clear()
        depth = self._model.depth
        kind = batch.length, depth and (depth.blocks, depth.frozen)
        if kind not in self._flops:
            self._flops[kind] = self._flops_at(batch.length)
        self._steps.append(StepCost(batch.tokens, batch.tokens * self._flops[kind], now - self._since))
        self._made, self._since = self._made + 1, now

    def _flops_at(self, length: int) -> float:
        """FLOP a token with every weight that is trained, whichever an optimizer holds back for this step."""
        held_back = [weight for weight in self._learned if not weight.requires_grad]
        for weight in held_back:
            weight.requires_grad_(True)
        found = flops_per_token(self._model, length)
        for weight in held_back:
            weight.requires_grad_(False)
        return found

    def skip_pause(self) -> None:
        """What was done since the last step is no part of the next one."""
        self._since = time.monotonic()

    @property
    def tokens_per_second(self) -> float:
        return sum(step.tokens for step in self._steps) / self._seconds

    @property
    def _seconds(self) -> float:
        return max(sum(step.seconds for step in self._steps), 1e-9)

    def run_stats(self) -> dict[str, float]:
        """tokens_per_second and flops_per_second of all ranks, peak memory of this rank's GPU, and MFU where the GPU's peak is
        known; nothing before the first batch."""
        if not self._made:
            return {}
        flops_per_second = sum(step.flops for step in self._steps) / self._seconds
        found = {"tokens_per_second": self.tokens_per_second, "flops_per_second": flops_per_second}
        if self._device.type == "cuda":
            found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
        if peak := peak_flops(self._device):
            found["model_flops_utilization"] = flops_per_second / (peak * world_size())
        return found
