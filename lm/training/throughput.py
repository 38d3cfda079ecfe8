"""How fast training goes, counted on the host alone."""

import time

import torch

from lm.exchange import ranks
from lm.model import Decoder
from lm.training.batch import Batch
from lm.training.flops import flops_per_token, peak_flops


class Throughput:
    """Tokens that count, and the FLOP the model needs for them, since it was made: not those of padding, of activations
    computed again, or of a sampler."""

    def __init__(self, model: Decoder, device: torch.device) -> None:
        self._model, self._device = model, device
        self._tokens, self._flops, self._began = 0, 0.0, time.monotonic()

    def add(self, batch: Batch) -> None:
        self._tokens += batch.tokens
        self._flops += batch.tokens * flops_per_token(self._model, batch.length)

    @property
    def tokens_per_second(self) -> float:
        return self._tokens / self._seconds

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)

    def facts(self) -> dict[str, float]:
        """tokens_per_second and flops_per_second of all ranks, peak memory of this rank's GPU, and MFU where the GPU's peak is
        known; nothing before the first batch."""
        if not self._tokens:
            return {}
        seconds = self._seconds
        found = {"tokens_per_second": self._tokens / seconds, "flops_per_second": self._flops / seconds}
        if self._device.type == "cuda":
            found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
        if peak := peak_flops(self._device):
            found["model_flops_utilization"] = found["flops_per_second"] / (peak * ranks())
        return found
